//! The flow table in memory: two arrays, one of flows and one of the states of their places. The rules are in
//! [`forwarder_ebpf::table`].
//!
//! Programs run on all CPUs at once. A place is claimed by exchanging its state for [`State::BUSY`], which only one CPU
//! can, written, and given its new state. Whoever reads takes no lock: it finds a flow by its state and its ends, and
//! trusts nothing but the one word that says where to ([`Grant`]), which names the flow that it was written for. So a
//! place that is given to another flow meanwhile makes the old one unknown, for a packet, but sends none to a wrong pod.
//! Of a reply, a packet may carry the address of the wrong VIP, and is lost.

use forwarder_ebpf::{
    Eviction, Flow, FlowStates, Grant, Pod, Tuple, limits,
    table::{Home, Room, State, WAYS, Words, rank, same},
};

use crate::{
    assembly::{compare_exchange, once_more, publish},
    maps::{self, FLOW_STATES, FLOWS},
    scratch::{self, Scratch, noted},
    words,
};

/// Buckets of the flow table. The agent sets it before it loads the program, with the maps' sizes.
#[unsafe(no_mangle)]
static FLOW_BUCKETS: u32 = limits::FLOWS / WAYS;

/// How often another place is looked for when another CPU was faster.
const ATTEMPTS: u32 = 3;

/// A flow that was found.
#[derive(Clone, Copy)]
pub struct Place {
    /// Its place in the map.
    pub number: u32,
    /// The flow.
    pub flow: *mut Flow,
    /// Where it goes.
    pub grant: Grant,
    /// What was known of it when it was found.
    pub state: State,
    word: *mut u32,
}

impl Place {
    #[inline(always)]
    fn of(number: u32, bucket: *mut FlowStates, way: u32) -> Option<Self> {
        let number = number * WAYS + way;
        let (word, state) = look(bucket, way);
        let flow = FLOWS.get_ptr_mut(number)?;
        // SAFETY: points into the map, which outlives the program's run.
        let grant = Grant::from_word(unsafe { (&raw const (*flow).grant).read_volatile() });
        Some(Self { number, flow, grant, state, word })
    }

    /// What [`crier_find`] or [`crier_room`] says.
    #[inline(always)]
    pub fn at(found: u64) -> Option<Self> {
        let (number, state) = (found as u32, State((found >> 32) as u32));
        if found == NOWHERE {
            return None;
        }
        let bucket = FLOW_STATES.get_ptr_mut(number / WAYS)?;
        Some(Self { state, ..Self::of(number / WAYS, bucket, number % WAYS)? })
    }

    /// The flow. Another may take its place while it is read, whose words are then read.
    #[inline(always)]
    pub fn flow(&self) -> &'static Flow {
        // SAFETY: points into the map, which outlives the program's run.
        unsafe { &*self.flow }
    }

    /// Sets and clears flags, and notes when the client was heard, unless the flow is gone.
    #[inline(always)]
    pub fn change(&self, set: u32, clear: u32, heard: Option<u32>) {
        let new = self.state.with(set, clear);
        let new = match heard {
            Some(now) => new.heard(now),
            None => new,
        };
        if new == self.state || exchange(self.word, self.state, new) {
            return;
        }
        // Another CPU has changed the state: as a rule because it noted something of the same flow.
        // SAFETY: as above; an aligned word.
        let state = State(unsafe { self.word.read_volatile() });
        if (state.0 ^ self.state.0) & State::TAG == 0 && !state.has(State::BUSY) {
            exchange(self.word, state, state.with(set, clear));
        }
    }
}

/// Where the flows of a client's end lie.
#[inline(always)]
pub fn home(tuple: &Tuple) -> Home {
    Home::of(words::source(tuple), tuple.source_port, tuple.protocol, buckets())
}

/// Where flows lie by the end that a pod's reply goes to.
#[inline(always)]
pub fn reply_home(reply: &Tuple) -> Home {
    Home::of(words::destination(reply), reply.destination_port, reply.protocol, buckets())
}

#[inline(always)]
fn buckets() -> u32 {
    // SAFETY: a constant; volatile, since it is set after the program was built.
    unsafe { (&raw const FLOW_BUCKETS).read_volatile() }
}

/// Begins to fetch a bucket's states, and the flow that is in its home place, which is waited for only when it turns out to be there.
#[inline(always)]
pub fn fetch(home: &Home) {
    if let Some(states) = FLOW_STATES.get_ptr(home.bucket) {
        // SAFETY: points into the map, which outlives the program's run.
        unsafe { (&raw const (*states).states).cast::<u32>().read_volatile() };
    }
    if let Some(flow) = FLOWS.get_ptr(home.bucket * WAYS + home.way) {
        // SAFETY: points into the map, which outlives the program's run.
        unsafe { (&raw const (*flow).grant).read_volatile() };
    }
}

/// Whether no flow of this home lies in its bucket, in whichever role: neither a client's packets go by one, nor do replies to its port.
/// So it is with most newcomers; where it says that there may be one, [`crier_find`] tells.
#[inline(always)]
pub fn is_alone(home: &Home) -> bool {
    let Some(states) = FLOW_STATES.get_ptr(home.bucket) else { return false };
    let mut alike = 0;
    for pair in 0..WAYS / 2 {
        // SAFETY: points into the map, which outlives the program's run; on a boundary, and within the bucket.
        alike |= home.alike(unsafe { states.cast::<u64>().add(pair as usize).read_volatile() });
    }
    alike == 0
}

/// The home of such a hash.
#[inline(always)]
pub fn home_by(hash: u64) -> Home {
    Home::by(hash, buckets())
}

/// What a flow is looked for by.
pub trait Ends {
    /// [`State::FORWARD`] or [`State::REVERSE`].
    const ROLE: u32;

    /// Whether a flow has these ends.
    fn are_of(&self, flow: &Flow, grant: Grant) -> bool;
}

/// A client's packet.
pub struct Client<'a> {
    tuple: &'a Tuple,
    /// See [`Home::guard`].
    pub guard: u32,
}

impl Ends for Client<'_> {
    const ROLE: u32 = State::FORWARD;

    #[inline(always)]
    fn are_of(&self, flow: &Flow, grant: Grant) -> bool {
        grant.guard == self.guard && is_of(flow, self.tuple)
    }
}

/// A pod's packet, which goes to the port (and, if translated, to the address) by which the pod knows the client.
pub struct Reply<'a>(pub &'a Tuple);

impl Ends for Reply<'_> {
    const ROLE: u32 = State::REVERSE;

    #[inline(always)]
    fn are_of(&self, flow: &Flow, grant: Grant) -> bool {
        let reply = self.0;
        if grant.client_port != reply.destination_port || flow.protocol != reply.protocol {
            return false;
        }
        let Some(pod) = maps::pod(grant.pod) else { return false };
        let client = if pod.way == Pod::TRANSLATED { words::own(pod) } else { words::client(flow) };
        same(client, words::destination(reply))
            && pod.port == reply.source_port
            && same(words::pod(pod), words::source(reply))
    }
}

/// A client's packet, whose flow lies at the home.
#[inline(always)]
pub fn client<'a>(home: &Home, tuple: &'a Tuple) -> Client<'a> {
    Client { tuple, guard: home.guard(words::destination(tuple), tuple.destination_port) }
}

/// The flow of a client's packet.
#[inline(always)]
pub fn find(home: &Home, tuple: &Tuple) -> Option<Place> {
    search(home, &client(home, tuple))
}

/// The flow of a pod's packet.
#[inline(always)]
pub fn find_reply(home: &Home, reply: &Tuple) -> Option<Place> {
    search(home, &Reply(reply))
}

/// Whether a flow is that of a client's packet.
#[inline(always)]
pub fn is_of(flow: &Flow, tuple: &Tuple) -> bool {
    words::flow_ports(flow) == words::ports(tuple)
        && flow.protocol == tuple.protocol
        && same(words::client(flow), words::source(tuple))
        && same(words::vip(flow), words::destination(tuple))
}

#[inline(always)]
fn search<E: Ends>(home: &Home, ends: &E) -> Option<Place> {
    let bucket = FLOW_STATES.get_ptr_mut(home.bucket)?;
    let mut turn = 0;
    while turn < WAYS {
        let way = (home.way + turn) % WAYS;
        if look(bucket, way).1.may_be(home, E::ROLE) {
            let place = Place::of(home.bucket, bucket, way)?;
            if place.state.may_be(home, E::ROLE) && ends.are_of(place.flow(), place.grant) {
                return Some(place);
            }
        }
        turn = once_more(turn);
    }
    None
}

/// The flow that has these ends, which lie in the [`Scratch`]: the place's number, and its state in the upper half; or
/// all ones. A function of its own, which the verifier goes through once: for all ways but the busiest.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_find(ends: u32, role: u32) -> u64 {
    let Some(scratch) = scratch::get() else { return NOWHERE };
    let tuple = noted(scratch, ends);
    let place = match role {
        State::FORWARD => find(&home(tuple), tuple),
        _ => find_reply(&reply_home(tuple), tuple),
    };
    match place {
        Some(place) => place.number as u64 | (place.state.0 as u64) << 32,
        None => NOWHERE,
    }
}

/// No place.
pub const NOWHERE: u64 = u64::MAX;

/// Where there is room for a newcomer with ends in the [`Scratch`]: as [`crier_find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_room(ends: u32, role: u32, now: u32) -> u64 {
    let Some(scratch) = scratch::get() else { return NOWHERE };
    let Home { bucket, way: home, .. } = noted_home(scratch, ends, role);
    let Some(states) = FLOW_STATES.get_ptr_mut(bucket) else { return NOWHERE };
    let mut room = Room::NONE;
    let mut turn = 0;
    while turn < WAYS && !room.is_ideal() {
        let way = (home + turn) % WAYS;
        let state = look(states, way).1;
        // The best there is, as most are while the table is not full.
        if state == State::FREE {
            return (bucket * WAYS + way) as u64;
        }
        room = room.or(way, state, crier_rank(state.0, now));
        turn = once_more(turn);
    }
    if room.is_there() { (bucket * WAYS + room.way) as u64 | (room.state.0 as u64) << 32 } else { NOWHERE }
}

/// [`rank`], as a function of its own: so the verifier, which goes through the loop around it turn by turn, sees a number, and not each
/// way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_rank(state: u32, now: u32) -> u32 {
    rank(State(state), now)
}

/// Puts the flow in the [`Scratch`] into the table, in the place of an earlier one with the same ends, or of one that is
/// easily spared. The earlier one was found there. Whether there was room.
#[inline(always)]
pub fn put(mut earlier: u64, ends: u32, role: u32, flags: u32, now: u32) -> bool {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let place = if earlier == NOWHERE { crier_room(ends, role, now) } else { earlier };
        if place == NOWHERE {
            return false;
        }
        let newcomer = if earlier == NOWHERE { NEWCOMER } else { 0 };
        if crier_write(place, ends, role | newcomer, flags, now) != 0 {
            return true;
        }
        earlier = crier_find(ends, role);
        attempt = once_more(attempt);
    }
    false
}

/// Beside a role: whoever has the place is another, whose loss is counted.
const NEWCOMER: u32 = 1 << 31;

/// Writes the flow in the [`Scratch`] to a place ([`crier_find`]), unless that has changed meanwhile: then 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_write(place: u64, ends: u32, role: u32, flags: u32, now: u32) -> u32 {
    let (Some(place), Some(scratch)) = (Place::at(place), scratch::get()) else { return 0 };
    if !exchange(place.word, place.state, State(State::BUSY)) {
        return 0;
    }
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    write(place.flow, unsafe { &(*scratch).flow });
    let home = noted_home(scratch, ends, role & !NEWCOMER);
    publish(place.word, State::new(&home, flags, now).0);
    if role & NEWCOMER != 0
        && let Some(lost) = Eviction::of(place.state.standing(now))
    {
        maps::count_event(lost as u32);
    }
    1
}

/// Sets and clears flags of the flow at a place ([`crier_find`]): [`Place::change`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_change(place: u64, set: u32, clear: u32) -> u32 {
    match Place::at(place) {
        Some(place) => place.change(set, clear, None),
        None => return 0,
    }
    1
}

/// Where flows of noted ends lie; of a client's the home is noted, too.
#[inline(always)]
fn noted_home(scratch: *mut Scratch, ends: u32, role: u32) -> Home {
    if role == State::FORWARD { scratch::home(scratch) } else { reply_home(noted(scratch, ends)) }
}

#[inline(always)]
fn look(bucket: *mut FlowStates, way: u32) -> (*mut u32, State) {
    // SAFETY: points into the map, which outlives the program's run; the way is below their number.
    unsafe {
        let word = (&raw mut (*bucket).states).cast::<u32>().add((way % WAYS) as usize);
        (word, State(word.read_volatile()))
    }
}

/// The grant last: until then nobody takes the flow for the new one.
#[inline(always)]
fn write(flow: *mut Flow, new: &Flow) {
    // SAFETY: points into the map, which outlives the program's run; claimed by this CPU.
    unsafe {
        (&raw mut (*flow).grant).write_volatile(0);
        (&raw mut (*flow).client).cast::<Words>().write(words::client(new));
        (&raw mut (*flow).vip).cast::<Words>().write(words::vip(new));
        (&raw mut (*flow).client_port).cast::<u32>().write(words::flow_ports(new));
        (&raw mut (*flow).protocol).write(new.protocol);
        (&raw mut (*flow).backend).write(new.backend);
        (&raw mut (*flow).tag).write(new.tag);
        (&raw mut (*flow).counted).write(new.counted);
        (&raw mut (*flow).seen).write_volatile(new.seen);
        (&raw mut (*flow).begun).write_volatile(new.begun);
        (&raw mut (*flow).grant).write_volatile(new.grant);
    }
}

/// Puts a state in the place of another, if that is still there.
#[inline(always)]
pub fn exchange(word: *mut u32, old: State, new: State) -> bool {
    compare_exchange(word, old.0, new.0)
}
