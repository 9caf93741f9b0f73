//! The connections of this node's pods, remembered for both directions ([`table`]: where).
//!
//! A TCP or SCTP flow stays with its pod whatever becomes of the pod's health; only a SYN, which begins a new connection,
//! looks for another pod when the old one takes none. A UDP flow has no beginning: it is new after a pause, and
//! moves when its pod is out; but QUIC's packets that say that they are of a connection stay as TCP's do.
//!
//! A flow that is over must not catch a later connection from the same port, which may live on another node: once both ends
//! have closed it takes only what no other node knows ([`late`]), and that for a while; it is known no more after long
//! silence, and forgotten when a SYN goes elsewhere. The pod's late replies are its own even then.
//!
//! A flow lies where the client's end says, and serves both ways. Only one whose client is known to the pod by another
//! port ([`ports`]), or by this node's address ([`crate::translate`]), needs a second entry for the way back, since the pod names another end.

use forwarder_ebpf::{
    Address, BackendEntry, DropReason, Flow, Grant, Pod, Tuple, UDP,
    table::{REPLY_IDLE, State},
};

use crate::{
    age::{is_forgotten, is_over, is_stale, patience, seconds, silence},
    counters::{self, Account},
    maps::{self, FLOWS, PODS},
    parse::{self, Packet},
    pods, ports,
    scratch::{self, OTHER, PACKET, REPLY, Scratch, Served},
    table::{self, Place},
};

/// Entries of the same ends that are looked for: CPUs that enter a flow at the same moment may make two.
const TWINS: u32 = 2;
/// Seconds of silence after which a SYN is no repetition of the one before: longer than hosts wait (RFC 6298).
const SYN_PAUSE: i32 = 75;

/// Where a client's packets go.
pub struct Known {
    /// The pod.
    pub pod: &'static Pod,
    /// The client's port as the pod sees it.
    pub client_port: [u8; 2],
    /// By what it is counted.
    pub account: Account,
}

/// The flow a packet belongs to, unless it begins one anew; and as what the packet is counted.
#[inline(always)]
pub fn known(packet: &Packet) -> Option<(Known, u32)> {
    let tuple = &packet.tuple;
    let home = table::home(tuple);
    // While memory is waited for, the clock is asked.
    table::fetch(&home);
    let now = seconds();
    let place = table::find(&home, tuple)?;
    let flow = place.flow();
    let silent = silence(now, flow.seen);
    if is_over(packet, &place, silent) || silent > 0 && is_shut_out(tuple) {
        return None;
    }
    let pod = PODS.get_ptr_mut(place.grant.pod as u32)?;
    let confirmed = !packet.is_datagram() && !packet.opens() && place.state.has(State::HALF_OPEN);
    let (mut closed, mut what) = (0, 0);
    if packet.marks() {
        closed = if packet.ends() { closed_by(packet, State::BY_CLIENT) } else { 0 };
        what = crier_marked(place.number, place.state.0, packet.flags as u32, silent as u32);
    }
    place.change(closed, if confirmed { State::HALF_OPEN } else { 0 }, Some(now));
    if silent > 0 || packet.opens() || confirmed {
        refresh(&place, pod, tuple, now);
    }
    // SAFETY: points into the map, which outlives the program's run.
    let pod = unsafe { &*pod };
    Some((Known { pod, client_port: place.grant.client_port, account: account(&place) }, what))
}

/// By what a flow's packets are counted.
#[inline(always)]
fn account(place: &Place) -> Account {
    let flow = place.flow();
    Account { counted: flow.counted, tag: flow.tag, place: place.number }
}

/// As what a client's packet with these flags is counted, whose flow is of this state and so long silent. One that opens it
/// anew begins to wait anew.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_marked(place: u32, state: u32, flags: u32, silent: u32) -> u32 {
    let state = State(state);
    if !parse::opens(flags as u8) {
        return reset(flags as u8, state);
    }
    if state.has(State::HALF_OPEN) && silent as i32 <= SYN_PAUSE {
        return counters::RETRANSMIT;
    }
    if let Some(flow) = FLOWS.get_ptr_mut(place) {
        counters::note_begun(flow, counters::micros());
    }
    0
}

/// Whether a packet with these flags is a reset that ends a connection.
#[inline(always)]
fn reset(flags: u8, state: State) -> u32 {
    if parse::aborts(flags) && !state.has(State::CLOSED) { counters::RESET } else { 0 }
}

/// Where the flow of these ends leads, if it lives here, to tell its pod something about it: the flow is left as it was. A pod
/// may be sending to a client that has been silent for long.
#[inline(always)]
pub fn find(tuple: &Tuple) -> Option<Known> {
    let place = table::find(&table::home(tuple), tuple)?;
    let flow = place.flow();
    let patience = if tuple.protocol == UDP { REPLY_IDLE } else { patience(place.state) };
    if silence(seconds(), flow.seen) > patience {
        return None;
    }
    leads_to(&place)
}

#[inline(always)]
fn leads_to(place: &Place) -> Option<Known> {
    let pod = maps::pod(place.grant.pod)?;
    Some(Known { pod, client_port: place.grant.client_port, account: account(place) })
}

/// The closed connection that a packet in mid-flow may be a late one of, if no other node knows a later connection from its
/// port.
#[inline(always)]
pub fn late(packet: &Packet) -> Option<Known> {
    if packet.is_datagram() || packet.opens() {
        return None;
    }
    let place = Place::at(scratch::found(scratch::get()?))?;
    if !place.state.has(State::CLOSED) || is_forgotten(&place, seconds()) {
        return None;
    }
    leads_to(&place)
}

/// Once a second, and at every SYN: notes the time, and makes sure that replies are known as this flow's. They may have
/// been given to a connection past the VIP, or to another flow, which keeps them while it lives.
#[inline(always)]
fn refresh(place: &Place, pod: *mut Pod, tuple: &Tuple, now: u32) {
    pods::touch(pod, now);
    note_seen(place.flow, now);
    if place.grant.client_port == tuple.source_port && place.state.has(State::REVERSE) {
        return;
    }
    let Some(scratch) = scratch::get() else { return };
    // SAFETY: points into the map, which outlives the program's run.
    let pod = unsafe { &*pod };
    let translated = pod.way == Pod::TRANSLATED;
    let mut reply = reversed(&pod.address, pod.port, tuple);
    reply.destination_port = place.grant.client_port;
    if translated {
        reply.destination = pod.own;
    }
    scratch::note(scratch, PACKET, tuple);
    scratch::note(scratch, REPLY, &reply);
    let back = table::crier_find(REPLY, State::REVERSE);
    if ports::crier_renew(back, now, place.flow().begun) != 0 || ports::is_taken(now) {
        return;
    }
    if place.grant.client_port == tuple.source_port && !translated {
        place.change(State::REVERSE, 0, None);
    } else {
        scratch::copy(scratch, place.flow());
        // Without room the connection is without replies; the next second tries again.
        let earlier = table::crier_find(REPLY, State::REVERSE);
        table::put(earlier, REPLY, State::REVERSE, State::REVERSE | protocol(tuple), now);
    }
}

#[inline(always)]
pub fn note_seen(flow: *mut Flow, now: u32) {
    // SAFETY: points into the map, which outlives the program's run; an aligned word inside the flow, at worst another
    // flow's time is refreshed.
    unsafe { (&raw mut (*flow).seen).write_volatile(now) };
}

/// Whether the service lets the client in no more. Looked at once a second, since its ranges seldom change: then the packet
/// goes the way of one without a flow, on which it is dropped. The flow is left as it is, so that the connection goes on
/// if its client is let in again in time.
#[inline(always)]
fn is_shut_out(tuple: &Tuple) -> bool {
    let Some(scratch) = scratch::get() else { return false };
    scratch::note(scratch, PACKET, tuple);
    crier_lets_in(PACKET) == 0
}

/// Whether the service that ends in the [`Scratch`] go to lets their client in; one that is gone turns nobody out.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_lets_in(ends: u32) -> u32 {
    let Some(scratch) = scratch::get() else { return 1 };
    let tuple = scratch::noted(scratch, ends);
    match maps::service(tuple) {
        Some(service) => maps::lets_in(service, &tuple.source) as u32,
        None => 1,
    }
}

/// What an end's packet closes: its own side, or by a reset both.
#[inline(always)]
fn closed_by(packet: &Packet, end: u32) -> u32 {
    if packet.resets() { State::CLOSED } else { end }
}

/// Forgets the flow of a connection that begins anew elsewhere, by the scratch's [`PACKET`]. What the pod still says of the old one
/// is a reply.
#[inline(always)]
pub fn forget() {
    change_all(PACKET, State::FORWARD, State::CLOSED);
}

/// Takes a role from the flow with ends in the [`Scratch`], and sets flags.
#[inline(always)]
fn change_all(ends: u32, role: u32, set: u32) {
    for _ in 0..TWINS {
        let found = table::crier_find(ends, role);
        if table::crier_change(found, set, role) == 0 {
            return;
        }
    }
}

/// Remembers that a client's packets, whose ends are the scratch's [`PACKET`], go to a pod, and what the pod's replies must look
/// like. The client's port as the pod shall see it.
#[inline(always)]
pub fn remember(packet: &Packet, hash: u64, index: u32, backend: &BackendEntry) -> Result<[u8; 2], DropReason> {
    let full = DropReason::FlowTable;
    let scratch = scratch::get().ok_or(full)?;
    let tuple = scratch::noted(scratch, PACKET);
    let (now, opened) = counters::begun(packet);
    let translated = backend.flags & BackendEntry::TRANSLATED != 0;
    let mut reply = reversed(&backend.address, backend.port, tuple);
    if translated {
        reply.destination = backend.own;
    }
    scratch::note(scratch, REPLY, &reply);
    let pod = pods::crier_number(now, translated as u32);
    if pod == pods::NONE {
        return Err(full);
    }
    // Then the pod knows nobody by the client's own port. A translated one would not know this one by it.
    if (translated || !scratch::is_alone(scratch)) && ports::crier_choose(hash, now, translated as u32) == 0 {
        return Err(if translated { DropReason::NatPort } else { DropReason::ClientPort });
    }
    let client_port = scratch::noted(scratch, REPLY).destination_port;
    let granted = Grant { pod: pod as u16, client_port, guard: 0 };
    let (tag, counted) = (backend.tag, backend.counted);
    scratch::fill(scratch, tuple, granted, Served { backend: index as u16, tag, counted, seen: now, begun: opened });
    let begun = State::HALF_OPEN | protocol(tuple) | if packet.ends() { State::BY_CLIENT } else { 0 };
    let mut roles = State::FORWARD | State::REVERSE;
    if translated || client_port != tuple.source_port {
        roles = State::FORWARD;
        let earlier = table::crier_find(REPLY, State::REVERSE);
        if !table::put(earlier, REPLY, State::REVERSE, State::REVERSE | begun, now) {
            return Err(full);
        }
    }
    let earlier = scratch::found(scratch);
    if table::put(earlier, PACKET, State::FORWARD, roles | begun, now) { Ok(client_port) } else { Err(full) }
}

/// What a packet from a pod must look as if it came from; by what it is counted, and as what.
#[inline(always)]
pub fn reply(packet: &Packet) -> Option<(&'static Flow, Account, u32)> {
    replied(packet, table::find_reply(&table::reply_home(&packet.tuple), &packet.tuple)?)
}

/// The flow of a translated backend's packet, which has come in by an uplink; or of one that an error is about, in its shape.
#[inline(always)]
pub fn returned(tuple: &Tuple) -> Option<Place> {
    let place = table::find_reply(&table::reply_home(tuple), tuple)?;
    (maps::pod(place.grant.pod)?.way == Pod::TRANSLATED).then_some(place)
}

/// Notes a pod's packet in its flow, unless that is over; see [`reply`].
#[inline(always)]
pub fn replied(packet: &Packet, place: Place) -> Option<(&'static Flow, Account, u32)> {
    let flow = place.flow();
    let mut what = 0;
    if packet.is_datagram() {
        if is_stale(flow, seconds()) {
            return None;
        }
        if place.state.has(State::HALF_OPEN) {
            crier_answered(place.number, place.state.0, 0, State::HALF_OPEN);
        }
    } else if packet.ends() {
        what = reset(packet.flags, place.state);
        crier_answered(place.number, place.state.0, closed_by(packet, State::BY_POD), 0);
    } else if packet.marks() {
        counters::crier_accepted(place.number);
    }
    Some((flow, account(&place), what))
}

/// A connection begins between a pod and a client themselves: its packets are no VIP's replies.
#[inline(always)]
pub fn forget_reply(from_pod: &Tuple) {
    let Some(scratch) = scratch::get() else { return };
    scratch::note(scratch, REPLY, from_pod);
    change_all(REPLY, State::REVERSE, 0);
}

/// The same, seen from the client.
#[inline(always)]
pub fn forget_reply_to(direct: &Tuple) {
    forget_reply(&reversed(&direct.destination, direct.destination_port, direct));
}

/// Sets and clears flags of the flow at a place with this state, by which a pod's reply goes; also where its client's packets have an
/// entry of their own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_answered(place: u32, state: u32, set: u32, clear: u32) -> u32 {
    let Some(place) = Place::at(place as u64 | (state as u64) << 32) else { return 0 };
    place.change(set, clear, None);
    if place.state.has(State::FORWARD) {
        return 1;
    }
    let Some(scratch) = scratch::get() else { return 0 };
    note_forward(scratch, &place);
    let found = table::crier_find(OTHER, State::FORWARD);
    if let Some(flow) = Place::at(found).filter(|flow| flow.grant == place.grant) {
        flow.change(set, clear, None);
    }
    1
}

/// Notes the client's end of the flow that an entry for the way back belongs to. It is still that pod's if its grant is
/// the same.
#[inline(always)]
pub fn note_forward(scratch: *mut Scratch, place: &Place) {
    let back = place.flow();
    let tuple = Tuple {
        source: back.client,
        destination: back.vip,
        source_port: back.client_port,
        destination_port: back.port,
        protocol: back.protocol,
        pad: [0; 3],
    };
    scratch::note(scratch, OTHER, &tuple);
}

/// The ends of the pod's replies to a client's packet.
#[inline(always)]
fn reversed(pod: &Address, port: [u8; 2], tuple: &Tuple) -> Tuple {
    Tuple {
        source: *pod,
        destination: tuple.source,
        source_port: port,
        destination_port: tuple.source_port,
        protocol: tuple.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn protocol(tuple: &Tuple) -> u32 {
    if tuple.protocol == UDP { 0 } else { State::TCP }
}
