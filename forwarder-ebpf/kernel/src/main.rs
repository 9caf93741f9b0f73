//! Crier's eBPF program. What is another node's goes the short way of [`relay`], in XDP where the driver has it. The whole
//! way is this file from top to bottom: [`parse`] reads a packet, [`steer`] decides, [`verdict`] names the decision and carries it out by [`rewrite`].
//! [`maps`] holds what the agent filled in, [`flow`] the connections of this node's pods ([`age`]: for how long; [`table`]: where they lie; [`pods`]: where they
//! lead; [`ports`]: by which port a pod knows a client; [`affinity`]: which clients stay with which), [`shadow`] what is flooded,
//! [`translate`] the ways to backends that cannot answer the client themselves, [`fragment`] what becomes of parts of packets, [`icmp`] what
//! is said about VIPs and connections, [`refuse`] and [`sctp`] what is said to who asks for a port that is not there, [`answer`] what is
//! said to who asks for a VIP while no agent does, [`counters`] what is counted by pod and service.
//!
//! What few packets need are programs of their own, entered by [`stage`].
//!
//! The frame is never touched before it is known to be addressed to this node's own MAC, or to one that this node
//! stands in for ([`shadow`]), and to a VIP; everything else is left to whoever comes next (`TC_ACT_UNSPEC`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod affinity;
mod age;
mod answer;
mod assembly;
mod bytes;
mod counters;
mod flow;
mod fragment;
mod icmp;
mod maps;
mod parse;
mod pods;
mod ports;
mod refuse;
mod relay;
mod rewrite;
mod scratch;
mod sctp;
mod shadow;
mod stage;
mod steer;
mod table;
mod translate;
mod verdict;
mod words;

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use forwarder_ebpf::{Direction, DropReason, Message, Pod, Predecessor, SCTP, Stage, TCP};

use crate::{
    maps::Size,
    parse::{Frame, Packet, Transport},
    steer::Whose,
    verdict::Action,
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

/// From [`crier_ingress`]: a packet to a VIP without a flow here.
#[classifier]
#[inline(always)]
pub fn crier_connect(ctx: TcContext) -> i32 {
    connect(&ctx).code(&ctx)
}

/// From [`crier_ingress`]: ICMP and ICMPv6 to a VIP.
#[classifier]
#[inline(always)]
pub fn crier_icmp(ctx: TcContext) -> i32 {
    message(&ctx).code(&ctx)
}

/// From [`crier_ingress`]: ARP and neighbour discovery.
#[classifier]
#[inline(always)]
pub fn crier_answer(ctx: TcContext) -> i32 {
    let Some(frame) = parse::uplink_frame(&ctx) else { return Action::Next.code(&ctx) };
    answer::discovery(&ctx, &frame).code(&ctx)
}

/// From [`crier_connect`]: a packet to a port that the VIP does not have.
#[classifier]
#[inline(always)]
pub fn crier_refuse(ctx: TcContext) -> i32 {
    refuse(&ctx).code(&ctx)
}

/// From [`crier_ingress`] or [`crier_connect`]: a packet to a translated backend, whose flow is known.
#[classifier]
#[inline(always)]
pub fn crier_translate(ctx: TcContext) -> i32 {
    translate(&ctx).code(&ctx)
}

/// From [`crier_ingress`]: a packet to this node itself, perhaps a translated backend's.
#[classifier]
#[inline(always)]
pub fn crier_return(ctx: TcContext) -> i32 {
    returned(&ctx).code(&ctx)
}

/// From [`crier_icmp`] or [`crier_return`]: an ICMP error, about a translated connection.
#[classifier]
#[inline(always)]
pub fn crier_nat_error(ctx: TcContext) -> i32 {
    translated_error(&ctx).code(&ctx)
}

/// From [`crier_ingress`]: a part of a packet to a VIP.
#[classifier]
#[inline(always)]
pub fn crier_fragment(ctx: TcContext) -> i32 {
    fragment::arrives(&ctx).code(&ctx)
}

/// From [`crier_fragment`]: the first part of a packet without a flow here.
#[classifier]
#[inline(always)]
pub fn crier_frag_new(ctx: TcContext) -> i32 {
    fragment::connects(&ctx).code(&ctx)
}

/// From [`crier_egress`]: a part of a packet.
#[classifier]
#[inline(always)]
pub fn crier_frag_out(ctx: TcContext) -> i32 {
    fragment::leaves(&ctx).code(&ctx)
}

#[inline(always)]
fn from_wire(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Next };
    if answer::concerns(ctx, &frame) {
        shadow::heard(ctx, &frame);
        return stage::enter_if_there(ctx, Stage::Answer);
    }
    // A frame for others must not be touched: their addressee carries it. Unless that is a VIP's owner who lost its link, and
    // this node stands in for it.
    let standing = if frame.is_ours() { None } else { shadow::standing_in(ctx, &frame) };
    if standing.is_none() && !frame.is_ours() {
        return Action::Next;
    }
    let Some(mut packet) = parse::network(ctx) else {
        shadow::heard(ctx, &frame);
        return Action::Next;
    };
    if standing.is_none() && !maps::may_be_to_vip(&packet.tuple) {
        return no_vips(ctx, &frame, &mut packet);
    }
    let transport = parse::transport(ctx, &mut packet);
    if let Transport::Whole | Transport::Unfit(DropReason::Fragment) = transport
        && standing.as_ref().is_some_and(|standing| !shadow::takes(ctx, standing, &packet))
    {
        return Action::Next;
    }
    if let Transport::Whole = transport {
        // Whose flow is known is a VIP's.
        if let Some(deliver) = steer::known(&packet) {
            if deliver.translated {
                if deliver.what != 0 {
                    counters::count_size(deliver.account, Direction::Inbound, Size::NONE, deliver.what);
                }
                return stage::enter(ctx, Stage::Translate);
            }
            return deliver.perform(ctx, &packet);
        }
    }
    if standing.is_none() && !maps::is_vip(&packet.tuple.destination) {
        return no_vips(ctx, &frame, &mut packet);
    }
    match (transport, standing) {
        (Transport::Whole, _) => stage::enter(ctx, Stage::Connect),
        (Transport::Unfit(DropReason::Fragment), _) => stage::enter(ctx, Stage::Fragment),
        // ARP, neighbour discovery and pings are not answered in another's stead.
        (_, Some(_)) => Action::Next,
        (Transport::Unfit(reason), None) => Action::count_drop(reason),
        (Transport::Discovery, None) => stage::enter(ctx, Stage::Answer),
        (Transport::Echo | Transport::Error, None) => stage::enter(ctx, Stage::Icmp),
    }
}

/// A packet to this node, but to no VIP.
#[inline(always)]
fn no_vips(ctx: &TcContext, frame: &Frame, packet: &mut Packet) -> Action {
    shadow::heard(ctx, frame);
    if parse::opens_directly(ctx, packet) {
        flow::forget_reply_to(&packet.tuple);
        stage::leave_to_predecessor(ctx, Predecessor::Ongoing);
    } else if frame.uplink.returns != 0 {
        return stage::enter_if_there(ctx, Stage::Return);
    }
    Action::Next
}

#[inline(always)]
fn connect(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    let Transport::Whole = parse::transport(ctx, &mut packet) else { return Action::Drop };
    packet.blur(ctx);
    let Some(()) = stage::leave_unknown_to_predecessor(ctx, &packet) else { return Action::Drop };
    let Some(service) = maps::service(&packet.tuple) else {
        elsewhere(&packet);
        return stage::enter(ctx, Stage::Refuse);
    };
    match steer::whose(&frame, &packet, service) {
        Whose::Nobodys(reason) => {
            elsewhere(&packet);
            Action::count_drop(reason)
        }
        Whose::Others(forward) => {
            elsewhere(&packet);
            forward.perform(ctx, &packet, frame.uplink)
        }
        Whose::Mine(hash, index) => match steer::to_pod(&packet, service, hash, index) {
            Ok(deliver) if deliver.translated => {
                counters::count_size(deliver.account, Direction::Inbound, Size::NONE, deliver.what);
                stage::enter(ctx, Stage::Translate)
            }
            Ok(deliver) => deliver.perform(ctx, &packet),
            Err(reason) => {
                elsewhere(&packet);
                Action::count_drop(reason)
            }
        },
    }
}

/// A connection that begins elsewhere, or not at all, ends what is known here of an earlier one from its port.
#[inline(always)]
pub fn elsewhere(packet: &Packet) {
    if packet.opens() {
        flow::forget();
    }
}

#[inline(always)]
fn message(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    match parse::transport(ctx, &mut packet) {
        Transport::Echo => answer(ctx, &frame, &packet),
        Transport::Error => report(ctx, &frame, &packet),
        _ => Action::Drop,
    }
}

/// A ping of a VIP: answered by whoever gets it, so that it says that the VIP leads to a node with Crier's hooks; of pods it says
/// nothing.
#[inline(always)]
fn answer(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    if let Some(reason) = icmp::unanswerable(frame, packet) {
        return Action::count_drop(reason);
    }
    if icmp::answer(ctx, frame, packet).is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    maps::count_event(Message::EchoReply as u32);
    Action::Redirect(maps::interface(ctx))
}

/// An ICMP error to a VIP: for the pod whose packet it is about.
#[inline(always)]
fn report(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    let Some(mut about) = icmp::about(ctx, packet) else { return Action::count_drop(DropReason::StrayError) };
    about.blur(ctx);
    let found = steer::error(frame, &about);
    if found.is_err() {
        stage::leave_to_predecessor(ctx, Predecessor::Ongoing);
    }
    match found {
        Ok(end) if end.pod.way == Pod::TRANSLATED => stage::enter(ctx, Stage::TranslatedError),
        Ok(end) => {
            if icmp::tell(ctx, packet, &about, &end).is_err() {
                return Action::count_drop(DropReason::Rewrite);
            }
            maps::count_event(Message::Error as u32);
            Action::Next
        }
        Err(Some(forward)) => forward.perform(ctx, packet, frame.uplink),
        Err(None) => Action::count_drop(DropReason::StrayError),
    }
}

#[inline(always)]
fn refuse(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    let Transport::Whole = parse::transport(ctx, &mut packet) else { return Action::Drop };
    if !refuse::is_due(&frame, &packet) {
        return Action::count_drop(DropReason::NoService);
    }
    let (said, message) = match packet.tuple.protocol {
        TCP => (refuse::reset(ctx, &frame, &packet), Message::Reset),
        SCTP => (sctp::abort(ctx, &frame, &packet), Message::Abort),
        _ => (refuse::unreachable(ctx, &frame, &packet), Message::Unreachable),
    };
    if said.is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    maps::count_event(message as u32);
    Action::Redirect(maps::interface(ctx))
}

#[inline(always)]
fn translate(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    let Transport::Whole = parse::transport(ctx, &mut packet) else { return Action::Drop };
    packet.blur(ctx);
    translate::to_backend(ctx, &frame, &packet)
}

#[inline(always)]
fn returned(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Next };
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    match parse::transport(ctx, &mut packet) {
        Transport::Whole => {
            packet.blur(ctx);
            translate::to_client(ctx, &frame, &packet)
        }
        Transport::Error => stage::enter_if_there(ctx, Stage::TranslatedError),
        _ => Action::Next,
    }
}

#[inline(always)]
fn translated_error(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Next };
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    let Transport::Error = parse::transport(ctx, &mut packet) else { return Action::Next };
    packet.blur(ctx);
    translate::error(ctx, &frame, &packet)
}

#[inline(always)]
fn to_wire(ctx: &TcContext) -> Action {
    if maps::uplink(maps::interface(ctx)).is_none() || parse::is_tagged(ctx) {
        return Action::Next;
    }
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    match parse::transport(ctx, &mut packet) {
        Transport::Whole => match steer::outbound(&packet) {
            Some(reply) => reply.perform(ctx, &packet),
            None => {
                stage::leave_to_predecessor(ctx, Predecessor::Leaving);
                Action::Next
            }
        },
        Transport::Unfit(DropReason::Fragment) => stage::enter_if_there(ctx, Stage::FragmentOut),
        _ => Action::Next,
    }
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
