//! How long a flow counts: by the kernel's clock in seconds, by who was heard when, and by who has closed it.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use forwarder_ebpf::{
    Flow,
    table::{REPLY_IDLE, State, TCP_CLOSED, TCP_IDLE, UDP_IDLE},
};

use crate::{maps, parse::Packet, table::Place};

/// Whole seconds of silence after which a client's packet need not be a closed connection's: its port may serve a later one, which
/// lives where the slot has been meanwhile. Before, it is the end of the closed one, and not worth a search. A busy client has
/// its ports again within two seconds or three.
const PROMPT: i32 = 0;

/// Whether a flow last heard so many seconds ago ended before this packet.
#[inline(always)]
pub fn is_over(packet: &Packet, place: &Place, silent: i32) -> bool {
    if packet.is_datagram() {
        return silent > UDP_IDLE || !packet.continues() && !takes_new(place.flow());
    }
    if packet.opens() {
        return place.state.0 & State::CLOSED != 0 || silent > TCP_IDLE || !takes_new(place.flow());
    }
    silent > if place.state.has(State::CLOSED) { PROMPT } else { TCP_IDLE }
}

/// Whether a TCP flow has been silent for so long that it is known no more.
#[inline(always)]
pub fn is_forgotten(place: &Place, now: u32) -> bool {
    silence(now, place.flow().seen) > patience(place.state)
}

/// Seconds of silence after which a TCP flow is over.
#[inline(always)]
pub fn patience(state: State) -> i32 {
    if state.has(State::CLOSED) { TCP_CLOSED } else { TCP_IDLE }
}

/// Whether a pod's datagrams are replies no more.
#[inline(always)]
pub fn is_stale(flow: &Flow, now: u32) -> bool {
    silence(now, flow.seen) > REPLY_IDLE
}

/// Whether the flow's pod is still there and takes new connections.
#[inline(always)]
fn takes_new(flow: &Flow) -> bool {
    match maps::backend(flow.backend as u32) {
        Some(backend) => backend.tag == flow.tag,
        None => false,
    }
}

/// Seconds since a moment, which another CPU may have noted with a clock that is a tick ahead.
#[inline(always)]
pub fn silence(now: u32, seen: u32) -> i32 {
    now.wrapping_sub(seen) as i32
}

/// The kernel's monotonic clock, to the tick: the exact one costs as much as the whole decision.
#[inline(always)]
pub fn seconds() -> u32 {
    // SAFETY: no arguments, no effects.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
