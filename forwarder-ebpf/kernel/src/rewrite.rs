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
    words,
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
pub const V4_SOURCE: u32 = ETHERNET + 12;
pub const V4_DESTINATION: u32 = ETHERNET + 16;
pub const V6_SOURCE: u32 = ETHERNET + 8;
pub const V6_DESTINATION: u32 = ETHERNET + 24;
pub const TCP_CHECKSUM: u32 = 16;
pub const UDP_CHECKSUM: u32 = 6;

/// Both ends that a packet is given. References are into maps: the stack holds 512 bytes.
pub struct Ends {
    pub source: &'static Address,
    pub destination: &'static Address,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

/// Gives the packet another destination, and the client another port. On the way in packets are written where they lie, which
/// costs less than a call; those that somebody else holds too the kernel copies before the program runs.
#[inline(always)]
pub fn destination(
    ctx: &TcContext,
    packet: &Packet,
    address: &Address,
    port: [u8; 2],
    client_port: [u8; 2],
) -> Result<(), Refused> {
    let ports = ports(client_port, port);
    change_checksum(ctx, packet, &packet.tuple.destination, address, ports)?;
    destination_address(ctx, packet, address)?;
    let header = bytes::at(ctx, packet.transport, size_of::<u32>() as u32).ok_or(NO_HEADER)?;
    // SAFETY: these bytes are the packet's; see [`bytes`] for the boundary.
    unsafe { header.cast_mut().cast::<u32>().write(ports) };
    Ok(())
}

/// Gives the packet another source, and the client another port. By the kernel's helpers: what a host sends is as a rule held
/// by its socket as well, and a program that writes it where it lies has all of it copied, also what is no VIP's.
#[inline(always)]
pub fn source(
    ctx: &TcContext,
    packet: &Packet,
    address: &Address,
    port: [u8; 2],
    client_port: [u8; 2],
) -> Result<(), Refused> {
    let ports = ports(port, client_port);
    change_checksum(ctx, packet, &packet.tuple.source, address, ports)?;
    source_address(ctx, packet, address)?;
    if ports == words::ports(&packet.tuple) {
        return Ok(());
    }
    ctx.store(packet.transport as usize, &ports, 0)
}

/// Gives the packet another destination address, of which a checksum behind the IP header knows already, or is in another part.
#[inline(always)]
pub fn destination_address(ctx: &TcContext, packet: &Packet, address: &Address) -> Result<(), Refused> {
    let Tuple { source, destination, .. } = &packet.tuple;
    if packet.v6 {
        // IPv6 has no header checksum to take up the difference: a checksum over the whole frame must be told.
        return ctx.store(V6_DESTINATION as usize, address, BPF_F_RECOMPUTE_CSUM as u64);
    }
    let ends = v4_ends(ctx, destination, address, source, address).ok_or(NO_HEADER)?;
    let header = bytes::at(ctx, V4_CHECKSUM, size_of_val(&ends) as u32).ok_or(NO_HEADER)?;
    // SAFETY: these bytes are the packet's.
    unsafe { header.cast_mut().cast::<[u8; 10]>().write(ends) };
    Ok(())
}

/// The same of its source address.
#[inline(always)]
pub fn source_address(ctx: &TcContext, packet: &Packet, address: &Address) -> Result<(), Refused> {
    let Tuple { source, destination, .. } = &packet.tuple;
    if packet.v6 {
        return ctx.store(V6_SOURCE as usize, address, BPF_F_RECOMPUTE_CSUM as u64);
    }
    let ends = v4_ends(ctx, source, address, address, destination).ok_or(NO_HEADER)?;
    ctx.store(V4_CHECKSUM as usize, &ends, 0)
}

/// Both ports, as they lie in a packet.
#[inline(always)]
fn ports(source: [u8; 2], destination: [u8; 2]) -> u32 {
    u16::from_ne_bytes(source) as u32 | (u16::from_ne_bytes(destination) as u32) << 16
}

/// Gives the packet both ends anew, and one hop less.
#[inline(always)]
pub fn both(ctx: &TcContext, packet: &Packet, ends: &Ends) -> Result<(), Refused> {
    let Tuple { source, destination, .. } = &packet.tuple;
    let ports = ports(ends.source_port, ends.destination_port);
    set_hops(ctx, packet, packet.hops.saturating_sub(1))?;
    change_checksum(ctx, packet, destination, ends.destination, words::ports(&packet.tuple))?;
    change_checksum(ctx, packet, source, ends.source, ports)?;
    if packet.v6 {
        ctx.store(V6_SOURCE as usize, ends.source, BPF_F_RECOMPUTE_CSUM as u64)?;
        ctx.store(V6_DESTINATION as usize, ends.destination, BPF_F_RECOMPUTE_CSUM as u64)?;
    } else {
        for (from, to) in [(source, ends.source), (destination, ends.destination)] {
            ctx.l3_csum_replace(V4_CHECKSUM as usize, v4_word(from) as u64, v4_word(to) as u64, 4)?;
        }
        ctx.store(V4_SOURCE as usize, &v4(ends.source), 0)?;
        ctx.store(V4_DESTINATION as usize, &v4(ends.destination), 0)?;
    }
    ctx.store(packet.transport as usize, &ports, 0)
}

/// Addresses the frame to a node on the same segment, with so many hops left.
#[inline(always)]
pub fn hand_on(ctx: &TcContext, packet: &Packet, uplink: &Uplink, mac: &[u8; 6], hops: u8) -> Result<(), Refused> {
    set_hops(ctx, packet, hops)?;
    address_frame(ctx, uplink, mac)
}

/// Gives the packet so many hops.
#[inline(always)]
pub fn set_hops(ctx: &TcContext, packet: &Packet, hops: u8) -> Result<(), Refused> {
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

/// Has the checksum say that one address is another, and the ports are these. SCTP's knows no addresses, and is of the whole packet: its
/// ports stay.
#[inline(always)]
fn change_checksum(ctx: &TcContext, packet: &Packet, from: &Address, to: &Address, ports: u32) -> Result<(), Refused> {
    let before = words::ports(&packet.tuple);
    if packet.is_sctp() {
        return if ports == before { Ok(()) } else { Err(NO_CHECKSUM) };
    }
    // A UDP checksum of zero means there is none and stays; one that becomes zero is written as 0xffff.
    let (offset, flags) = if packet.is_tcp() { (TCP_CHECKSUM, 0) } else { (UDP_CHECKSUM, BPF_F_MARK_MANGLED_0 as u64) };
    let checksum = (packet.transport + offset) as usize;
    let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
    if packet.v6 {
        ctx.l4_csum_replace(checksum, 0, difference(from, to), pseudo)?;
    } else {
        ctx.l4_csum_replace(checksum, v4_word(from) as u64, v4_word(to) as u64, pseudo | 4)?;
    }
    if ports == before {
        return Ok(());
    }
    ctx.l4_csum_replace(checksum, before as u64, ports as u64, flags | 4)
}

/// The end of an IPv4 header, from its checksum on, when one of its addresses changes from one to another.
#[inline(always)]
fn v4_ends(ctx: &TcContext, from: &Address, to: &Address, source: &Address, destination: &Address) -> Option<[u8; 10]> {
    let [s, t] = header_checksum(ctx, v4_word(from), v4_word(to))?.to_ne_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (v4(source), v4(destination));
    Some([s, t, a, b, c, d, e, f, g, h])
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

/// An IPv4 address as it lies in a packet.
#[inline(always)]
fn v4_word(address: &Address) -> u32 {
    u32::from_ne_bytes(v4(address))
}

/// The four bytes of an IPv4 address.
#[inline(always)]
pub fn v4(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}
