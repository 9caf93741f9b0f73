//! This agent's own flow table in memory, while the kernel program works on it. The rules are [`forwarder_ebpf::table`]'s, and so
//! is the order in which words are written: a place is claimed by compare and exchange, and what decides is written last.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use forwarder_ebpf::{
    Flow, Grant, Pod,
    table::{Home, Room, State, TCP_IDLE, WAYS, pod_home, rank, words},
};

/// Words of a flow.
const FLOW_WORDS: usize = size_of::<Flow>() / 8;
/// Half words of a pod.
const POD_WORDS: usize = size_of::<Pod>() / 4;
/// Where in them the grant is, the state, the time.
const GRANT: usize = offset_of!(Flow, grant) / 8;
const STATE: usize = offset_of!(Pod, state) / 4;
const SEEN: usize = offset_of!(Pod, seen) / 4;
const _: () = assert!(offset_of!(Flow, grant) % 8 == 0 && offset_of!(Pod, state) % 4 == 0);
const _: () = assert!(offset_of!(Pod, seen) % 4 == 0);

/// How often another place is looked for when a CPU was faster.
const ATTEMPTS: u32 = 8;
/// Places of a pod that are looked at; as the kernel program does.
const PROBES: u32 = 8;
/// Seconds of silence after which no flow leads to a pod any more; as there.
const POD_IDLE: i32 = TCP_IDLE + 60;

/// The words of the maps.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// Of `FLOWS`.
    pub flows: &'a [AtomicU64],
    /// Of `FLOW_STATES`.
    pub states: &'a [AtomicU32],
    /// Of `PODS`.
    pub pods: &'a [AtomicU32],
}

/// What became of a flow that was to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is there.
    Taken,
    /// It is there, instead of one that was spared more easily.
    Instead,
    /// There was one of the same ends.
    Known,
    /// There is no room for it.
    Full,
}

impl Table<'_> {
    fn buckets(&self) -> u32 {
        u32::try_from(self.states.len()).unwrap_or(u32::MAX) / WAYS
    }

    /// Where a flow lies by its roles: by the client's end, or if it is for the way back alone by that which the pod knows.
    pub(super) fn home(&self, flow: &Flow, pod: &Pod, flags: u32) -> Home {
        let known_by = Grant::from_word(flow.grant).client_port;
        let (address, port) = match (flags & State::FORWARD != 0, pod.way == Pod::TRANSLATED) {
            (true, _) => (&flow.client, flow.client_port),
            (false, true) => (&pod.own, known_by),
            (false, false) => (&flow.client, known_by),
        };
        Home::of(words(address), port, flow.protocol, self.buckets())
    }

    /// Enters a flow whose grant names a pod by its number here.
    pub fn enter(&self, flow: Flow, pod: &Pod, mut flags: u32, now: u32) -> Entered {
        let home = self.home(&flow, pod, flags);
        if flags & State::FORWARD != 0 && self.find(&home, State::FORWARD, |other| has_ends_of(other, &flow)) {
            return Entered::Known;
        }
        // Who has the replies here has begun after this flow was last heard there.
        if flags & State::REVERSE != 0 && self.find(&home, State::REVERSE, |other| has_replies_of(other, &flow, pod)) {
            flags &= !State::REVERSE;
            if flags & State::FORWARD == 0 {
                return Entered::Known;
            }
        }
        let new = State::new(&home, flags, flow.seen);
        for _ in 0..ATTEMPTS {
            let Some((word, place, old)) = self.room(&home, now) else { return Entered::Full };
            let spare = old.is_over(now);
            if !spare && rank(old, now) >= rank(new, now) {
                return Entered::Full;
            }
            if word.compare_exchange(old.0, State::BUSY, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            self.write(place, flow);
            word.store(new.0, Ordering::Release);
            return if spare { Entered::Taken } else { Entered::Instead };
        }
        Entered::Full
    }

    /// Whether a flow is there that has the role, and is the one.
    fn find(&self, home: &Home, role: u32, is_it: impl Fn(&Flow) -> bool) -> bool {
        (0..WAYS).map(|way| home.bucket * WAYS + way).any(|place| {
            let state = self.states.get(place as usize).map(|word| State(word.load(Ordering::Acquire)));
            state.is_some_and(|state| state.may_be(home, role)) && self.flow(place).is_some_and(|flow| is_it(&flow))
        })
    }

    /// The best place for a newcomer, as the kernel program finds it, however much is to be spared for it.
    fn room(&self, home: &Home, now: u32) -> Option<(&AtomicU32, u32, State)> {
        let mut room = Room::NONE;
        for turn in 0..WAYS {
            let way = (home.way + turn) % WAYS;
            let state = State(self.states.get((home.bucket * WAYS + way) as usize)?.load(Ordering::Acquire));
            room = room.or(way, state, rank(state, now));
            if room.is_ideal() {
                break;
            }
        }
        let place = home.bucket * WAYS + room.way;
        room.is_there().then_some((self.states.get(place as usize)?, place, room.state))
    }

    fn flow_words(&self, place: u32) -> Option<&[AtomicU64]> {
        let at = place as usize * FLOW_WORDS;
        self.flows.get(at..at + FLOW_WORDS)
    }

    fn flow(&self, place: u32) -> Option<Flow> {
        let mut words = [0; FLOW_WORDS];
        words.iter_mut().zip(self.flow_words(place)?).for_each(|(to, from)| *to = from.load(Ordering::Acquire));
        Some(Flow::from_words(words))
    }

    /// The grant last: until then nobody takes the flow for the new one.
    fn write(&self, place: u32, flow: Flow) {
        let Some(there) = self.flow_words(place) else { return };
        let store = |at: usize, word: u64| there.get(at).map(|to| to.store(word, Ordering::Release));
        store(GRANT, 0);
        for (at, word) in flow.words().into_iter().enumerate().filter(|(at, _)| *at != GRANT) {
            store(at, word);
        }
        store(GRANT, flow.grant);
    }

    /// The number of a pod, a new one if it has none; `None` if there is no room.
    pub fn number(&self, pod: &Pod, now: u32) -> Option<u16> {
        let pods = u32::try_from(self.pods.len() / POD_WORDS).ok().filter(|pods| pods.is_power_of_two())?;
        let home = pod_home(words(&pod.address), pod.port, pods);
        for _ in 0..ATTEMPTS {
            let mut room = None;
            for number in (0..PROBES).map(|probe| (home + probe) % pods) {
                let there = self.pod_words(number)?;
                let state = there[STATE].load(Ordering::Acquire);
                let seen = there[SEEN].load(Ordering::Relaxed);
                if state == Pod::THERE && is_pod(there, pod) {
                    if pod.seen.wrapping_sub(seen).cast_signed() > 0 {
                        there[SEEN].store(pod.seen, Ordering::Relaxed);
                    }
                    return u16::try_from(number).ok();
                }
                let spare = state == Pod::THERE && now.wrapping_sub(seen).cast_signed() > POD_IDLE;
                if room.is_none() && (state == Pod::FREE || spare) {
                    room = Some((number, there, state));
                }
                if state == Pod::FREE {
                    break;
                }
            }
            let (number, there, state) = room?;
            if there[STATE].compare_exchange(state, Pod::BUSY, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            for (at, word) in half_words(pod).enumerate().filter(|(at, _)| *at != STATE) {
                there[at].store(word, Ordering::Relaxed);
            }
            there[STATE].store(Pod::THERE, Ordering::Release);
            return u16::try_from(number).ok();
        }
        None
    }

    fn pod_words(&self, number: u32) -> Option<&[AtomicU32; POD_WORDS]> {
        let at = number as usize * POD_WORDS;
        self.pods.get(at..at + POD_WORDS)?.try_into().ok()
    }
}

/// A pod as it lies in memory.
fn half_words(pod: &Pod) -> impl Iterator<Item = u32> {
    pod.words().into_iter().flat_map(|word| [word as u32, (word >> 32) as u32])
}

/// Whether that is the same socket, translated to the same address if it is.
fn is_pod(there: &[AtomicU32; POD_WORDS], pod: &Pod) -> bool {
    let mut words = [0; POD_WORDS / 2];
    for (word, halves) in words.iter_mut().zip(there.chunks_exact(2)) {
        let [low, high] = [0, 1].map(|half: usize| u64::from(halves[half].load(Ordering::Relaxed)));
        *word = low | high << 32;
    }
    let there = Pod::from_words(words);
    (there.address, there.port, there.own) == (pod.address, pod.port, pod.own)
}

/// The guard of a flow's grant.
pub(super) fn guard(flow: &Flow) -> u32 {
    Home::of(words(&flow.client), flow.client_port, flow.protocol, 0).guard(words(&flow.vip), flow.port)
}

/// Whether both are of the same connection of a client's.
fn has_ends_of(one: &Flow, other: &Flow) -> bool {
    let ends = |flow: &Flow| (flow.client, flow.vip, flow.client_port, flow.port, flow.protocol);
    ends(one) == ends(other)
}

/// Whether the same packets of this pod are replies of both.
fn has_replies_of(one: &Flow, other: &Flow, pod: &Pod) -> bool {
    let back = |flow: &Flow| {
        let Grant { pod: number, client_port, .. } = Grant::from_word(flow.grant);
        let client = if pod.way == Pod::TRANSLATED { pod.own } else { flow.client };
        (client, flow.protocol, number, client_port)
    };
    back(one) == back(other)
}
