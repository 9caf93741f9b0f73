//! Reads headers. Nothing is trusted: every read is checked by the kernel's helper against the packet's end.

use aya_ebpf::programs::TcContext;
use forwarder_ebpf::{Address, DropReason, TCP, Tuple, UDP, Uplink, mapped};

use crate::maps;

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
const ETHERTYPE_V4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_V6: u32 = 0x86dd_u16.to_be() as u32;

/// The protocol number of ICMP.
const ICMP: u8 = 1;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that are walked.
const EXTENSIONS: u32 = 4;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The port of HTTP/3, on which UDP is taken for QUIC.
const QUIC_PORT: [u8; 2] = 443_u16.to_be_bytes();

/// A frame that came in by an uplink.
pub struct Frame {
    /// The uplink.
    pub uplink: &'static Uplink,
    /// Whom it is addressed to.
    pub destination: [u8; 6],
    /// Who sent it, on the segment.
    pub source: [u8; 6],
}

/// A packet, as far as it has been read: [`network`] fills in the IP header, [`transport`] the rest.
pub struct Packet {
    /// Both ends.
    pub tuple: Tuple,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// IPv4 only: a part of a packet.
    pub fragment: bool,
    /// TTL or hop limit.
    pub hops: u8,
    /// The TCP flags; 0 for UDP.
    pub flags: u8,
    /// A QUIC packet of a connection that has begun.
    pub quic: bool,
    /// Offset of what follows the IP header; once [`transport`] is through, of the TCP or UDP header.
    pub transport: u32,
}

impl Packet {
    /// Opens a connection (UDP has no such packet: a datagram of an unknown flow does).
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Belongs to a connection that has begun, which lives on some node or nowhere.
    #[inline(always)]
    pub fn continues(&self) -> bool {
        if self.is_tcp() { !self.opens() } else { self.quic }
    }

    /// Makes it one that belongs to a connection that has begun: TCP mid-flow, or to be searched for like QUIC.
    #[inline(always)]
    pub fn continue_flow(&mut self) {
        (self.flags, self.quic) = if self.is_tcp() { (TCP_ACK, false) } else { (0, true) };
    }

    /// Closes a connection, from its sender's side or by a reset.
    #[inline(always)]
    pub fn ends(&self) -> bool {
        self.flags & (TCP_FIN | TCP_RST) != 0
    }

    /// Resets a connection.
    #[inline(always)]
    pub fn resets(&self) -> bool {
        self.flags & TCP_RST != 0
    }

    /// TCP, else UDP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tuple.protocol == TCP
    }
}

/// What follows the IP header.
pub enum Transport {
    /// A whole TCP segment or UDP datagram.
    Whole,
    /// Something that cannot be carried.
    Unfit(DropReason),
    /// Neighbour discovery.
    Discovery,
    /// A ping.
    Echo,
    /// An ICMP error.
    Error,
}

/// The frame, if it came in by an uplink.
#[inline(always)]
pub fn uplink_frame(ctx: &TcContext) -> Option<Frame> {
    let uplink = maps::uplink(maps::interface(ctx))?;
    // SAFETY: the context is valid for the program's run.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return None;
    }
    let header: [u8; ETHERNET as usize] = ctx.load(0).ok()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = header;
    Some(Frame { uplink, destination: [d0, d1, d2, d3, d4, d5], source: [s0, s1, s2, s3, s4, s5] })
}

impl Frame {
    /// Whether it is addressed to this node's own MAC.
    #[inline(always)]
    pub fn is_ours(&self) -> bool {
        self.destination == self.uplink.mac
    }
}

/// The IP header, if it is one.
#[inline(always)]
pub fn network(ctx: &TcContext) -> Option<Packet> {
    match ctx.skb.protocol() {
        ETHERTYPE_V4 => network_v4(ctx),
        ETHERTYPE_V6 => network_v6(ctx),
        _ => None,
    }
}

#[inline(always)]
fn network_v4(ctx: &TcContext) -> Option<Packet> {
    let header: [u8; 20] = ctx.load(ETHERNET as usize).ok()?;
    let words = (header[0] & 0x0f) as u32;
    if words < 5 {
        return None;
    }
    let source = mapped([header[12], header[13], header[14], header[15]]);
    let destination = mapped([header[16], header[17], header[18], header[19]]);
    let mut packet = packet(source, destination, header[9], header[8], ETHERNET + words * 4);
    // More fragments, or an offset.
    packet.fragment = header[6] & 0x3f != 0 || header[7] != 0;
    Some(packet)
}

#[inline(always)]
fn network_v6(ctx: &TcContext) -> Option<Packet> {
    let header: [u8; 8] = ctx.load(ETHERNET as usize).ok()?;
    let source = ctx.load(ETHERNET as usize + 8).ok()?;
    let destination = ctx.load(ETHERNET as usize + 24).ok()?;
    let mut packet = packet(source, destination, header[6], header[7], ETHERNET + 40);
    packet.v6 = true;
    Some(packet)
}

/// A packet of which its ports, and all that is behind them, have yet to be read.
#[inline(always)]
pub fn packet(source: Address, destination: Address, protocol: u8, hops: u8, transport: u32) -> Packet {
    let ports = [0; 2];
    let tuple = Tuple { source, destination, source_port: ports, destination_port: ports, protocol, pad: [0; 3] };
    Packet { tuple, v6: false, fragment: false, hops, flags: 0, quic: false, transport }
}

/// The TCP or UDP header behind an IP header.
#[inline(always)]
pub fn transport(ctx: &TcContext, packet: &mut Packet) -> Transport {
    if packet.fragment {
        return Transport::Unfit(DropReason::Fragment);
    }
    if packet.v6 {
        if let Some(reason) = skip_extensions(ctx, packet) {
            return Transport::Unfit(reason);
        }
    }
    let offset = packet.transport as usize;
    match packet.tuple.protocol {
        TCP => match ctx.load::<[u8; 20]>(offset) {
            Ok(header) => {
                packet.flags = header[13];
                ports(packet, [header[0], header[1], header[2], header[3]])
            }
            Err(_) => Transport::Unfit(DropReason::Malformed),
        },
        UDP => udp(ctx, packet, offset),
        ICMP if !packet.v6 => match ctx.load::<[u8; 8]>(offset) {
            Ok([8, 0, ..]) => Transport::Echo,
            // Destination unreachable, time exceeded, parameter problem.
            Ok([3 | 11 | 12, ..]) => Transport::Error,
            Ok(_) => Transport::Unfit(DropReason::Protocol),
            Err(_) => Transport::Unfit(DropReason::Malformed),
        },
        ICMPV6 if packet.v6 => match ctx.load::<[u8; 8]>(offset) {
            Ok([133..=137, ..]) => Transport::Discovery,
            Ok([128, 0, ..]) => Transport::Echo,
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            Ok([1..=4, ..]) => Transport::Error,
            Ok(_) => Transport::Unfit(DropReason::Protocol),
            Err(_) => Transport::Unfit(DropReason::Malformed),
        },
        _ => Transport::Unfit(DropReason::Protocol),
    }
}

/// The UDP header, and on QUIC's port the first byte behind it. RFC 9000, 17.3: a short header begins with the bits 01; it is of
/// a connection whose handshake is over. Long headers are of its beginning, and are let go where new ones go.
#[inline(always)]
fn udp(ctx: &TcContext, packet: &mut Packet, offset: usize) -> Transport {
    let Ok(header) = ctx.load::<[u8; 8]>(offset) else { return Transport::Unfit(DropReason::Malformed) };
    if [header[2], header[3]] == QUIC_PORT {
        if let Ok(first) = ctx.load::<u8>(offset + 8) {
            packet.quic = first & 0xc0 == 0x40;
        }
    }
    ports(packet, [header[0], header[1], header[2], header[3]])
}

/// Whether a packet that is for no VIP opens a TCP connection; only then are its ports read. Of every other packet
/// one byte is looked at. Extension headers are not walked.
#[inline(always)]
pub fn opens_directly(ctx: &TcContext, packet: &mut Packet) -> bool {
    if packet.fragment || !packet.is_tcp() {
        return false;
    }
    let offset = packet.transport as usize;
    let Ok(flags) = ctx.load::<u8>(offset + 13) else { return false };
    packet.flags = flags;
    if !packet.opens() {
        return false;
    }
    let Ok(read) = ctx.load::<[u8; 4]>(offset) else { return false };
    ports(packet, read);
    true
}

/// Notes the ports.
#[inline(always)]
fn ports(packet: &mut Packet, [a, b, c, d]: [u8; 4]) -> Transport {
    packet.tuple.source_port = [a, b];
    packet.tuple.destination_port = [c, d];
    Transport::Whole
}

/// Walks RFC 8200's extension headers, to the protocol and its offset. A fragment header that makes no fragment
/// (RFC 6946) is walked over.
#[inline(always)]
fn skip_extensions(ctx: &TcContext, packet: &mut Packet) -> Option<DropReason> {
    for _ in 0..EXTENSIONS {
        let next = packet.tuple.protocol;
        if !is_extension(next) {
            return None;
        }
        let Ok(header) = ctx.load::<[u8; 4]>(packet.transport as usize) else {
            return Some(DropReason::Malformed);
        };
        if next == FRAGMENT {
            // The offset's 13 bits and the flag "more".
            if header[2] != 0 || header[3] & 0xf9 != 0 {
                return Some(DropReason::Fragment);
            }
            packet.transport += 8;
        } else {
            packet.transport += (header[1] as u32 + 1) * 8;
        }
        packet.tuple.protocol = header[0];
    }
    is_extension(packet.tuple.protocol).then_some(DropReason::Extension)
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT)
}
