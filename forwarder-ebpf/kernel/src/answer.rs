//! ARP and neighbour discovery for this node's VIPs while no agent answers: for the time of a lease that the agent renews as long as it
//! lives, and sets anew when it stops for a restart.
//!
//! An agent that is gone cannot take its VIPs from the map, and a peer that takes one over announces it. So whoever is heard to
//! announce a VIP, or to answer for it, ends the answers for it here: unless the agent has gone on for a while since, and must
//! have known.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_csum_diff, bpf_ktime_get_ns, bpf_skb_change_tail},
    macros::map,
    maps::{Array, HashMap},
    programs::TcContext,
};
use forwarder_ebpf::{Address, Lease, Message, OwnedVip, limits, mapped};

use crate::{
    bytes::{GROUP, mac_bytes},
    maps,
    parse::{ETHERNET, ETHERTYPE_V6, Frame, ICMPV6},
    rewrite::{self, Refused},
    verdict::Action,
};

/// The VIPs that are answered for, with the time at which another's announcement was heard last.
#[map]
static OWNED: HashMap<OwnedVip, u64> = HashMap::with_max_entries(limits::OWNED_VIPS, BPF_F_NO_PREALLOC);
#[map]
static LEASE: Array<Lease> = Array::with_max_entries(1, 0);

const ETHERTYPE_ARP: u32 = 0x0806_u16.to_be() as u32;
/// An ARP packet for IPv4 over Ethernet: how it begins, and its bytes.
const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_LENGTH: usize = 28;
const ARP_REQUEST: [u8; 2] = [0, 1];

const V6_HEADER: u32 = 40;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Bytes of either without options, and with one of a link-layer address.
const BARE: u32 = 24;
const WITH_ADDRESS: u32 = 32;
const SOURCE_LINK: [u8; 2] = [1, 1];
const TARGET_LINK: [u8; 2] = [2, 1];
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// What proves that a message comes from the segment.
const HOPS: u8 = 255;
const ALL_NODES: Address = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Whether a frame is ARP or neighbour discovery for a group, or ARP for this node.
#[inline(always)]
pub fn concerns(ctx: &TcContext, frame: &Frame) -> bool {
    let to_group = frame.destination & GROUP != 0;
    match ctx.skb.protocol() {
        ETHERTYPE_ARP => to_group || frame.is_ours(),
        ETHERTYPE_V6 if to_group => is_discovery(ctx),
        _ => false,
    }
}

#[inline(always)]
fn is_discovery(ctx: &TcContext) -> bool {
    let Ok(next) = ctx.load::<u8>((ETHERNET + 6) as usize) else { return false };
    let Ok(kind) = ctx.load::<u8>((ETHERNET + V6_HEADER) as usize) else { return false };
    next == ICMPV6 && matches!(kind, SOLICITATION | ADVERTISEMENT)
}

/// What becomes of such a frame.
#[inline(always)]
pub fn discovery(ctx: &TcContext, frame: &Frame) -> Action {
    if ctx.skb.protocol() == ETHERTYPE_ARP {
        return arp(ctx, frame).unwrap_or(Action::Next);
    }
    if let Some(action) = neighbour(ctx, frame) {
        return action;
    }
    let Ok(to) = ctx.load::<Address>((ETHERNET + 24) as usize) else { return Action::Next };
    // The agent's packet socket has seen it by now. The stack, which does not know the VIP, must not route it.
    if frame.is_ours() && maps::is_vip(&to) { Action::Drop } else { Action::Next }
}

#[inline(always)]
fn arp(ctx: &TcContext, frame: &Frame) -> Option<Action> {
    let packet: [u8; ARP_LENGTH] = ctx.load(ETHERNET as usize).ok()?;
    let [a, b, c, d, e, f, o0, o1, m0, m1, m2, m3, m4, m5, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] = packet;
    if [a, b, c, d, e, f] != ARP {
        return None;
    }
    let (asker, from, target) = ([m0, m1, m2, m3, m4, m5], [s0, s1, s2, s3], [t0, t1, t2, t3]);
    heard(ctx, frame, &mapped(from), asker);
    if [o0, o1] != ARP_REQUEST || from == target || m0 & 1 != 0 || !is_answered(ctx, &mapped(target)) {
        return None;
    }
    let [n0, n1, n2, n3, n4, n5] = frame.uplink.mac;
    let reply =
        [a, b, c, d, e, f, 0, 2, n0, n1, n2, n3, n4, n5, t0, t1, t2, t3, m0, m1, m2, m3, m4, m5, s0, s1, s2, s3];
    let sent = ctx.store(ETHERNET as usize, &reply, 0).and_then(|()| rewrite::address_frame(ctx, frame.uplink, &asker));
    Some(answered(ctx, sent))
}

#[inline(always)]
fn neighbour(ctx: &TcContext, frame: &Frame) -> Option<Action> {
    let [next, hops]: [u8; 2] = ctx.load((ETHERNET + 6) as usize).ok()?;
    let message = ETHERNET + V6_HEADER;
    let [kind, code]: [u8; 2] = ctx.load(message as usize).ok()?;
    if next != ICMPV6 || hops != HOPS || code != 0 {
        return None;
    }
    let target: Address = ctx.load((message + 8) as usize).ok()?;
    if kind == ADVERTISEMENT {
        heard(ctx, frame, &target, linked(ctx, frame, TARGET_LINK)?);
        return None;
    }
    if kind != SOLICITATION || !is_answered(ctx, &target) {
        return None;
    }
    let from: Address = ctx.load((ETHERNET + 8) as usize).ok()?;
    let asker = linked(ctx, frame, SOURCE_LINK)?;
    // Who looks for a duplicate has no address yet, and asks the group.
    let answer = if from == [0; 16] {
        if frame.destination & GROUP == 0 {
            return None;
        }
        advertise(ctx, frame, &target, &ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        if from[0] == 0xff || asker[0] & 1 != 0 {
            return None;
        }
        advertise(ctx, frame, &target, &from, asker, OVERRIDE | SOLICITED)
    };
    Some(answered(ctx, answer))
}

/// The link-layer address that a message gives, else its frame's source. None of an option without a length, with which a message
/// is invalid (RFC 4861, 7.1).
#[inline(always)]
fn linked(ctx: &TcContext, frame: &Frame, option: [u8; 2]) -> Option<[u8; 6]> {
    let at = (ETHERNET + V6_HEADER + BARE) as usize;
    match ctx.load::<[u8; 8]>(at) {
        Ok([_, 0, ..]) => None,
        Ok([a, b, mac @ ..]) if [a, b] == option => Some(mac),
        _ => Some(mac_bytes(frame.source)),
    }
}

/// Makes the solicitation an advertisement.
#[inline(always)]
fn advertise(
    ctx: &TcContext,
    frame: &Frame,
    target: &Address,
    to: &Address,
    mac: [u8; 6],
    flags: u8,
) -> Result<(), Refused> {
    let mut message = [0_u8; WITH_ADDRESS as usize];
    message[0] = ADVERTISEMENT;
    message[4] = flags;
    message[8..24].copy_from_slice(target);
    message[24..26].copy_from_slice(&TARGET_LINK);
    message[26..32].copy_from_slice(&frame.uplink.mac);
    let covered = sum(target, sum(to, (ICMPV6 as u16).to_be() as u32 + (WITH_ADDRESS as u16).to_be() as u32));
    [message[2], message[3]] = (!(sum(&message, covered) as u16)).to_ne_bytes();
    // SAFETY: the context is valid for the program's run; the helper checks the length.
    let refused = unsafe { bpf_skb_change_tail(ctx.skb.skb, ETHERNET + V6_HEADER + WITH_ADDRESS, 0) };
    if refused != 0 {
        return Err(refused);
    }
    let at = ETHERNET as usize;
    ctx.store(at + 4, &(WITH_ADDRESS as u16).to_be_bytes(), BPF_F_RECOMPUTE_CSUM as u64)?;
    ctx.store(at + 8, target, BPF_F_RECOMPUTE_CSUM as u64)?;
    ctx.store(at + 24, to, BPF_F_RECOMPUTE_CSUM as u64)?;
    ctx.store(at + V6_HEADER as usize, &message, BPF_F_RECOMPUTE_CSUM as u64)?;
    rewrite::address_frame(ctx, frame.uplink, &mac)
}

#[inline(always)]
fn answered(ctx: &TcContext, sent: Result<(), Refused>) -> Action {
    if sent.is_err() {
        return Action::Drop;
    }
    maps::count_event(Message::Neighbour as u32);
    Action::Redirect(maps::interface(ctx))
}

/// Another machine says that it has an address. If that is a VIP of this node's, the time is noted.
#[inline(always)]
fn heard(ctx: &TcContext, frame: &Frame, vip: &Address, mac: [u8; 6]) {
    if mac == frame.uplink.mac {
        return;
    }
    if let Some(at) = OWNED.get_ptr_mut(&key(ctx, vip)) {
        // SAFETY: points into the map, which outlives the program's run; an aligned word.
        unsafe { at.write_volatile(bpf_ktime_get_ns()) };
    }
}

/// Whether the address is a VIP for which this node answers, and the agent does not.
#[inline(always)]
fn is_answered(ctx: &TcContext, vip: &Address) -> bool {
    let Some(heard) = OWNED.get_ptr(&key(ctx, vip)) else { return false };
    let Some(lease) = LEASE.get_ptr(0) else { return false };
    // SAFETY: points into the maps, which outlive the program's run; aligned words.
    let (heard, lease, now) = unsafe { (heard.read_volatile(), lease.read_volatile(), bpf_ktime_get_ns()) };
    let yielded = heard != 0 && heard + Lease::HINDSIGHT > lease.renewed;
    !yielded && now >= lease.present && now < lease.until
}

#[inline(always)]
fn key(ctx: &TcContext, vip: &Address) -> OwnedVip {
    OwnedVip { interface: maps::interface(ctx), vip: *vip }
}

/// A sum of 16-bit words as they lie in memory, added to another that is small, or was folded.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N], seed: u32) -> u32 {
    let at = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the helper only reads the initialised bytes.
    fold(unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at, N as u32, seed) as u32 }) as u32
}

/// A sum in 16 bits, with end-around carry.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
