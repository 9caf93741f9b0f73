//! The connections of this node's pods, remembered in both directions.
//!
//! A TCP flow stays with its pod whatever becomes of the pod's health; only a SYN, which begins a new connection,
//! looks for another pod when the old one takes none. A UDP flow has no beginning: it is new after a pause, and
//! moves when its pod is out.
//!
//! A flow that is over must not catch a later connection from the same port, which may live on another node: it is
//! known no more when both ends have closed, or after long silence, and forgotten when a SYN goes elsewhere. Beyond
//! that the maps drop what is used least recently.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use forwarder_ebpf::{Address, BackendEntry, DropReason, Flow, Reply, TCP, Tuple};

use crate::{
    maps::{self, FLOWS, REPLIES},
    parse::Packet,
    ports,
};

/// Seconds of silence after which a UDP flow is over.
const UDP_IDLE: i32 = 60;
/// Seconds of a client's silence after which a pod's datagrams are replies no more: more than [`UDP_IDLE`], since a
/// pod may go on sending to one who only listens.
const REPLY_IDLE: i32 = 180;
/// Seconds of silence after which a TCP flow is over that nobody closed: longer than the two hours after which hosts
/// send keep-alives.
const TCP_IDLE: i32 = 3 * 3600;
/// Seconds of silence after which a TCP flow is over that both ends have closed: what comes late is still the pod's.
const TCP_CLOSED: i32 = 60;

/// The flow a packet belongs to, unless it begins one anew.
///
/// An element evicted and reused while it is read (the kernel permits that) gives another flow's words: one packet
/// goes astray, as one lost.
#[inline(always)]
pub fn known(packet: &Packet) -> Option<&'static Flow> {
    let stored = FLOWS.get_ptr_mut(&packet.tuple)?;
    // SAFETY: points into the map, which outlives the program's run.
    let flow = unsafe { &*stored };
    let now = seconds();
    let silent = silence(now, flow.seen);
    if is_over(packet, flow, silent) {
        return None;
    }
    if packet.ends() {
        close(stored, packet, Flow::BY_CLIENT);
    }
    if silent > 0 || packet.opens() {
        refresh(stored, packet, now);
    }
    Some(flow)
}

/// Where a flow leads.
pub struct End {
    /// The pod's address.
    pub address: &'static Address,
    /// The pod's port.
    pub port: [u8; 2],
    /// The client's port as the pod sees it.
    pub client_port: [u8; 2],
}

/// Where the flow of these ends leads, if it lives here, to tell its pod something about it: the flow is left as it was. A pod
/// may be sending to a client that has been silent for long.
#[inline(always)]
pub fn find(tuple: &Tuple) -> Option<End> {
    // SAFETY: points into the map, which outlives the program's run; see `known`.
    let flow: &'static Flow = unsafe { FLOWS.get(tuple) }?;
    let patience = if tuple.protocol == TCP { patience(flow) } else { REPLY_IDLE };
    let end = End { address: &flow.address, port: flow.port, client_port: flow.client_port };
    (silence(seconds(), flow.seen) <= patience).then_some(end)
}

/// Once a second, and at every SYN: notes the time, and makes sure that replies are known as this flow's. Their entry
/// may have been evicted; and then have become that of another flow, which keeps it while it lives.
#[inline(always)]
fn refresh(stored: *mut Flow, packet: &Packet, now: u32) {
    // SAFETY: points into the map, which outlives the program's run; an aligned word inside the element, at worst
    // another flow's time is refreshed.
    let flow = unsafe {
        (&raw mut (*stored).seen).write_volatile(now);
        &*stored
    };
    let tuple = &packet.tuple;
    let mut key = reversed(&flow.address, flow.port, tuple);
    key.destination_port = flow.client_port;
    if let Some(reply) = REPLIES.get_ptr_mut(&key) {
        // SAFETY: as above.
        unsafe {
            if is_to(&*reply, tuple) {
                (&raw mut (*reply).seen).write_volatile(now);
                return;
            }
        }
    }
    if !ports::is_taken(&key, tuple, now) {
        // Without room the connection is without replies; the next second tries again.
        let _ = REPLIES.insert(key, reply_to(tuple, flow.counted, now), 0);
    }
}

/// Whether it is what replies to a client's packets must look like.
#[inline(always)]
pub fn is_to(reply: &Reply, tuple: &Tuple) -> bool {
    reply.client_port == tuple.source_port && reply.port == tuple.destination_port && reply.vip == tuple.destination
}

#[inline(always)]
fn reply_to(tuple: &Tuple, counted: u32, now: u32) -> Reply {
    let (vip, port, client_port) = (tuple.destination, tuple.destination_port, tuple.source_port);
    Reply { vip, port, client_port, counted, seen: now }
}

/// Whether a flow last heard so many seconds ago ended before this packet.
#[inline(always)]
fn is_over(packet: &Packet, flow: &Flow, silent: i32) -> bool {
    if !packet.is_tcp() {
        return silent > UDP_IDLE || !takes_new(flow);
    }
    let [client, pod] = flow.closed;
    if packet.opens() {
        return client | pod != 0 || silent > TCP_IDLE || !takes_new(flow);
    }
    silent > patience(flow)
}

/// Whether a TCP flow has been silent for so long that it is known no more.
#[inline(always)]
pub fn is_forgotten(flow: &Flow, now: u32) -> bool {
    silence(now, flow.seen) > patience(flow)
}

/// Seconds of silence after which a TCP flow is over.
#[inline(always)]
fn patience(flow: &Flow) -> i32 {
    let [client, pod] = flow.closed;
    if client & pod != 0 { TCP_CLOSED } else { TCP_IDLE }
}

/// Whether a pod's datagrams are replies no more.
#[inline(always)]
pub fn is_stale(reply: &Reply, now: u32) -> bool {
    silence(now, reply.seen) > REPLY_IDLE
}

/// Notes that one end has closed, or by a reset both.
#[inline(always)]
fn close(flow: *mut Flow, packet: &Packet, end: usize) {
    // SAFETY: bytes inside the element, one per end since each end's packets may be on a CPU of their own; at worst
    // another flow is taken for closed, which matters only if it falls silent.
    unsafe {
        if packet.resets() {
            (&raw mut (*flow).closed).write_volatile([1, 1]);
        } else if end == Flow::BY_CLIENT {
            (&raw mut (*flow).closed).cast::<u8>().write_volatile(1);
        } else {
            (&raw mut (*flow).closed).cast::<u8>().add(1).write_volatile(1);
        }
    }
}

/// Forgets the flow of a connection that begins anew elsewhere.
#[inline(always)]
pub fn forget(tuple: &Tuple) {
    let _ = FLOWS.remove(tuple);
}

/// Remembers that a client's packets go to a pod, and what the pod's replies must look like. The client's port as the
/// pod shall see it.
#[inline(always)]
pub fn remember(
    packet: &Packet,
    hash: u64,
    index: u32,
    backend: &BackendEntry,
    counted: u32,
) -> Result<[u8; 2], DropReason> {
    let tuple = &packet.tuple;
    let now = seconds();
    let mut key = reversed(&backend.address, backend.port, tuple);
    ports::choose(&mut key, tuple, hash, now)?;
    let flow = Flow {
        address: backend.address,
        port: backend.port,
        client_port: key.destination_port,
        closed: [packet.ends() as u8, 0],
        pad: [0; 2],
        backend: index,
        tag: backend.tag,
        counted,
        seen: now,
    };
    REPLIES.insert(key, reply_to(tuple, counted, now), 0).map_err(|_| DropReason::FlowTable)?;
    FLOWS.insert(tuple, flow, 0).map_err(|_| DropReason::FlowTable)?;
    Ok(key.destination_port)
}

/// What a packet from a pod must look as if it came from.
#[inline(always)]
pub fn reply(packet: &Packet) -> Option<&'static Reply> {
    // SAFETY: points into the map, which outlives the program's run; see `known`.
    let reply = unsafe { REPLIES.get(packet.tuple) }?;
    if !packet.is_tcp() {
        return (!is_stale(reply, seconds())).then_some(reply);
    }
    if packet.ends() {
        close_from_pod(packet, reply);
    }
    Some(reply)
}

/// A connection begins between a pod and a client themselves: its packets are no VIP's replies.
#[inline(always)]
pub fn forget_reply(from_pod: &Tuple) {
    let _ = REPLIES.remove(from_pod);
}

/// The same, seen from the client.
#[inline(always)]
pub fn forget_reply_to(direct: &Tuple) {
    forget_reply(&reversed(&direct.destination, direct.destination_port, direct));
}

/// Notes that a pod has closed a flow, if it is still that pod's.
#[inline(always)]
fn close_from_pod(packet: &Packet, reply: &Reply) {
    let tuple = Tuple {
        source: packet.tuple.destination,
        destination: reply.vip,
        source_port: reply.client_port,
        destination_port: reply.port,
        protocol: packet.tuple.protocol,
        pad: [0; 3],
    };
    let Some(flow) = FLOWS.get_ptr_mut(&tuple) else { return };
    // SAFETY: points into the map, which outlives the program's run.
    let same = unsafe {
        (*flow).address == packet.tuple.source
            && (*flow).port == packet.tuple.source_port
            && (*flow).client_port == packet.tuple.destination_port
    };
    if same {
        close(flow, packet, Flow::BY_POD);
    }
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

/// Whether the flow's pod is still there and takes new connections.
#[inline(always)]
fn takes_new(flow: &Flow) -> bool {
    match maps::backend(flow.backend) {
        Some(backend) => backend.tag == flow.tag,
        None => false,
    }
}

/// Seconds since a moment, which another CPU may have noted with a clock that is a tick ahead.
#[inline(always)]
fn silence(now: u32, seen: u32) -> i32 {
    now.wrapping_sub(seen) as i32
}

/// The kernel's monotonic clock, to the tick: the exact one costs as much as the whole decision.
#[inline(always)]
pub fn seconds() -> u32 {
    // SAFETY: no arguments, no effects.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
