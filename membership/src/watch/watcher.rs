//! One node's part in the watch, as a pure state machine.
//!
//! In: [`Watcher::set_plan`], [`Watcher::handle_datagram`] with the time of arrival, [`Watcher::handle_timeout`]. Out:
//! [`Watcher::poll_transmit`], [`Watcher::poll_timeout`], [`Watcher::poll_report`]. Datagrams that wait are to be fed
//! before time is let pass.
//!
//! - **Beats** go out by an absolute schedule. A *ping* of anybody in the neighbourhood is answered with a beat at once, and
//!   who is half an interval late is pinged: that makes up for a lost beat, and for views that differ for a moment, when
//!   a node does not yet know all of its watchers.
//! - **Overdue** is who was not heard for `misses` intervals (the longer of the two nodes') and a tenth. It is shown as
//!   suspect, and its other watchers are asked. Nobody heard it for more than `misses - 1` intervals: it is down.
//!   Somebody hears it: it is not, and stays suspect for as long as this node does not (a fault in one direction).
//! - **Voters** are the other watchers that are not overdue here themselves. One that does not answer, or cannot say, is
//!   waited for through one interval. With no voters this node decides alone, at once: in a cluster of two; when all other
//!   watchers died with the node; and when this node is itself cut off. In that last case all verdicts come together
//!   when the last neighbour is overdue, so that it knows at once that it is in a minority.
//! - **Deaf** is who hears nobody: it says so, and is believed; see `deaf`.
//! - **Held up** is a watcher that is woken an interval late or more: its machine was busy, or stood still. It
//!   cannot tell which, so it pings everybody and suspects nobody until there was time for an answer. Arrival times are
//!   the kernel's, so what waited in the socket meanwhile counts from when it came.

mod deaf;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use self::deaf::Deafness;
use super::{
    Contact, Plan, Report, Sight, Timing,
    budget::Budget,
    earliest,
    signal::{Signal, micros},
    target::{Opinion, Target},
};
use crate::{
    KeyRing,
    header::{Header, WATCH_VERSION},
    replay::Window,
    seal::{NONCE_LEN, Nonces, TAG_LEN},
    stats::{RejectReason, WatchStats},
};

/// The longest datagram that is looked at.
pub const SIGNAL_DATAGRAM_MAX: usize = 160;
/// A gossip that gave no sign of life for so long is stuck: its node must not pass for alive.
const STUCK: Duration = Duration::from_secs(5);
/// Senders of whom something is kept: about 200 bytes each.
const MAX_HEARD: usize = 4096;
/// The buried of whom others may ask yet.
const MAX_BURIED: usize = 64;

/// What is kept of a sender.
struct Heard {
    session: u64,
    /// Which of its counters were seen.
    window: Window,
    /// Where it was heard last.
    address: IpAddr,
}

/// See the module's documentation.
pub struct Watcher {
    timing: Timing,
    keys: KeyRing,
    nonces: Nonces,
    plan: Plan,
    counter: u64,
    heard: BTreeMap<u64, Heard>,
    budget: Budget,
    targets: BTreeMap<u64, Target>,
    /// Those found down that are watched no more: the session and when they were last heard.
    buried: BTreeMap<u64, (u64, Instant)>,
    next_beat: Instant,
    deafness: Deafness,
    /// When this node meant to be woken, at the latest.
    expected: Option<Instant>,
    /// When the gossip last showed that it works.
    gossip_works: Instant,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    report_is_new: bool,
    stats: WatchStats,
}

impl Watcher {
    /// `phase` spreads the beats of different nodes over the interval.
    pub fn new(timing: Timing, keys: KeyRing, nonces: Nonces, phase: Duration, now: Instant) -> Self {
        Self {
            timing,
            keys,
            nonces,
            plan: Plan::default(),
            counter: 0,
            heard: BTreeMap::new(),
            budget: Budget::new(now),
            targets: BTreeMap::new(),
            buried: BTreeMap::new(),
            next_beat: now + phase,
            deafness: Deafness::new(now),
            expected: None,
            gossip_works: now,
            out: VecDeque::new(),
            report_is_new: false,
            stats: WatchStats::default(),
        }
    }

    /// The gossip works.
    pub fn note_gossip(&mut self, now: Instant) {
        self.gossip_works = now;
    }

    /// Replaces the keys.
    pub fn set_keys(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// Replaces the plan. Who is new in it has a full deadline from now, and is pinged first.
    pub fn set_plan(&mut self, plan: Plan, now: Instant) {
        self.observe(now);
        if plan == self.plan {
            return self.work(now);
        }
        let watched = |id: u64| plan.contacts.get(&id).filter(|_| plan.watched.contains_key(&id));
        for (id, target) in &self.targets {
            if target.sight == Sight::Silent && watched(*id).is_none() {
                self.buried.insert(*id, (target.session, target.last));
            }
        }
        self.targets.retain(|id, target| watched(*id).is_some_and(|contact| contact.session == target.session));
        for id in plan.watched.keys() {
            let Some(contact) = plan.contacts.get(id) else { continue };
            self.buried.remove(id);
            self.targets.entry(*id).or_insert_with(|| Target::new(contact.session, self.timing, now));
        }
        while self.buried.len() > MAX_BURIED {
            let oldest = self.buried.iter().min_by_key(|(_, (_, last))| *last).map(|(id, _)| *id);
            oldest.and_then(|id| self.buried.remove(&id));
        }
        self.plan = plan;
        self.report_is_new = true;
        self.work(now);
    }

    /// Takes in a datagram that arrived at `arrival`, which is not after `now`.
    pub fn handle_datagram(&mut self, datagram: &[u8], from: SocketAddr, arrival: Instant, now: Instant) {
        self.observe(now);
        self.stats.bytes_in += datagram.len() as u64;
        match self.open(datagram, from.ip(), now) {
            Ok((sender, signal)) => self.handle_signal(sender, signal, from, arrival, now),
            Err(reason) => {
                tracing::trace!(%from, reason = reason.label(), "watch datagram rejected");
                *self.stats.rejected.entry(reason).or_default() += 1;
            }
        }
        // What was late until now has been noted.
        self.expected = self.poll_timeout().map(|due| due.max(now));
    }

    /// Lets time pass: to be called when [`Self::poll_timeout`] says so; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.observe(now);
        self.work(now);
    }

    /// The next datagram to send, and where to.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (to, datagram) = self.out.pop_front()?;
        self.stats.bytes_out += datagram.len() as u64;
        Some((to, datagram))
    }

    /// When [`Self::handle_timeout`] must be called; `None`: not before the next event.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let beat = (!self.plan.watchers.is_empty()).then_some(self.next_beat);
        earliest(self.targets.values().filter_map(Target::poll_timeout).chain(beat))
    }

    /// What is seen of those watched, if that changed.
    pub fn poll_report(&mut self) -> Option<Report> {
        if !std::mem::take(&mut self.report_is_new) {
            return None;
        }
        let generation = |id: &u64| self.plan.contacts.get(id).map_or(0, |contact| contact.generation);
        let sights = self.targets.iter().map(|(id, target)| (*id, (generation(id), target.sight))).collect();
        Some(Report { sights, deaf: self.deafness.is_deaf() })
    }

    /// The counters.
    pub fn stats(&self) -> &WatchStats {
        &self.stats
    }

    /// Notices that this node was held up. Before anything is made of an event.
    fn observe(&mut self, now: Instant) {
        let Some(expected) = self.expected.take() else { return };
        let held = now.saturating_duration_since(expected);
        if held < self.timing.interval {
            return;
        }
        self.stats.holdups += 1;
        self.stats.held_up += held;
        for target in self.targets.values_mut() {
            target.excuse(held, now);
        }
    }

    /// Does what is due.
    fn work(&mut self, now: Instant) {
        self.beat(now);
        self.ping(now);
        let overdue: Vec<u64> =
            self.targets.iter().filter(|(_, target)| target.is_overdue(now)).map(|(id, _)| *id).collect();
        for id in overdue {
            self.judge(id, now);
        }
        self.expected = self.poll_timeout();
    }

    fn beat(&mut self, now: Instant) {
        if now < self.next_beat {
            return;
        }
        self.next_beat += self.timing.interval;
        if self.next_beat <= now {
            self.next_beat = now + self.timing.interval;
        }
        if now.saturating_duration_since(self.gossip_works) >= STUCK {
            return;
        }
        let watchers = self.plan.watchers.iter().filter_map(|id| self.plan.contacts.get(id)).copied();
        for contact in watchers.collect::<Vec<_>>() {
            self.send_beat(contact);
        }
    }

    fn ping(&mut self, now: Instant) {
        let interval_us = micros(self.timing.interval);
        let mut late = Vec::new();
        for (id, target) in &mut self.targets {
            let pings = target.pings_due(now);
            let contact = self.plan.contacts.get(id).copied();
            late.extend(contact.into_iter().cycle().take(pings as usize));
        }
        for contact in late {
            self.stats.pings_out += 1;
            self.send(contact, Signal::Ping { interval_us });
        }
    }

    /// Makes up this node's mind about one who is overdue, and asks who has a say.
    fn judge(&mut self, id: u64, now: Instant) {
        let voters = self.voters(id, now);
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.sight == Sight::Silent {
            return;
        }
        let session = target.session;
        if target.suspect(now) {
            self.stats.suspicions += 1;
            self.report_is_new = true;
        }
        match target.opinion(&voters, now) {
            Opinion::Down => {
                target.bury();
                self.stats.verdicts.observe(now.saturating_duration_since(target.last));
                self.report_is_new = true;
                return self.own_up(now);
            }
            Opinion::Heard { first } => self.stats.false_alarms += u64::from(first),
            Opinion::Open => {}
        }
        if !target.ask_due(now) {
            return;
        }
        let asked: Vec<u64> = voters.into_iter().filter(|voter| !target.has_answer_of(*voter)).collect();
        for voter in asked {
            if let Some(contact) = self.plan.contacts.get(&voter).copied() {
                self.stats.questions_out += 1;
                self.send(contact, Signal::Ask { about: id, session });
            }
        }
    }

    /// The other watchers that can be asked and are not overdue here themselves.
    fn voters(&self, id: u64, now: Instant) -> BTreeSet<u64> {
        let others = self.plan.watched.get(&id).into_iter().flatten();
        let sound = |voter: &&u64| {
            let known = self.plan.contacts.contains_key(*voter);
            known && self.targets.get(*voter).is_none_or(|target| !target.is_overdue(now))
        };
        others.filter(sound).copied().collect()
    }

    fn handle_signal(&mut self, sender: u64, signal: Signal, from: SocketAddr, arrival: Instant, now: Instant) {
        let Some(contact) = self.plan.contacts.get(&sender).copied() else { return };
        self.report_is_new |= self.deafness.hear(arrival);
        let interval = match signal {
            Signal::Deaf { silent_us } => {
                let silent = Duration::from_micros(silent_us.into());
                return self.take_at_its_word(sender, silent, arrival, now);
            }
            Signal::Beat { interval_us } | Signal::Ping { interval_us } => {
                Some(Duration::from_micros(interval_us.into()))
            }
            Signal::Ask { .. } | Signal::Answer { .. } => None,
        };
        if let Some(target) = self.targets.get_mut(&sender) {
            let before = target.sight;
            if target.hear(arrival, interval, self.timing) {
                self.stats.false_alarms += 1;
            }
            self.report_is_new |= before != target.sight;
        }
        match signal {
            Signal::Beat { .. } => self.stats.beats_in += 1,
            Signal::Ping { .. } => {
                self.stats.pings_in += 1;
                if now.saturating_duration_since(self.gossip_works) < STUCK {
                    self.send_beat(Contact { address: from, ..contact });
                }
            }
            Signal::Ask { about, session } => {
                let silent_us = self.silence_of(about, session, now).map(micros);
                self.send(Contact { address: from, ..contact }, Signal::Answer { about, session, silent_us });
            }
            Signal::Answer { about, session, silent_us } => {
                let silent = silent_us.map(|us| Duration::from_micros(us.into()));
                if let Some(target) = self.targets.get_mut(&about).filter(|target| target.session == session) {
                    target.note_answer(sender, silent);
                    self.judge(about, now);
                }
            }
            Signal::Deaf { .. } => {}
        }
    }

    fn silence_of(&self, id: u64, session: u64, now: Instant) -> Option<Duration> {
        if let Some(target) = self.targets.get(&id).filter(|target| target.session == session) {
            return target.silence(now);
        }
        let (_, last) = self.buried.get(&id).filter(|(buried, _)| *buried == session)?;
        Some(now.saturating_duration_since(*last))
    }

    /// Opens a datagram: the sender, and what it says. What can be told from the clear header comes first, for it costs
    /// next to nothing; see [`super::budget`] for the rest.
    fn open(&mut self, datagram: &[u8], from: IpAddr, now: Instant) -> Result<(u64, Signal), RejectReason> {
        if datagram.len() > SIGNAL_DATAGRAM_MAX {
            return Err(RejectReason::Malformed);
        }
        let (header, head, sealed) = Header::decode(WATCH_VERSION, datagram)?;
        if sealed.len() < NONCE_LEN + TAG_LEN {
            return Err(RejectReason::Malformed);
        }
        let at_home = self.check(&header, from)?;
        if !at_home && self.budget.is_spent(now) {
            if self.budget.line_is_due(now) {
                tracing::warn!(%from, "many datagrams pass for a member's beats and do not open: those from addresses \
                    that are no member's are dropped unopened");
            }
            return Err(RejectReason::Throttled);
        }
        let Some(bytes) = self.keys.open(head, sealed) else {
            if !at_home {
                self.budget.note_failure();
            }
            return Err(RejectReason::WrongKey);
        };
        let signal = Signal::decode(&bytes).ok_or(RejectReason::Malformed)?;
        self.admit(&header, from)?;
        Ok((header.sender, signal))
    }

    /// What the clear header tells, before any key is tried. Whether the datagram comes from its sender's address.
    fn check(&self, header: &Header, from: IpAddr) -> Result<bool, RejectReason> {
        let (me, _, session) = self.plan.me;
        if header.sender == me {
            return Err(RejectReason::OwnName);
        }
        // Before the first plan, and of who is far away on the ring, nothing is known.
        let Some(contact) = self.plan.contacts.get(&header.sender) else { return Err(RejectReason::WrongSession) };
        if header.recipient != session || header.session != contact.session {
            return Err(RejectReason::WrongSession);
        }
        let heard = self.heard.get(&header.sender).filter(|heard| heard.session == header.session);
        if heard.is_some_and(|heard| !heard.window.would_accept(header.counter)) {
            return Err(RejectReason::Replay);
        }
        Ok(from == contact.address.ip() || heard.is_some_and(|heard| heard.address == from))
    }

    /// Lets each counter of a life pass once.
    fn admit(&mut self, header: &Header, from: IpAddr) -> Result<(), RejectReason> {
        if let Some(heard) = self.heard.get_mut(&header.sender)
            && heard.session == header.session
        {
            heard.address = from;
            return if heard.window.accept(header.counter) { Ok(()) } else { Err(RejectReason::Replay) };
        }
        if self.heard.len() >= MAX_HEARD {
            // A life that is no contact is not listened to, so its window may go; should it be one again, what it said
            // before could be repeated once.
            let contacts = &self.plan.contacts;
            self.heard.retain(|id, _| contacts.contains_key(id));
        }
        let window = Window::starting_with(header.counter);
        self.heard.insert(header.sender, Heard { session: header.session, window, address: from });
        Ok(())
    }

    fn send_beat(&mut self, to: Contact) {
        self.stats.beats_out += 1;
        self.send(to, Signal::Beat { interval_us: micros(self.timing.interval) });
    }

    fn send(&mut self, to: Contact, signal: Signal) {
        let (sender, generation, session) = self.plan.me;
        self.counter += 1;
        let header = Header { sender, generation, session, recipient: to.session, counter: self.counter };
        let nonce: [u8; NONCE_LEN] = self.nonces.next();
        let mut datagram = header.encode(WATCH_VERSION);
        self.keys.seal(nonce, &mut datagram, &signal.encode());
        self.out.push_back((to.address, datagram));
    }
}
