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
const ATTEMPTS: u32 = 4;

/// Puts into `key`, the ends of the replies to a client's packet, a port by which the pod knows no other connection
/// of the client's.
#[inline(always)]
pub fn choose(key: &mut Tuple, packet: &Tuple, hash: u32, now: u32) -> Result<(), DropReason> {
    if !is_taken(key, packet, now) {
        return Ok(());
    }
    for attempt in 0..ATTEMPTS {
        key.destination_port = steer::substitute_port(hash, attempt);
        if !is_taken(key, packet, now) {
            return Ok(());
        }
    }
    Err(DropReason::ClientPort)
}

/// Whether replies with these ends are those of another connection, which still lives, or may for the pod.
#[inline(always)]
pub fn is_taken(key: &Tuple, packet: &Tuple, now: u32) -> bool {
    // SAFETY: points into the map, which outlives the program's run; an element that is reused meanwhile gives a
    // port too many or, as if the connections had begun at the same moment, one too few.
    let Some(reply) = (unsafe { REPLIES.get(key) }) else { return false };
    if flow::is_to(reply, packet) {
        return false;
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
    let Some(flow) = (unsafe { FLOWS.get(&other) }) else { return false };
    let same = flow.client_port == key.destination_port && flow.port == key.source_port && flow.address == key.source;
    same && flow::lingers(flow, packet.protocol == TCP, now)
}
