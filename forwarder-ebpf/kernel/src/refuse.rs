//! Ports that a VIP does not have are refused, as a host refuses them: at once, so that nobody waits for a timeout. TCP by a
//! reset (RFC 9293, 3.10.7.1), UDP by "port unreachable" (RFC 1812, 4.3.2.7; RFC 4443, 2.4).
//!
//! Not refused is what another node has handed on: that node knows the service, and this one is about to learn of it.
//!
//! Where the hardware, or who sends the frame on, has yet to fill in its checksum, the field holds the sum of the pseudo header.
//! The helpers know, the program does not: it finds out by a change that such a field does not follow ([`is_partial`]).

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated::{bpf_csum_diff, bpf_skb_change_tail},
    programs::TcContext,
};
use forwarder_ebpf::{TCP, Tuple};

use crate::{
    bytes::mac_bytes,
    icmp, maps,
    parse::{ETHERNET, Frame, Packet},
    rewrite::{self, Refused, TCP_CHECKSUM, UDP_CHECKSUM, V4_CHECKSUM, v4},
};

/// Hops that an answer begins with.
pub const HOPS: u8 = 64;
const V4_HEADER: u32 = 20;
const V6_HEADER: u32 = 40;
const V4_LENGTH: u32 = ETHERNET + 2;
const V6_LENGTH: u32 = ETHERNET + 4;
const TCP_HEADER: u32 = 20;
/// What is quoted of a UDP datagram: its header.
const UDP_HEADER: u32 = 8;
const ICMP_HEADER: u32 = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Whether a packet to no service is to be refused: one with a plain IP header, from somebody, no reset, and not too many.
#[inline(always)]
pub fn is_due(frame: &Frame, packet: &Packet) -> bool {
    let plain = packet.transport == ETHERNET + if packet.v6 { V6_HEADER } else { V4_HEADER };
    plain
        && !packet.resets()
        && icmp::unanswerable(frame, packet).is_none()
        && !maps::is_from_node(&mac_bytes(frame.source), frame.uplink)
        && maps::may_refuse()
}

/// Makes a TCP segment the reset that answers it.
#[inline(always)]
pub fn reset(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Result<(), Refused> {
    let at = packet.transport;
    let mut header: [u8; TCP_HEADER as usize] = ctx.load(at as usize)?;
    let ip_length = ip_length(ctx, packet)?;
    let partial = is_partial(ctx, at + TCP_CHECKSUM)?;
    answer_segment(&mut header, ip_length.wrapping_sub(at - ETHERNET));
    let pseudo = pseudo_header(&packet.tuple, TCP, TCP_HEADER);
    let sum = if partial { fold(pseudo) } else { !fold(sum(&header, pseudo)) };
    [header[16], header[17]] = sum.to_ne_bytes();
    change_tail(ctx, at + TCP_HEADER)?;
    set_length(ctx, packet, ip_length, at - ETHERNET + TCP_HEADER)?;
    ctx.store(at as usize, &header, BPF_F_RECOMPUTE_CSUM as u64)?;
    rewrite::turn_back(ctx, packet, frame, HOPS)
}

/// A TCP header's answer, without a checksum. A segment with an acknowledgement is told the number it expects; any other is
/// acknowledged, its flags included; `length` is that of the segment with its header.
#[inline(always)]
fn answer_segment(header: &mut [u8; TCP_HEADER as usize], length: u32) {
    let [a, b, c, d, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, ..] = *header;
    let (sequence, acknowledgement, flags) = if flags & ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], RST)
    } else {
        let data = length.wrapping_sub((offset >> 4) as u32 * 4);
        let taken = data + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(taken);
        ([0; 4], next.to_be_bytes(), RST | ACK)
    };
    let [e, f, g, h] = sequence;
    let [i, j, k, l] = acknowledgement;
    *header = [c, d, a, b, e, f, g, h, i, j, k, l, 0x50, flags, 0, 0, 0, 0, 0, 0];
}

/// Makes a UDP datagram the error that tells its sender that the port is not there, quoting its headers.
#[inline(always)]
pub fn unreachable(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Result<(), Refused> {
    let at = packet.transport;
    let partial = is_partial(ctx, at + UDP_CHECKSUM)?;
    let udp: [u8; UDP_HEADER as usize] = ctx.load(at as usize)?;
    // What is filled in later makes the covered bytes, cut to these, the complement of what the field holds now.
    let udp = if partial { !u16::from_ne_bytes([udp[6], udp[7]]) as u32 } else { sum(&udp, 0) };
    change_tail(ctx, at + UDP_HEADER)?;
    if packet.v6 { unreachable_v6(ctx, packet, udp) } else { unreachable_v4(ctx, packet, udp) }?;
    rewrite::address_frame(ctx, frame.uplink, &mac_bytes(frame.source))
}

#[inline(always)]
fn unreachable_v4(ctx: &TcContext, packet: &Packet, udp: u32) -> Result<(), Refused> {
    const LENGTH: u8 = (V4_HEADER + ICMP_HEADER + V4_HEADER + UDP_HEADER) as u8;
    ctx.adjust_room((V4_HEADER + ICMP_HEADER) as i32, BPF_ADJ_ROOM_MAC, 0)?;
    let Tuple { source, destination, .. } = &packet.tuple;
    let ([a, b, c, d], [e, f, g, h]) = (v4(destination), v4(source));
    let mut header = [0x45, 0, 0, LENGTH, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0, a, b, c, d, e, f, g, h];
    [header[10], header[11]] = (!fold(sum(&header, 0))).to_ne_bytes();
    ctx.store(ETHERNET as usize, &header, BPF_F_RECOMPUTE_CSUM as u64)?;
    // The quoted IP header sums up to zero: it has a checksum.
    let mut message = [3, 3, 0, 0, 0, 0, 0, 0];
    [message[2], message[3]] = (!fold(sum(&message, udp))).to_ne_bytes();
    ctx.store((ETHERNET + V4_HEADER) as usize, &message, BPF_F_RECOMPUTE_CSUM as u64)
}

#[inline(always)]
fn unreachable_v6(ctx: &TcContext, packet: &Packet, udp: u32) -> Result<(), Refused> {
    const LENGTH: u32 = ICMP_HEADER + V6_HEADER + UDP_HEADER;
    let quoted: [u8; 8] = ctx.load(ETHERNET as usize)?;
    ctx.adjust_room((V6_HEADER + ICMP_HEADER) as i32, BPF_ADJ_ROOM_MAC, 0)?;
    let Tuple { source, destination, .. } = &packet.tuple;
    let header = [0x60, 0, 0, 0, 0, LENGTH as u8, ICMPV6, HOPS];
    ctx.store(ETHERNET as usize, &header, BPF_F_RECOMPUTE_CSUM as u64)?;
    ctx.store(ETHERNET as usize + 8, destination, BPF_F_RECOMPUTE_CSUM as u64)?;
    ctx.store(ETHERNET as usize + 24, source, BPF_F_RECOMPUTE_CSUM as u64)?;
    // The addresses count twice, in the pseudo header and in the quoted one.
    let addresses = pseudo_header(&packet.tuple, 0, 0);
    let covered = pseudo_header(&packet.tuple, ICMPV6, LENGTH) + fold(addresses) as u32 + fold(udp) as u32;
    let mut message = [1, 4, 0, 0, 0, 0, 0, 0];
    let covered = sum(&quoted, fold(covered) as u32);
    [message[2], message[3]] = (!fold(sum(&message, fold(covered) as u32))).to_ne_bytes();
    ctx.store((ETHERNET + V6_HEADER) as usize, &message, BPF_F_RECOMPUTE_CSUM as u64)
}

/// Whether the checksum in this field has yet to be filled in. The field is left as it was.
#[inline(always)]
fn is_partial(ctx: &TcContext, field: u32) -> Result<bool, Refused> {
    let field = field as usize;
    let before: [u8; 2] = ctx.load(field)?;
    ctx.l4_csum_replace(field, 0, 1, 2)?;
    let after: [u8; 2] = ctx.load(field)?;
    ctx.store(field, &before, 0)?;
    Ok(before == after)
}

/// Bytes of the IP packet, header included, as it says.
#[inline(always)]
pub fn ip_length(ctx: &TcContext, packet: &Packet) -> Result<u32, Refused> {
    let (field, more) = if packet.v6 { (V6_LENGTH, V6_HEADER) } else { (V4_LENGTH, 0) };
    let length: [u8; 2] = ctx.load(field as usize)?;
    Ok(u16::from_be_bytes(length) as u32 + more)
}

/// The same, changed.
#[inline(always)]
pub fn set_length(ctx: &TcContext, packet: &Packet, from: u32, to: u32) -> Result<(), Refused> {
    if packet.v6 {
        let length = ((to - V6_HEADER) as u16).to_be_bytes();
        return ctx.store(V6_LENGTH as usize, &length, BPF_F_RECOMPUTE_CSUM as u64);
    }
    let (old, new) = ((from as u16).to_be(), (to as u16).to_be());
    ctx.l3_csum_replace(V4_CHECKSUM as usize, old as u64, new as u64, 2)?;
    ctx.store(V4_LENGTH as usize, &new, 0)
}

/// Cuts the frame to a length.
#[inline(always)]
pub fn change_tail(ctx: &TcContext, length: u32) -> Result<(), Refused> {
    // SAFETY: the context is valid for the program's run; the helper checks the length.
    let refused = unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) };
    if refused == 0 { Ok(()) } else { Err(refused) }
}

/// The sum of what a checksum covers beside the packet. An IPv4-mapped address sums up like the IPv4 address.
#[inline(always)]
fn pseudo_header(tuple: &Tuple, protocol: u8, length: u32) -> u32 {
    let addresses = (&raw const *tuple).cast_mut().cast();
    // SAFETY: the addresses are the first 32 bytes of the tuple, which the helper only reads.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, addresses, 32, 0) };
    fold(sum as u32) as u32 + (protocol as u16).to_be() as u32 + (length as u16).to_be() as u32
}

/// A sum of 16-bit words as they lie in memory, added to another that is [`fold`]ed or small.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N], seed: u32) -> u32 {
    let at = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the helper only reads the initialised bytes.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at, N as u32, seed) as u32 }
}

/// A sum in 16 bits, with end-around carry.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
