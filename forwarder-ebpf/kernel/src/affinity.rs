//! `sessionAffinity: ClientIP`: a client that comes again within the service's time gets the pod it had.
//!
//! All of a client's connections have one slot, so they come to one node, and by its local table to one pod, without anything
//! being remembered. What is remembered is for changes: when tables move, the pod's node keeps its clients until their
//! time is over or the pod is out, and is found as a connection's is ([`crate::steer`]).

use aya_ebpf::bindings::BPF_NOEXIST;
use forwarder_ebpf::{AFFINITIES_ADDED, Affinity, AffinityKey, BackendEntry, ServiceEntry};

use crate::{
    age,
    maps::{self, AFFINITIES},
    parse::Packet,
    scratch::{self, PACKET},
};

/// The pod of this node that a client who begins a connection had before, by its index, if it takes new ones; else 0.
#[inline(always)]
pub fn pod(packet: &Packet, service: &ServiceEntry) -> u32 {
    if service.affinity == 0 || packet.continues() {
        return 0;
    }
    let Some(stored) = AFFINITIES.get_ptr_mut(&key(packet, service)) else { return 0 };
    // SAFETY: points into the map, which outlives the program's run; an element reused meanwhile gives another client's words: its
    // pod is one of the same or another service, which the tag tells.
    let known = unsafe { *stored };
    if age::seconds().wrapping_sub(known.seen) as i32 > service.affinity as i32 {
        return 0;
    }
    match maps::backend(known.backend) {
        Some(backend) if backend.tag == known.tag => known.backend,
        _ => 0,
    }
}

/// Remembers the pod that a client got whose packet is in the [`scratch::Scratch`], and when.
#[inline(always)]
pub fn remember(packet: &Packet, service: &ServiceEntry, index: u32, backend: &BackendEntry) {
    if service.affinity != 0 {
        crier_stay(index, backend.tag, service.counted, service.affinity, packet.continues() as u32);
    }
}

/// Remembers that the client whose packet is in the [`scratch::Scratch`] stays with a pod for so many seconds, if it begins a
/// connection. A function of its own, which the verifier goes through once, and which leaves no fork behind.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_stay(backend: u32, tag: u32, counted: u32, patience: u32, continues: u32) -> u32 {
    if continues != 0 {
        return 0;
    }
    let Some(scratch) = scratch::get() else { return 0 };
    let key = AffinityKey { client: scratch::noted(scratch, PACKET).source, counted };
    let affinity = Affinity { backend, tag, seen: age::seconds(), patience };
    if let Some(stored) = AFFINITIES.get_ptr_mut(&key) {
        // In its place: the kernel's own update takes a free element first, for which it may push another client out.
        // SAFETY: points into the map, which outlives the program's run; as above, a mixture is told by its tag.
        unsafe { stored.write(affinity) };
        return 1;
    }
    // Without room the client stays with its pod as long as the tables stay as they are.
    if AFFINITIES.insert(key, affinity, BPF_NOEXIST as u64).is_ok() {
        maps::count_event(AFFINITIES_ADDED);
    }
    1
}

#[inline(always)]
fn key(packet: &Packet, service: &ServiceEntry) -> AffinityKey {
    AffinityKey { client: packet.tuple.source, counted: service.counted }
}
