//! By which port a pod knows a client.
//!
//! By the client's own, as a rule. But a client may use one port for several connections, as long as they go to
//! different VIPs or ports of theirs; and if they end up at the same socket of the same pod, they would be one to it:
//! the later would break the earlier. So the later is given another port, as any other translator of addresses would
//! do. The pod sees the client's address in any case. Not with SCTP, whose checksum would have to be made anew of the whole packet:
//! there the later is dropped.
//!
//! A translated backend ([`crate::translate`]) sees this node's address instead, and knows a client by a port alone: by one of a
//! range that nobody else on this node uses.

use forwarder_ebpf::{SCTP, UDP, limits, steer, table::State};

use crate::{
    age, assembly, counters, flow,
    scratch::{self, OTHER, PACKET, REPLY, Scratch},
    table::{self, NOWHERE, Place},
};

/// Other ports that are tried.
const ATTEMPTS: u32 = 8;
/// Ports that are tried for a translated backend: with nine of ten taken, one connection of thirty finds none.
const NAT_ATTEMPTS: u32 = 32;

/// The ports by which translated backends know clients: the first, and how many. The agent sets them before it loads the program.
#[unsafe(no_mangle)]
static NAT_FIRST: u32 = limits::NAT_FIRST as u32;
#[unsafe(no_mangle)]
static NAT_PORTS: u32 = limits::NAT_PORTS as u32;

/// Whose a port is: nobody's that matters; the same connection's; one's of which both ends have closed, so that the pod
/// may still know it, and as a rule takes a new one in its place; one's that lives; or that follows from another flow,
/// whose client's end is then noted as [`OTHER`].
const FREE: u32 = 0;
const OURS: u32 = 1;
const CLOSED: u32 = 2;
const LIVE: u32 = 3;
const ASK: u32 = 4;

/// Puts into the scratch's [`REPLY`], the ends of the replies to its [`PACKET`], a port by which the pod knows no other
/// connection of the client's; at the worst one that is closed. Who has had the replies there has them no more. Whether
/// there is such a port (1). For a `translated` backend (1) it is one of the range. A function of its own, which the verifier goes
/// through once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_choose(hash: u64, now: u32, translated: u32) -> u32 {
    let translated = translated != 0;
    let Some(scratch) = scratch::get() else { return 0 };
    let attempts = match (scratch::noted(scratch, PACKET).protocol == SCTP, translated) {
        (false, false) => ATTEMPTS + 1,
        (false, true) => NAT_ATTEMPTS,
        (true, false) => 1,
        (true, true) => 0,
    };
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    let (tries, closed) = unsafe { (&raw mut (*scratch).attempts, &raw mut (*scratch).closed) };
    // SAFETY: as above; aligned words.
    unsafe {
        (&raw mut (*scratch).hash).write_volatile(hash);
        tries.write_volatile(attempts);
        closed.write_volatile(0);
    }
    let mut attempt = 0;
    // SAFETY: as above.
    while attempt < NAT_ATTEMPTS && attempt < unsafe { tries.read_volatile() } {
        set_port(scratch, candidate(scratch, attempt, translated));
        let found = table::crier_find(REPLY, State::REVERSE);
        match judge(found, now) {
            OURS => return 1,
            FREE => {
                table::crier_change(found, 0, State::REVERSE);
                return 1;
            }
            // SAFETY: as above.
            CLOSED => unsafe { closed.write_volatile(attempt + 1) },
            _ => {}
        }
        attempt = assembly::once_more(attempt);
    }
    // SAFETY: as above.
    let closed = unsafe { closed.read_volatile() };
    if closed == 0 {
        return 0;
    }
    set_port(scratch, candidate(scratch, closed - 1, translated));
    table::crier_change(table::crier_find(REPLY, State::REVERSE), 0, State::REVERSE);
    1
}

#[inline(always)]
fn candidate(scratch: *mut Scratch, attempt: u32, translated: bool) -> [u8; 2] {
    // SAFETY: as above; an aligned word.
    let hash = unsafe { (&raw const (*scratch).hash).read_volatile() };
    if translated {
        let (first, ports) = range();
        steer::translated_port(hash, attempt, first, ports)
    } else if attempt == 0 {
        scratch::noted(scratch, PACKET).source_port
    } else {
        steer::substitute_port(hash, attempt)
    }
}

#[inline(always)]
fn range() -> (u32, u32) {
    // SAFETY: constants; volatile, since they are set after the program was built.
    unsafe { ((&raw const NAT_FIRST).read_volatile(), (&raw const NAT_PORTS).read_volatile()) }
}

#[inline(always)]
fn set_port(scratch: *mut Scratch, port: [u8; 2]) {
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    unsafe { (&raw mut (*scratch).ends[REPLY as usize].destination_port).write(port) };
}

/// Whether the scratch's [`REPLY`] is that of a connection which lives, and is not that of its [`PACKET`].
#[inline(always)]
pub fn is_taken(now: u32) -> bool {
    judge(table::crier_find(REPLY, State::REVERSE), now) == LIVE
}

/// Whose the scratch's [`REPLY`] is, to which this place belongs.
#[inline(always)]
fn judge(found: u64, now: u32) -> u32 {
    let judged = crier_judge(found, NOWHERE, now);
    if judged != ASK {
        return judged;
    }
    let forward = table::crier_find(OTHER, State::FORWARD);
    if forward == NOWHERE { FREE } else { crier_judge(found, forward, now) }
}

/// See [`judge`]. `forward` is the flow that the entry belongs to, if that was asked for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_judge(found: u64, forward: u64, now: u32) -> u32 {
    let (Some(place), Some(scratch)) = (Place::at(found), scratch::get()) else { return FREE };
    let packet = scratch::noted(scratch, PACKET);
    let whole = place.state.has(State::FORWARD);
    if table::is_of(place.flow(), packet) {
        return if whole { OURS } else { FREE };
    }
    if packet.protocol == UDP {
        // Also while the pod alone speaks.
        return if age::is_stale(place.flow(), now) { FREE } else { LIVE };
    }
    let mut flow = place;
    if !whole {
        let Some(other) = Place::at(forward) else {
            flow::note_forward(scratch, &place);
            return ASK;
        };
        if other.grant != place.grant {
            return FREE;
        }
        flow = other;
    }
    if age::is_forgotten(&flow, now) {
        FREE
    } else if flow.state.has(State::CLOSED) {
        CLOSED
    } else {
        LIVE
    }
}

/// Notes that the client of the scratch's [`PACKET`] was heard, and when it began to connect, in the entry that it has for the way back
/// alone; 0 if it has none at this place ([`table::crier_find`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_renew(found: u64, now: u32, begun: u32) -> u32 {
    let (Some(back), Some(scratch)) = (Place::at(found), scratch::get()) else { return 0 };
    if back.state.has(State::FORWARD) || !table::is_of(back.flow(), scratch::noted(scratch, PACKET)) {
        return 0;
    }
    flow::note_seen(back.flow, now);
    counters::note_begun(back.flow, begun);
    // A datagram's flow is half-open until the pod answers.
    back.change(0, if back.state.has(State::TCP) { State::HALF_OPEN } else { 0 }, Some(now));
    1
}
