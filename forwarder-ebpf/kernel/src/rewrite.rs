//! Changes packets. Checksums are changed by difference through the kernel's helpers, which know what is in the
//! packet and what the hardware has yet to fill in (partial checksums, segments to be cut).

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use forwarder_ebpf::{Address, Tuple, Uplink};

use crate::{
    bytes::{self, mac_bytes},
    parse::{ETHERNET, Frame, Packet},
};

/// An error code of the kernel's helpers.
pub type Refused = i64;

/// An IP header that was read cannot be read any more.
const NO_HEADER: Refused = -1;
/// A port of an SCTP packet cannot be changed.
const NO_CHECKSUM: Refused = -2;

pub const V4_CHECKSUM: u32 = ETHERNET + 10;
const V4_TTL: u32 = ETHERNET + 8;
const V6_HOPS: u32 = ETHERNET + 7;
const V4_SOURCE: u32 = ETHERNET + 12;
pub const V4_DESTINATION: u32 = ETHERNET + 16;
const V6_SOURCE: u32 = ETHERNET + 8;
pub const V6_DESTINATION: u32 = ETHERNET + 24;
pub const TCP_CHECKSUM: u32 = 16;
pub const UDP_CHECKSUM: u32 = 6;

/// Which end of a packet is changed.
#[derive(Clone, Copy)]
pub enum End {
    Source,
    Destination,
}

/// Gives the packet another destination, and the client another port.
#[inline(always)]
pub fn destination(
    ctx: &TcContext,
    packet: &Packet,
    address: &Address,
    port: [u8; 2],
    client_port: [u8; 2],
) -> Result<(), Refused> {
    let tuple = &packet.tuple;
    end_address(ctx, packet, End::Destination, &tuple.destination, address)?;
    end_port(ctx, packet, End::Destination, tuple.destination_port, port)?;
    end_port(ctx, packet, End::Source, tuple.source_port, client_port)
}

/// Gives the packet another source, and the client another port.
#[inline(always)]
pub fn source(
    ctx: &TcContext,
    packet: &Packet,
    address: &Address,
    port: [u8; 2],
    client_port: [u8; 2],
) -> Result<(), Refused> {
    let tuple = &packet.tuple;
    end_address(ctx, packet, End::Source, &tuple.source, address)?;
    end_port(ctx, packet, End::Source, tuple.source_port, port)?;
    end_port(ctx, packet, End::Destination, tuple.destination_port, client_port)
}

/// Addresses the frame to a node on the same segment, with so many hops left.
#[inline(always)]
pub fn hand_on(ctx: &TcContext, packet: &Packet, uplink: &Uplink, mac: &[u8; 6], hops: u8) -> Result<(), Refused> {
    set_hops(ctx, packet, hops)?;
    address_frame(ctx, uplink, mac)
}

/// Gives the packet so many hops.
#[inline(always)]
fn set_hops(ctx: &TcContext, packet: &Packet, hops: u8) -> Result<(), Refused> {
    if packet.v6 {
        ctx.store(V6_HOPS as usize, &hops, BPF_F_RECOMPUTE_CSUM as u64)
    } else {
        // The TTL is the first byte of its 16-bit word; the second, the protocol, cancels out.
        let (from, to) = (u16::from_ne_bytes([packet.hops, 0]), u16::from_ne_bytes([hops, 0]));
        ctx.l3_csum_replace(V4_CHECKSUM as usize, from as u64, to as u64, 2)?;
        ctx.store(V4_TTL as usize, &hops, 0)
    }
}

/// Addresses the frame to another on the same segment, from this node.
#[inline(always)]
pub fn address_frame(ctx: &TcContext, uplink: &Uplink, mac: &[u8; 6]) -> Result<(), Refused> {
    let [d0, d1, d2, d3, d4, d5] = *mac;
    let [s0, s1, s2, s3, s4, s5] = uplink.mac;
    ctx.store(0, &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5], 0)
}

/// Sends the packet back where it came from: to the frame's sender, its source and destination swapped (which changes no
/// checksum), with so many hops.
#[inline(always)]
pub fn turn_back(ctx: &TcContext, packet: &Packet, frame: &Frame, hops: u8) -> Result<(), Refused> {
    let Tuple { source, destination, .. } = &packet.tuple;
    if packet.v6 {
        ctx.store(V6_SOURCE as usize, destination, 0)?;
        ctx.store(V6_DESTINATION as usize, source, 0)?;
    } else {
        ctx.store(V4_SOURCE as usize, &v4(destination), 0)?;
        ctx.store(V4_DESTINATION as usize, &v4(source), 0)?;
    }
    set_hops(ctx, packet, hops)?;
    address_frame(ctx, frame.uplink, &mac_bytes(frame.source))
}

/// Changes the checksum over addresses and ports, if there is one.
#[inline(always)]
fn change_checksum(ctx: &TcContext, packet: &Packet, from: u64, to: u64, flags: u64) -> Result<(), Refused> {
    let (checksum, more) = if packet.is_tcp() {
        (TCP_CHECKSUM, 0)
    } else if packet.is_sctp() {
        return Ok(());
    } else {
        // A UDP checksum of zero means there is none and stays; one that becomes zero is written as 0xffff.
        (UDP_CHECKSUM, BPF_F_MARK_MANGLED_0 as u64)
    };
    ctx.l4_csum_replace((packet.transport + checksum) as usize, from, to, flags | more)
}

/// Gives a part of a packet without ports another address, as the first part was given: a checksum over that is in there.
#[inline(always)]
pub fn address(ctx: &TcContext, packet: &Packet, end: End, address: &Address) -> Result<(), Refused> {
    let tuple = &packet.tuple;
    let old = match end {
        End::Source => &tuple.source,
        End::Destination => &tuple.destination,
    };
    store_address(ctx, packet, end, old, address)
}

#[inline(always)]
fn end_address(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old_address: &Address,
    address: &Address,
) -> Result<(), Refused> {
    let pseudo = BPF_F_PSEUDO_HDR as u64;
    if packet.v6 {
        change_checksum(ctx, packet, 0, difference(old_address, address), pseudo)?;
    } else {
        let (from, to) = (u32::from_ne_bytes(v4(old_address)), u32::from_ne_bytes(v4(address)));
        change_checksum(ctx, packet, from as u64, to as u64, pseudo | 4)?;
    }
    store_address(ctx, packet, end, old_address, address)
}

#[inline(always)]
fn store_address(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old_address: &Address,
    address: &Address,
) -> Result<(), Refused> {
    if packet.v6 {
        let offset = match end {
            End::Source => V6_SOURCE,
            End::Destination => V6_DESTINATION,
        };
        // IPv6 has no header checksum to take up the difference: a checksum over the whole frame must be told.
        return ctx.store(offset as usize, address, BPF_F_RECOMPUTE_CSUM as u64);
    }
    let tuple = &packet.tuple;
    let ([a, b, c, d], [e, f, g, h]) = match end {
        End::Source => (v4(address), v4(&tuple.destination)),
        End::Destination => (v4(&tuple.source), v4(address)),
    };
    let (from, to) = (u32::from_ne_bytes(v4(old_address)), u32::from_ne_bytes(v4(address)));
    let [s, t] = header_checksum(ctx, from, to).ok_or(NO_HEADER)?.to_ne_bytes();
    // What is behind the checksum are the addresses: one call instead of two.
    ctx.store(V4_CHECKSUM as usize, &[s, t, a, b, c, d, e, f, g, h], 0)
}

/// What the IP header's checksum is when one of its words changes (RFC 1624, equation 3).
#[inline(always)]
fn header_checksum(ctx: &TcContext, from: u32, to: u32) -> Option<u16> {
    let field = bytes::at(ctx, V4_CHECKSUM, 2 + 8)?;
    // SAFETY: these bytes are the packet's.
    let before = unsafe { bytes::half(field) };
    let halves = |word: u32| (word & 0xffff) + (word >> 16);
    let sum = !before as u32 + halves(!from) + halves(to);
    let sum = (sum & 0xffff) + (sum >> 16);
    Some(!((sum & 0xffff) + (sum >> 16)) as u16)
}

#[inline(always)]
fn end_port(ctx: &TcContext, packet: &Packet, end: End, old_port: [u8; 2], port: [u8; 2]) -> Result<(), Refused> {
    if port == old_port {
        return Ok(());
    }
    if packet.is_sctp() {
        return Err(NO_CHECKSUM);
    }
    let (old, new) = (u16::from_ne_bytes(old_port) as u64, u16::from_ne_bytes(port) as u64);
    change_checksum(ctx, packet, old, new, 2)?;
    let offset = match end {
        End::Source => packet.transport,
        End::Destination => packet.transport + 2,
    };
    ctx.store(offset as usize, &port, 0)
}

/// What a change of addresses does to a sum of 16-bit words, as the helpers take it: a sum of 32-bit words says the same. Both lie on
/// a word's boundary, in a map or in a [`Tuple`].
#[inline(always)]
pub fn difference(from: &Address, to: &Address) -> u64 {
    // The sum of the words' complements, and of the new words.
    let sum = sum(to) + (u32::MAX as u64 * 4 - sum(from));
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// The sum of an address's words.
#[inline(always)]
fn sum(address: &Address) -> u64 {
    let at = address.as_ptr();
    // SAFETY: four words.
    unsafe {
        bytes::word(at) as u64
            + bytes::word(at.add(4)) as u64
            + bytes::word(at.add(8)) as u64
            + bytes::word(at.add(12)) as u64
    }
}

/// The four bytes of an IPv4 address.
#[inline(always)]
pub fn v4(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}
