//! The connections of this node's pods, remembered in both directions.
//!
//! A TCP flow stays with its pod whatever becomes of the pod's health; only a SYN, which begins a new connection,
//! looks for another pod when the old one takes none. A UDP flow has no beginning: it is new after a pause, and
//! moves when its pod is out. Nothing is removed here: the maps drop what is used least recently.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use forwarder_ebpf::{BackendEntry, Flow, Reply, Tuple};

use crate::{
    maps::{self, FLOWS, REPLIES},
    parse::Packet,
};

/// Seconds of silence after which a UDP flow is over.
const UDP_IDLE: u32 = 60;

/// The flow a packet belongs to, unless it begins one anew.
///
/// An element evicted and reused while it is read (the kernel permits that) gives another flow's words: one packet
/// goes astray, as one lost.
#[inline(always)]
pub fn known(packet: &Packet) -> Option<&'static Flow> {
    let stored = FLOWS.get_ptr_mut(&packet.tuple)?;
    // SAFETY: points into the map, which outlives the program's run.
    let flow = unsafe { &*stored };
    if packet.is_tcp() {
        return (!packet.opens() || takes_new(flow)).then_some(flow);
    }
    let now = seconds();
    if now.wrapping_sub(flow.seen) > UDP_IDLE || !takes_new(flow) {
        return None;
    }
    if now != flow.seen {
        // SAFETY: an aligned word inside the element; at worst another flow's time is refreshed.
        unsafe { (&raw mut (*stored).seen).write_volatile(now) };
    }
    Some(flow)
}

/// Remembers that a client's packets go to a pod, and what the pod's replies must look like.
#[inline(always)]
pub fn remember(tuple: &Tuple, index: u32, backend: &BackendEntry, counted: u32) -> Result<(), i32> {
    let reply = Reply { vip: tuple.destination, port: tuple.destination_port, pad: [0; 2], counted };
    REPLIES.insert(reversed(backend, tuple), reply, 0)?;
    let flow = Flow {
        address: backend.address,
        port: backend.port,
        pad: [0; 2],
        backend: index,
        tag: backend.tag,
        counted,
        seen: seconds(),
    };
    FLOWS.insert(tuple, flow, 0)
}

/// What a packet from a pod must look as if it came from.
#[inline(always)]
pub fn reply(tuple: &Tuple) -> Option<&'static Reply> {
    // SAFETY: points into the map, which outlives the program's run; see `known`.
    unsafe { REPLIES.get(tuple) }
}

/// The ends of the pod's replies to a client's packet.
#[inline(always)]
fn reversed(backend: &BackendEntry, tuple: &Tuple) -> Tuple {
    Tuple {
        source: backend.address,
        destination: tuple.source,
        source_port: backend.port,
        destination_port: tuple.source_port,
        protocol: tuple.protocol,
        pad: [0; 3],
    }
}

/// Whether the flow's pod is still there and takes new connections.
#[inline(always)]
fn takes_new(flow: &Flow) -> bool {
    match maps::backend(flow.backend) {
        Some(backend) => backend.tag == flow.tag,
        None => false,
    }
}

/// The kernel's monotonic clock, to the tick: the exact one costs as much as the whole decision.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: no arguments, no effects.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
