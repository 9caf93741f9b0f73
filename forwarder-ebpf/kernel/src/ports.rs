//! By which port a pod knows a client.
//!
//! By the client's own, as a rule. But a client may use one port for several connections, as long as they go to
//! different VIPs or ports of theirs; and if they end up at the same socket of the same pod, they would be one to it:
//! the later would break the earlier. So the later is given another port, as any other translator of addresses would
//! do. The pod sees the client's address in any case.

use forwarder_ebpf::{DropReason, TCP, Tuple, steer};

use crate::{
    flow,
    maps::{FLOWS, REPLIES},
};

/// Other ports that are tried.
const ATTEMPTS: u32 = 8;

/// Whether a port is another connection's to the same pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Free,
    /// Both its ends have closed; the pod may still know it, and as a rule takes a new one in its place.
    Closed,
    Live,
}

/// Puts into `key`, the ends of the replies to a client's packet, a port by which the pod knows no other connection
/// of the client's; at the worst one that is closed.
#[inline(always)]
pub fn choose(key: &mut Tuple, packet: &Tuple, hash: u64, now: u32) -> Result<(), DropReason> {
    let mut closed = None;
    for attempt in 0..ATTEMPTS + 1 {
        if attempt > 0 {
            key.destination_port = steer::substitute_port(hash, attempt);
        }
        match look(key, packet, now) {
            Port::Free => return Ok(()),
            Port::Closed => closed = Some(key.destination_port),
            Port::Live => {}
        }
    }
    key.destination_port = closed.ok_or(DropReason::ClientPort)?;
    Ok(())
}

/// Whether replies with these ends are those of another connection, which lives.
#[inline(always)]
pub fn is_taken(key: &Tuple, packet: &Tuple, now: u32) -> bool {
    look(key, packet, now) == Port::Live
}

#[inline(always)]
fn look(key: &Tuple, packet: &Tuple, now: u32) -> Port {
    // SAFETY: points into the map, which outlives the program's run; an element that is reused meanwhile gives a
    // port too many or, as if the connections had begun at the same moment, one too few.
    let Some(reply) = (unsafe { REPLIES.get(key) }) else { return Port::Free };
    if flow::is_to(reply, packet) {
        return Port::Free;
    }
    if packet.protocol != TCP {
        // Also while the pod alone speaks.
        return if flow::is_stale(reply, now) { Port::Free } else { Port::Live };
    }
    let other = Tuple {
        source: packet.source,
        destination: reply.vip,
        source_port: reply.client_port,
        destination_port: reply.port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    // SAFETY: as above.
    let Some(flow) = (unsafe { FLOWS.get(&other) }) else { return Port::Free };
    let same = flow.client_port == key.destination_port && flow.port == key.source_port && flow.address == key.source;
    if !same || flow::is_forgotten(flow, now) {
        Port::Free
    } else if flow.closed == [1, 1] {
        Port::Closed
    } else {
        Port::Live
    }
}
