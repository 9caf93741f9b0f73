//! Crier's eBPF program. What is another node's goes the short way of [`relay`], in XDP where the driver has it. The whole
//! way is this file from top to bottom: [`parse`] reads a packet, [`steer`] decides, [`verdict`] names the decision, [`rewrite`] carries it out.
//! [`maps`] holds what the agent filled in, [`flow`] the connections of this node's pods
//! ([`table`]: where they lie; [`pods`]: where they lead; [`ports`]: by which port a pod knows a client; [`affinity`]: which clients stay with which), [`shadow`] what is flooded.
//!
//! The frame is never touched before it is known to be addressed to this node's own MAC, or to one that this node
//! stands in for ([`shadow`]), and to a VIP; everything else is left to whoever comes next (`TC_ACT_UNSPEC`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod affinity;
mod assembly;
mod flow;
mod maps;
mod parse;
mod pods;
mod ports;
mod relay;
mod rewrite;
mod scratch;
mod shadow;
mod steer;
mod table;
mod verdict;
mod words;

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use forwarder_ebpf::{Direction, DropReason, SECOND_HOPS, Uplink};

use crate::{
    parse::{Frame, Packet, Transport},
    verdict::{Action, Verdict},
};

// Inlined into what the kernel calls: a function of its own would cost a call, and its symbol's hash depends on where
// it was built.

/// From the wire: finds the pod, or the node to hand the packet to.
#[classifier]
#[inline(always)]
pub fn crier_ingress(ctx: TcContext) -> i32 {
    if relay::hand_on(&ctx) {
        return Action::Redirect(maps::interface(&ctx)).code(&ctx);
    }
    from_wire(&ctx).code(&ctx)
}

/// From the wire, before the stack has it: what is another node's goes on to it, all else up to [`crier_ingress`].
#[xdp]
#[inline(always)]
pub fn crier_xdp(ctx: XdpContext) -> u32 {
    if relay::hand_on(&ctx) { XDP_TX } else { XDP_PASS }
}

/// To the wire: gives a pod's reply the address the client knows.
#[classifier]
#[inline(always)]
pub fn crier_egress(ctx: TcContext) -> i32 {
    if verdict::is_handed_on(&ctx) {
        return Action::Next.code(&ctx);
    }
    to_wire(&ctx).code(&ctx)
}

#[inline(always)]
fn from_wire(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Next };
    if !frame.is_ours() {
        return flooded(ctx, &frame);
    }
    let Some(mut packet) = parse::network(ctx) else {
        shadow::heard(ctx, &frame);
        return Action::Next;
    };
    if !maps::is_vip(&packet.tuple.destination) {
        shadow::heard(ctx, &frame);
        if parse::opens_directly(ctx, &mut packet) {
            flow::forget_reply_to(&packet.tuple);
        }
        return Action::Next;
    }
    let verdict = match parse::transport(ctx, &mut packet) {
        Transport::Whole => steer::inbound(&frame, &packet),
        Transport::Unfit(reason) => Verdict::Drop(reason),
        Transport::Discovery => Verdict::Swallow,
    };
    perform(ctx, &packet, verdict, frame.uplink)
}

/// A frame for others, which must not be touched: their addressee carries it. Unless that is a VIP's owner who lost its
/// link, and this node stands in for it. ARP and neighbour discovery are not answered in its stead.
#[inline(always)]
fn flooded(ctx: &TcContext, frame: &Frame) -> Action {
    let Some(standing) = shadow::standing_in(ctx, frame) else { return Action::Next };
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    let Transport::Whole = parse::transport(ctx, &mut packet) else { return Action::Next };
    if !shadow::takes(ctx, &standing, &packet) {
        return Action::Next;
    }
    perform(ctx, &packet, steer::inbound(frame, &packet), frame.uplink)
}

#[inline(always)]
fn to_wire(ctx: &TcContext) -> Action {
    let Some(uplink) = maps::uplink(maps::interface(ctx)) else { return Action::Next };
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    match parse::transport(ctx, &mut packet) {
        Transport::Whole => perform(ctx, &packet, steer::outbound(&packet), uplink),
        Transport::Unfit(_) | Transport::Discovery => Action::Next,
    }
}

/// The one place where decisions become effects.
#[inline(always)]
fn perform(ctx: &TcContext, packet: &Packet, verdict: Verdict, uplink: &Uplink) -> Action {
    match verdict {
        Verdict::Pass => Action::Next,
        Verdict::Swallow => Action::Drop,
        Verdict::Drop(reason) => drop_counted(reason),
        Verdict::Forward { mac, counted, hops, second_hop } => {
            if hops == 0 {
                return drop_counted(DropReason::TtlExpired);
            }
            if rewrite::hand_on(ctx, packet, uplink, mac, hops).is_err() {
                return drop_counted(DropReason::Rewrite);
            }
            if second_hop {
                maps::count_event(SECOND_HOPS);
            }
            maps::count(ctx, counted, Direction::Forwarded, false);
            Action::Redirect(maps::interface(ctx))
        }
        Verdict::Deliver { address, port, client_port, counted, new } => {
            if rewrite::destination(ctx, packet, address, port, client_port).is_err() {
                return drop_counted(DropReason::Rewrite);
            }
            maps::count(ctx, counted, Direction::Inbound, new);
            Action::Next
        }
        Verdict::Reply { vip, port, client_port, counted } => {
            if rewrite::source(ctx, packet, vip, port, client_port).is_err() {
                return drop_counted(DropReason::Rewrite);
            }
            maps::count(ctx, counted, Direction::Outbound, false);
            Action::Next
        }
    }
}

#[inline(always)]
fn drop_counted(reason: DropReason) -> Action {
    maps::count_event(reason as u32);
    Action::Drop
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
