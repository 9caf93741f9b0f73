//! Connections to backends that cannot answer past the client's own way: hosts without an agent, or behind a router, and pods that are
//! on the segment themselves. Both ends are translated: such a backend sees this node's address and a port of this node's
//! ([`crate::ports`]), and what it answers comes back here. It does not see the client's address.
//!
//! The stack would take a packet from the wire that comes from this node's own address for a forgery, and has no use for replies of
//! which it knows no socket. So the hook routes them itself, one hop, as the stack would have.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup,
    },
    helpers::generated::bpf_fib_lookup,
    programs::TcContext,
};
use forwarder_ebpf::{Address, Direction, DropReason, Flow, Message, Pod};

use crate::{
    counters::{self, Account},
    flow, icmp, maps,
    parse::{Frame, Packet},
    rewrite::{self, Ends, v4},
    scratch::{self, Scratch},
    verdict::Action,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A client's packet whose flow has just been found, or made.
#[inline(always)]
pub fn to_backend(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    let Some(known) = flow::find(&packet.tuple) else { return Action::count_drop(DropReason::NatStray) };
    let Some(ends) = towards(&known) else { return Action::count_drop(DropReason::NatStray) };
    carry(ctx, frame, packet, &ends, known.account, Direction::Inbound, 0)
}

/// A packet to this node: if it is a translated backend's, the client's from here on.
#[inline(always)]
pub fn to_client(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    let Some(place) = flow::returned(&packet.tuple) else { return Action::Next };
    let Some((flow, account, what)) = flow::replied(packet, place) else { return Action::Next };
    carry(ctx, frame, packet, &back(flow), account, Direction::Outbound, what)
}

/// An ICMP error about a translated connection: about what a backend has sent in the VIP's name, or about what this node has sent in
/// the client's.
#[inline(always)]
pub fn error(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    let to_vip = maps::is_vip(&packet.tuple.destination);
    let Some(mut about) = icmp::about(ctx, packet) else { return stray(to_vip) };
    about.blur(ctx);
    let ends = if to_vip {
        flow::find(&about.tuple).as_ref().and_then(towards)
    } else {
        flow::returned(&about.tuple).map(|place| back(place.flow()))
    };
    let Some(ends) = ends else { return stray(to_vip) };
    if packet.hops <= 1 {
        return Action::count_drop(DropReason::TtlExpired);
    }
    if icmp::tell_both(ctx, packet, &about, &ends).is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    maps::count_event(Message::Error as u32);
    route(ctx, frame, packet, &ends)
}

/// What becomes of an error that is about no translated connection: to this node itself, the stack may know what it is about.
#[inline(always)]
fn stray(to_vip: bool) -> Action {
    if to_vip { Action::count_drop(DropReason::StrayError) } else { Action::Next }
}

/// The ends of a translated backend's packets on their way to the client.
#[inline(always)]
fn back(flow: &'static Flow) -> Ends {
    let (source_port, destination_port) = (flow.port, flow.client_port);
    Ends { source: &flow.vip, destination: &flow.client, source_port, destination_port }
}

/// The ends of a client's packets on their way to a translated backend.
#[inline(always)]
fn towards(known: &flow::Known) -> Option<Ends> {
    let pod = known.pod;
    if pod.way != Pod::TRANSLATED {
        return None;
    }
    let (source_port, destination_port) = (known.client_port, pod.port);
    Some(Ends { source: &pod.own, destination: &pod.address, source_port, destination_port })
}

#[inline(always)]
fn carry(
    ctx: &TcContext,
    frame: &Frame,
    packet: &Packet,
    ends: &Ends,
    account: Account,
    direction: Direction,
    what: u32,
) -> Action {
    if packet.hops <= 1 {
        return Action::count_drop(DropReason::TtlExpired);
    }
    if rewrite::both(ctx, packet, ends).is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    let action = route(ctx, frame, packet, ends);
    if let Action::Route(_) = action {
        counters::count(ctx, account, direction, what);
    }
    action
}

/// Where a packet leaves that has its new ends: by the uplink that leads there, since by others no answer would come to the hook. The
/// next hop's MAC need not be known yet. A host that does not forward, so that the lookup has no answer, sends it back by the uplink
/// that it came in by.
#[inline(always)]
fn route(ctx: &TcContext, frame: &Frame, packet: &Packet, ends: &Ends) -> Action {
    let Some(scratch) = scratch::get() else { return Action::count_drop(DropReason::NatRoute) };
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    let lookup = unsafe { &mut (*scratch).lookup };
    *lookup = Scratch::NO_LOOKUP;
    lookup.ifindex = frame.uplink.interface;
    lookup.l4_protocol = packet.tuple.protocol;
    if packet.v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = words(ends.source);
        lookup.__bindgen_anon_4.ipv6_dst = words(ends.destination);
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(v4(ends.source));
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(v4(ends.destination));
    }
    // SAFETY: the context is valid for the program's run, and the length that of the lookup.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut *lookup, size_of::<Lookup>() as i32, 0) } as u32;
    let interface = match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => lookup.ifindex,
        BPF_FIB_LKUP_RET_FWD_DISABLED => frame.uplink.interface,
        _ => 0,
    };
    if interface == 0 || maps::uplink(interface).is_none() {
        return Action::count_drop(DropReason::NatRoute);
    }
    Action::Route(interface)
}

/// An address as the lookup has it.
#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
