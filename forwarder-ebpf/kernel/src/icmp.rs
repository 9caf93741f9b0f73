//! ICMP and ICMPv6 to VIPs. A ping is answered by the node that gets it. An error is about a packet that a pod has sent in the
//! VIP's name, which it quotes: it belongs to that pod, who must hear above all that its packets are too big for the client's path.
//! To the pod it must quote the packet as the pod has sent it.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use forwarder_ebpf::{Address, DropReason, SCTP, TCP, Tuple, UDP};

use crate::{
    bytes::GROUP,
    flow::Known,
    parse::{self, ETHERNET, FRAGMENT, Frame, Packet},
    rewrite::{
        self, Ends, Refused, TCP_CHECKSUM, UDP_CHECKSUM, V4_CHECKSUM, V4_DESTINATION, V4_SOURCE, V6_DESTINATION,
        V6_SOURCE, difference, v4,
    },
};

/// Hops that an answer begins with.
const HOPS: u8 = 64;
/// Offset of an ICMP message's checksum.
const CHECKSUM: u32 = 2;
/// Bytes of an ICMP error before the packet it quotes.
const HEADER: u32 = 8;
/// Types, each with a code of 0 behind it.
const V4_REQUEST: [u8; 2] = [8, 0];
const V4_REPLY: [u8; 2] = [0, 0];
const V6_REQUEST: [u8; 2] = [128, 0];
const V6_REPLY: [u8; 2] = [129, 0];

/// Why a packet must not be answered, if so: nobody sends from there. Or its IPv6 extension headers would be sent back as they
/// are, which nobody asks for.
#[inline(always)]
pub fn unanswerable(frame: &Frame, packet: &Packet) -> Option<DropReason> {
    let from = &packet.tuple.source;
    let nobody =
        if packet.v6 { from[0] == 0xff || from[0] | from[1] == 0 } else { matches!(from[12], 0 | 127 | 224..) };
    if nobody || frame.source & GROUP != 0 {
        return Some(DropReason::Malformed);
    }
    (packet.v6 && packet.transport != ETHERNET + 40).then_some(DropReason::Extension)
}

/// Makes a ping its own answer, on its way back.
#[inline(always)]
pub fn answer(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Result<(), Refused> {
    let (request, reply) = if packet.v6 { (V6_REQUEST, V6_REPLY) } else { (V4_REQUEST, V4_REPLY) };
    let checksum = (packet.transport + CHECKSUM) as usize;
    ctx.l4_csum_replace(checksum, word(request), word(reply), 2)?;
    ctx.store(packet.transport as usize, &reply, 0)?;
    rewrite::turn_back(ctx, packet, frame, HOPS)
}

/// The flow that an error is about, as a mid-flow packet of the client's in place of the error; behind its transport offset
/// lies what the error quotes. `None` if that is no packet of this VIP's, or not quoted as far as its ports.
#[inline(always)]
pub fn about(ctx: &TcContext, error: &Packet) -> Option<Packet> {
    let at = (error.transport + HEADER) as usize;
    let mut about = if error.v6 { quoted_v6(ctx, at, error.hops) } else { quoted_v4(ctx, at, error.hops) }?;
    if about.tuple.destination != error.tuple.destination || !matches!(about.tuple.protocol, TCP | UDP | SCTP) {
        return None;
    }
    let [a, b, c, d]: [u8; 4] = ctx.load(about.transport as usize).ok()?;
    (about.tuple.source_port, about.tuple.destination_port) = ([c, d], [a, b]);
    about.v6 = error.v6;
    about.continue_flow();
    Some(about)
}

/// The flow's ends: the quoted packet's, the other way round.
#[inline(always)]
fn quoted_v4(ctx: &TcContext, at: usize, hops: u8) -> Option<Packet> {
    let header: [u8; 20] = ctx.load(at).ok()?;
    let words = (header[0] & 0x0f) as u32;
    // Ports are in a packet's first fragment alone.
    if header[0] >> 4 != 4 || words < 5 || header[6] & 0x1f != 0 || header[7] != 0 {
        return None;
    }
    let vip = forwarder_ebpf::mapped([header[12], header[13], header[14], header[15]]);
    let client = forwarder_ebpf::mapped([header[16], header[17], header[18], header[19]]);
    Some(parse::packet(client, vip, header[9], hops, at as u32 + words * 4))
}

/// The same. Of extension headers pods' packets have, as a rule, that of a first fragment.
#[inline(always)]
fn quoted_v6(ctx: &TcContext, at: usize, hops: u8) -> Option<Packet> {
    let mut next: u8 = ctx.load(at + 6).ok()?;
    let vip: Address = ctx.load(at + 8).ok()?;
    let client: Address = ctx.load(at + 24).ok()?;
    let mut transport = at as u32 + 40;
    if next == FRAGMENT {
        let [behind, _, offset, more]: [u8; 4] = ctx.load(at + 40).ok()?;
        if offset != 0 || more & 0xf8 != 0 {
            return None;
        }
        (next, transport) = (behind, transport + 8);
    }
    Some(parse::packet(client, vip, next, hops, transport))
}

/// Makes an error about a packet of the VIP's one about the packet that the pod has sent, and sends it to the pod.
#[inline(always)]
pub fn tell(ctx: &TcContext, error: &Packet, about: &Packet, end: &Known) -> Result<(), Refused> {
    tell_sender(ctx, error, about, &end.pod.address, [end.pod.port, end.client_port])
}

/// Makes an error about a translated packet one about the packet that `ends` has for its sender (their destination) and for whom that
/// has sent it to; from there it seems to come, since who is behind is nothing to the sender.
#[inline(always)]
pub fn tell_both(ctx: &TcContext, error: &Packet, about: &Packet, ends: &Ends) -> Result<(), Refused> {
    let sum = (error.transport + CHECKSUM) as usize;
    let quoted = (error.transport + HEADER) as usize;
    quoted_checksum(ctx, about, sum, difference(&about.tuple.source, ends.source))?;
    if error.v6 {
        let from = &error.tuple.source;
        ctx.l4_csum_replace(sum, 0, difference(from, ends.source), BPF_F_PSEUDO_HDR as u64)?;
        ctx.store(V6_SOURCE as usize, ends.source, BPF_F_RECOMPUTE_CSUM as u64)?;
        ctx.l4_csum_replace(sum, 0, difference(&about.tuple.source, ends.source), 0)?;
        ctx.store(quoted + 24, ends.source, 0)?;
    } else {
        let to = v4(ends.source);
        let new = u32::from_ne_bytes(to) as u64;
        ctx.l3_csum_replace(V4_CHECKSUM as usize, u32::from_ne_bytes(v4(&error.tuple.source)) as u64, new, 4)?;
        ctx.store(V4_SOURCE as usize, &to, 0)?;
        ctx.l3_csum_replace(quoted + 10, u32::from_ne_bytes(v4(&about.tuple.source)) as u64, new, 4)?;
        ctx.store(quoted + 16, &to, 0)?;
    }
    tell_sender(ctx, error, about, ends.destination, [ends.destination_port, ends.source_port])?;
    rewrite::set_hops(ctx, error, error.hops.saturating_sub(1))
}

/// Gives the sender of the quoted packet, to whom the error goes, another address, and the packet other ports: its source's, and its
/// destination's.
///
/// What changes of the quoted packet changes the ICMP checksum, by as much as it does not cancel out in there.
#[inline(always)]
fn tell_sender(
    ctx: &TcContext,
    error: &Packet,
    about: &Packet,
    sender: &Address,
    [from_port, to_port]: [[u8; 2]; 2],
) -> Result<(), Refused> {
    let sum = (error.transport + CHECKSUM) as usize;
    let quoted = (error.transport + HEADER) as usize;
    let Tuple { source_port, destination_port, .. } = about.tuple;
    let ports = port_difference(destination_port, from_port) + port_difference(source_port, to_port);
    let change = difference(&about.tuple.destination, sender) + ports;
    quoted_checksum(ctx, about, sum, (change & 0xffff_ffff) + (change >> 32))?;
    let vip = &error.tuple.destination;
    if error.v6 {
        let diff = difference(vip, sender);
        // Once for the pseudo header, once for the quoted packet.
        ctx.l4_csum_replace(sum, 0, diff, BPF_F_PSEUDO_HDR as u64)?;
        ctx.store(V6_DESTINATION as usize, sender, BPF_F_RECOMPUTE_CSUM as u64)?;
        ctx.l4_csum_replace(sum, 0, diff, 0)?;
        ctx.store(quoted + 8, sender, 0)?;
    } else {
        let (from, to) = (v4(vip), v4(sender));
        let (old, new) = (u32::from_ne_bytes(from) as u64, u32::from_ne_bytes(to) as u64);
        ctx.l3_csum_replace(V4_CHECKSUM as usize, old, new, 4)?;
        ctx.store(V4_DESTINATION as usize, &to, 0)?;
        // The quoted header's own checksum takes up the difference.
        ctx.l3_csum_replace(quoted + 10, old, new, 4)?;
        ctx.store(quoted + 12, &to, 0)?;
    }
    let ports = about.transport as usize;
    ctx.l4_csum_replace(sum, word(destination_port), word(from_port), 2)?;
    ctx.store(ports, &from_port, 0)?;
    ctx.l4_csum_replace(sum, word(source_port), word(to_port), 2)?;
    ctx.store(ports + 2, &to_port, 0)
}

/// Changes the quoted packet's own checksum over addresses and ports, if it is quoted as far and has one. The helper for the IP
/// header's checksum does it, since that does so whatever is known of the frame's.
#[inline(always)]
fn quoted_checksum(ctx: &TcContext, about: &Packet, sum: usize, change: u64) -> Result<(), Refused> {
    if about.is_sctp() {
        return Ok(());
    }
    let at = (about.transport + if about.is_tcp() { TCP_CHECKSUM } else { UDP_CHECKSUM }) as usize;
    let Ok(before) = ctx.load::<[u8; 2]>(at) else { return Ok(()) };
    if !about.is_tcp() && before == [0, 0] {
        return Ok(());
    }
    ctx.l3_csum_replace(at, 0, change, 0)?;
    let after: [u8; 2] = ctx.load(at)?;
    ctx.l4_csum_replace(sum, word(before), word(after), 2)
}

/// What another port does to a sum of 16-bit words.
#[inline(always)]
fn port_difference(from: [u8; 2], to: [u8; 2]) -> u64 {
    word(to) + (u16::MAX as u64 - word(from))
}

/// Two bytes as they lie in a packet, as the helpers take them.
#[inline(always)]
fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes) as u64
}
