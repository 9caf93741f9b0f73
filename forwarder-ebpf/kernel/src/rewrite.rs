//! Changes packets. Checksums are changed by difference through the kernel's helpers, which know what is in the
//! packet and what the hardware has yet to fill in (partial checksums, segments to be cut).

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::bpf_csum_diff,
    programs::TcContext,
};
use forwarder_ebpf::{Address, Tuple, Uplink};

use crate::{
    bytes::mac_bytes,
    parse::{ETHERNET, Frame, Packet},
};

/// An error code of the kernel's helpers.
pub type Refused = i64;

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
enum End {
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

/// Where the checksum over addresses and ports is, and how it is changed.
#[inline(always)]
fn checksum(packet: &Packet) -> (usize, u64) {
    if packet.is_tcp() {
        ((packet.transport + TCP_CHECKSUM) as usize, 0)
    } else {
        // A UDP checksum of zero means there is none and stays; one that becomes zero is written as 0xffff.
        ((packet.transport + UDP_CHECKSUM) as usize, BPF_F_MARK_MANGLED_0 as u64)
    }
}

#[inline(always)]
fn end_address(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old_address: &Address,
    address: &Address,
) -> Result<(), Refused> {
    let (checksum, flags) = checksum(packet);
    let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
    if packet.v6 {
        ctx.l4_csum_replace(checksum, 0, difference(old_address, address), pseudo)?;
        let offset = match end {
            End::Source => V6_SOURCE,
            End::Destination => V6_DESTINATION,
        };
        // IPv6 has no header checksum to take up the difference: a checksum over the whole frame must be told.
        ctx.store(offset as usize, address, BPF_F_RECOMPUTE_CSUM as u64)?;
    } else {
        let (from, to) = (v4(old_address), v4(address));
        let (old, new) = (u32::from_ne_bytes(from) as u64, u32::from_ne_bytes(to) as u64);
        ctx.l4_csum_replace(checksum, old, new, pseudo | 4)?;
        ctx.l3_csum_replace(V4_CHECKSUM as usize, old, new, 4)?;
        let offset = match end {
            End::Source => V4_SOURCE,
            End::Destination => V4_DESTINATION,
        };
        ctx.store(offset as usize, &to, 0)?;
    }
    Ok(())
}

#[inline(always)]
fn end_port(ctx: &TcContext, packet: &Packet, end: End, old_port: [u8; 2], port: [u8; 2]) -> Result<(), Refused> {
    if port == old_port {
        return Ok(());
    }
    let (checksum, flags) = checksum(packet);
    let (old, new) = (u16::from_ne_bytes(old_port) as u64, u16::from_ne_bytes(port) as u64);
    ctx.l4_csum_replace(checksum, old, new, flags | 2)?;
    let offset = match end {
        End::Source => packet.transport,
        End::Destination => packet.transport + 2,
    };
    ctx.store(offset as usize, &port, 0)
}

/// What a change of addresses does to a sum of 16-bit words, as the helpers take it.
#[inline(always)]
pub fn difference(from: &Address, to: &Address) -> u64 {
    let (from, to) = (from.as_ptr().cast_mut().cast(), to.as_ptr().cast_mut().cast());
    // SAFETY: both point to 16 initialised bytes, which the helper only reads.
    (unsafe { bpf_csum_diff(from, 16, to, 16, 0) }) as u64
}

/// The four bytes of an IPv4 address.
#[inline(always)]
pub fn v4(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}
