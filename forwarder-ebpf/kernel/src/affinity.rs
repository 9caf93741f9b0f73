//! `sessionAffinity: ClientIP`: a client that comes again within the service's time gets the pod it had.
//!
//! All of a client's connections have one slot, so they come to one node, and by its local table to one pod, without anything
//! being remembered. What is remembered is for changes: when tables move, the pod's node keeps its clients until their
//! time is over or the pod is out, and is found as a connection's is ([`crate::steer`]).

use forwarder_ebpf::{Affinity, AffinityKey, BackendEntry, ServiceEntry};

use crate::{
    flow,
    maps::{self, AFFINITIES},
    parse::Packet,
};

/// The pod of this node that a client who begins a connection had before, if it takes new ones.
#[inline(always)]
pub fn pod(packet: &Packet, service: &ServiceEntry) -> Option<(u32, &'static BackendEntry)> {
    if service.affinity == 0 || packet.continues() {
        return None;
    }
    let stored = AFFINITIES.get_ptr_mut(&key(packet, service))?;
    // SAFETY: points into the map, which outlives the program's run; an element reused meanwhile gives another client's words: its
    // pod is one of the same or another service, which the tag tells.
    let known = unsafe { *stored };
    let now = flow::seconds();
    if now.wrapping_sub(known.seen) as i32 > service.affinity as i32 {
        return None;
    }
    let backend = maps::backend(known.backend).filter(|backend| backend.tag == known.tag)?;
    // SAFETY: as above; an aligned word.
    unsafe { (&raw mut (*stored).seen).write_volatile(now) };
    Some((known.backend, backend))
}

/// Remembers the pod that a client got.
#[inline(always)]
pub fn remember(packet: &Packet, service: &ServiceEntry, index: u32, backend: &BackendEntry) {
    if service.affinity == 0 || packet.continues() {
        return;
    }
    let affinity = Affinity { backend: index, tag: backend.tag, seen: flow::seconds() };
    // Without room the client stays with its pod as long as the tables stay as they are.
    let _ = AFFINITIES.insert(key(packet, service), affinity, 0);
}

#[inline(always)]
fn key(packet: &Packet, service: &ServiceEntry) -> AffinityKey {
    AffinityKey { client: packet.tuple.source, counted: service.counted }
}
