//! Reads headers. Nothing is trusted: every read is checked against the packet's end.

use aya_ebpf::programs::TcContext;
use forwarder_ebpf::{Address, DropReason, SCTP, TCP, Tuple, UDP, Uplink, mapped};

use crate::{
    bytes::{self, Mac, half, mac_of, word},
    maps, sctp,
};

/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
const ETHERTYPE_V4: u32 = 0x0800_u16.to_be() as u32;
/// IPv6, as [`TcContext`] has it.
pub const ETHERTYPE_V6: u32 = 0x86dd_u16.to_be() as u32;

/// "More fragments", and an offset, as they lie in a packet.
const FRAGMENT_V4: u16 = 0x3fff_u16.to_be();

/// The protocol number of ICMP.
const ICMP: u8 = 1;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that are walked.
const EXTENSIONS: u32 = 4;

pub const TCP_FIN: u8 = 0x01;
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;

/// Bytes of headers without options.
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const ICMP_HEADER: u32 = 8;
const SCTP_HEADER: u32 = 12;
/// Bytes of the header of each chunk behind it.
const SCTP_CHUNK: u32 = 4;

/// The port of HTTP/3, on which UDP is taken for QUIC.
const QUIC_PORT: [u8; 2] = 443_u16.to_be_bytes();

/// A frame that came in by an uplink.
pub struct Frame {
    /// The uplink.
    pub uplink: &'static Uplink,
    /// Whom it is addressed to.
    pub destination: Mac,
    /// Who sent it, on the segment.
    pub source: Mac,
}

/// A packet, as far as it has been read: [`network`] fills in the IP header, [`transport`] the rest.
pub struct Packet {
    /// Both ends.
    pub tuple: Tuple,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Why it cannot be carried, as far as its IP header says.
    pub unfit: Option<DropReason>,
    /// TTL or hop limit.
    pub hops: u8,
    /// The TCP flags, or what an SCTP packet says in their terms; 0 for UDP.
    pub flags: u8,
    /// A QUIC packet of a connection that has begun.
    pub quic: bool,
    /// Offset of what follows the IP header; once [`transport`] is through, of the TCP, UDP or SCTP header.
    pub transport: u32,
}

/// Whether flags are those of a packet that opens a connection.
#[inline(always)]
pub fn opens(flags: u8) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether they are those of a reset.
#[inline(always)]
pub fn resets(flags: u8) -> bool {
    flags & TCP_RST != 0
}

/// Whether they are those of a reset, and not of SCTP's orderly end.
#[inline(always)]
pub fn aborts(flags: u8) -> bool {
    flags & (TCP_RST | TCP_FIN) == TCP_RST
}

/// Whether a packet with these marks belongs to a connection that has begun.
#[inline(always)]
pub fn continues(protocol: u8, flags: u8, quic: bool) -> bool {
    if protocol == UDP { quic } else { !opens(flags) }
}

impl Packet {
    /// Opens a connection (UDP has no such packet: a datagram of an unknown flow does).
    #[inline(always)]
    pub fn opens(&self) -> bool {
        opens(self.flags)
    }

    /// Belongs to a connection that has begun, which lives on some node or nowhere.
    #[inline(always)]
    pub fn continues(&self) -> bool {
        continues(self.tuple.protocol, self.flags, self.quic)
    }

    /// Makes it one that belongs to a connection that has begun: mid-flow, or to be searched for like QUIC.
    #[inline(always)]
    pub fn continue_flow(&mut self) {
        (self.flags, self.quic) = if self.is_datagram() { (0, true) } else { (TCP_ACK, false) };
    }

    /// Makes what was read of it [`bytes::unforeseen`], where the way to here had many forks.
    #[inline(always)]
    pub fn blur(&mut self, ctx: &TcContext) {
        self.tuple.protocol = bytes::unforeseen(ctx, self.tuple.protocol as u32) as u8;
        self.transport = bytes::unforeseen(ctx, self.transport);
        self.v6 = bytes::unforeseen_flag(ctx, self.v6);
        self.quic = bytes::unforeseen_flag(ctx, self.quic);
    }

    /// Closes a connection, from its sender's side or by a reset.
    #[inline(always)]
    pub fn ends(&self) -> bool {
        self.flags & (TCP_FIN | TCP_RST) != 0
    }

    /// Says more than that a connection goes on: opens, accepts or ends one. UDP never does.
    #[inline(always)]
    pub fn marks(&self) -> bool {
        self.flags & (TCP_SYN | TCP_FIN | TCP_RST) != 0
    }

    /// Resets a connection.
    #[inline(always)]
    pub fn resets(&self) -> bool {
        resets(self.flags)
    }

    /// TCP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tuple.protocol == TCP
    }

    /// UDP, else TCP or SCTP, whose connections begin and end.
    #[inline(always)]
    pub fn is_datagram(&self) -> bool {
        self.tuple.protocol == UDP
    }

    /// SCTP: its checksum (RFC 9260, 6.8) covers no addresses, but the ports, and is none that could be changed by difference.
    #[inline(always)]
    pub fn is_sctp(&self) -> bool {
        self.tuple.protocol == SCTP
    }
}

/// What follows the IP header.
pub enum Transport {
    /// A whole TCP segment, UDP datagram or SCTP packet.
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
    if is_tagged(ctx) {
        return None;
    }
    let header = bytes::at(ctx, 0, ETHERNET)?;
    // SAFETY: these bytes are the packet's.
    Some(unsafe { Frame { uplink, destination: bytes::mac(header), source: bytes::mac(header.add(6)) } })
}

/// Whether the frame is tagged for a VLAN: another segment's, whose own interface has hooks if it is an uplink.
#[inline(always)]
pub fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the program's run.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

impl Frame {
    /// Whether it is addressed to this node's own MAC.
    #[inline(always)]
    pub fn is_ours(&self) -> bool {
        self.destination == mac_of(self.uplink)
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
    let header = bytes::at(ctx, ETHERNET, 20)?;
    // SAFETY: these bytes are the packet's.
    unsafe {
        let words = (*header & 0x0f) as u32;
        if words < 5 {
            return None;
        }
        let source = mapped(word(header.add(12)).to_ne_bytes());
        let destination = mapped(word(header.add(16)).to_ne_bytes());
        let mut packet = packet(source, destination, *header.add(9), *header.add(8), ETHERNET + words * 4);
        if *header >> 4 != 4 {
            packet.unfit = Some(DropReason::Malformed);
        } else if half(header.add(6)) & FRAGMENT_V4 != 0 {
            packet.unfit = Some(DropReason::Fragment);
        }
        Some(packet)
    }
}

#[inline(always)]
fn network_v6(ctx: &TcContext) -> Option<Packet> {
    let header = bytes::at(ctx, ETHERNET, 40)?;
    // SAFETY: these bytes are the packet's.
    unsafe {
        // What means an IPv4 address here is none in IPv6, and has no use on the wire (RFC 4291, 2.5.5.2).
        if bytes::is_mapped(header.add(24)) {
            return None;
        }
        let (source, destination) = (bytes::address(header.add(8)), bytes::address(header.add(24)));
        let mut packet = packet(source, destination, *header.add(6), *header.add(7), ETHERNET + 40);
        packet.v6 = true;
        if bytes::is_mapped(header.add(8)) {
            packet.unfit = Some(DropReason::Malformed);
        }
        Some(packet)
    }
}

/// A packet of which its ports, and all that is behind them, have yet to be read.
#[inline(always)]
pub fn packet(source: Address, destination: Address, protocol: u8, hops: u8, transport: u32) -> Packet {
    let ports = [0; 2];
    let tuple = Tuple { source, destination, source_port: ports, destination_port: ports, protocol, pad: [0; 3] };
    Packet { tuple, v6: false, unfit: None, hops, flags: 0, quic: false, transport }
}

/// The TCP, UDP or SCTP header behind an IP header.
#[inline(always)]
pub fn transport(ctx: &TcContext, packet: &mut Packet) -> Transport {
    if let Some(reason) = packet.unfit {
        return Transport::Unfit(reason);
    }
    if packet.v6 && is_extension(packet.tuple.protocol) {
        if let Some(reason) = skip_extensions(ctx, packet) {
            return Transport::Unfit(reason);
        }
        packet.transport = bytes::unforeseen(ctx, packet.transport);
    }
    match packet.tuple.protocol {
        TCP => tcp(ctx, packet),
        UDP => udp(ctx, packet),
        SCTP => sctp(ctx, packet),
        ICMP if !packet.v6 => match icmp(ctx, packet) {
            Some((8, 0)) => Transport::Echo,
            // Destination unreachable, time exceeded, parameter problem.
            Some((3 | 11 | 12, _)) => Transport::Error,
            Some(_) => Transport::Unfit(DropReason::Protocol),
            None => Transport::Unfit(DropReason::Malformed),
        },
        ICMPV6 if packet.v6 => match icmp(ctx, packet) {
            Some((133..=137, _)) => Transport::Discovery,
            Some((128, 0)) => Transport::Echo,
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            Some((1..=4, _)) => Transport::Error,
            Some(_) => Transport::Unfit(DropReason::Protocol),
            None => Transport::Unfit(DropReason::Malformed),
        },
        _ => Transport::Unfit(DropReason::Protocol),
    }
}

#[inline(always)]
fn tcp(ctx: &TcContext, packet: &mut Packet) -> Transport {
    let Some(header) = bytes::at(ctx, packet.transport, TCP_HEADER) else {
        return Transport::Unfit(DropReason::Malformed);
    };
    // SAFETY: these bytes are the packet's.
    unsafe {
        packet.flags = *header.add(13);
        ports(packet, word(header))
    }
}

/// The UDP header, and on QUIC's port the first byte behind it. RFC 9000, 17.3: a short header begins with the bits 01; it is of
/// a connection whose handshake is over. Long headers are of its beginning, and are let go where new ones go.
#[inline(always)]
fn udp(ctx: &TcContext, packet: &mut Packet) -> Transport {
    let Some(header) = bytes::at(ctx, packet.transport, UDP_HEADER) else {
        return Transport::Unfit(DropReason::Malformed);
    };
    // SAFETY: these bytes are the packet's.
    let both = unsafe { word(header) };
    let carried = ports(packet, both);
    if packet.tuple.destination_port == QUIC_PORT {
        // No QUIC packet is that short; and of a single byte the kernel's verifier does not see that it is there.
        if let Some(header) = bytes::at(ctx, packet.transport, UDP_HEADER + 4) {
            // SAFETY: these bytes are the packet's.
            packet.quic = unsafe { *header.add(UDP_HEADER as usize) } & 0xc0 == 0x40;
        }
    }
    carried
}

/// The SCTP header, and what its first chunk says of the association in terms of TCP: it opens one, or ends it for both.
///
/// Of many packets that the kernel carries as one, the chunks of each lie in a piece of their own, by which it tells them apart
/// again: to read one with the header would put its bytes there, and the receiver abort. No need to: what opens or ends an
/// association is always a packet by itself.
#[inline(always)]
fn sctp(ctx: &TcContext, packet: &mut Packet) -> Transport {
    let Some(header) = bytes::at(ctx, packet.transport, SCTP_HEADER) else {
        return Transport::Unfit(DropReason::Malformed);
    };
    // SAFETY: these bytes are the packet's.
    let both = unsafe { word(header) };
    let mut flags = TCP_ACK;
    if !is_many(ctx) {
        let Some(header) = bytes::at(ctx, packet.transport, SCTP_HEADER + SCTP_CHUNK) else {
            return Transport::Unfit(DropReason::Malformed);
        };
        // SAFETY: as above.
        flags = sctp::flags(unsafe { *header.add(SCTP_HEADER as usize) });
    }
    packet.flags = bytes::unforeseen(ctx, flags as u32) as u8;
    ports(packet, both)
}

/// Whether this is many packets, which the kernel carries as one.
#[inline(always)]
fn is_many(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the program's run.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Type and code of an ICMP message.
#[inline(always)]
fn icmp(ctx: &TcContext, packet: &Packet) -> Option<(u8, u8)> {
    let header = bytes::at(ctx, packet.transport, ICMP_HEADER)?;
    // SAFETY: these bytes are the packet's.
    Some(unsafe { (*header, *header.add(1)) })
}

/// Whether a packet that is for no VIP opens a connection. Extension headers are not walked.
#[inline(always)]
pub fn opens_directly(ctx: &TcContext, packet: &mut Packet) -> bool {
    if packet.unfit.is_some() {
        return false;
    }
    let read = match packet.tuple.protocol {
        TCP => tcp(ctx, packet),
        SCTP => sctp(ctx, packet),
        _ => return false,
    };
    // What is too short to be a segment is nobody's.
    matches!(read, Transport::Whole) && packet.opens()
}

/// Notes the ports, as they lie in the packet.
#[inline(always)]
fn ports(packet: &mut Packet, both: u32) -> Transport {
    let [a, b, c, d] = both.to_ne_bytes();
    packet.tuple.source_port = [a, b];
    packet.tuple.destination_port = [c, d];
    Transport::Whole
}

/// Walks RFC 8200's extension headers, to the protocol and its offset. A fragment header that makes no fragment
/// (RFC 6946) is walked over; one that makes one is where the walk ends.
#[inline(always)]
pub fn skip_extensions(ctx: &TcContext, packet: &mut Packet) -> Option<DropReason> {
    for _ in 0..EXTENSIONS {
        let next = packet.tuple.protocol;
        if !is_extension(next) {
            return None;
        }
        let Ok(header) = ctx.load::<[u8; 4]>(packet.transport as usize) else {
            return Some(DropReason::Malformed);
        };
        if next == ROUTING && header[3] != 0 {
            // Segments are left: this is not where it goes, and its checksum is of where it does (RFC 8200, 8.1).
            return Some(DropReason::Extension);
        }
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
