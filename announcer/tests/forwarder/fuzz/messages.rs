//! What a VIP answers itself, and what its pods are told: pings, refusals, ICMP errors. The judge of those.

use std::net::{IpAddr, SocketAddr};

use super::{
    anatomy::{Anatomy, Body, ETHERNET, Quoted, SCTP, TCP, UDP, port, residue, sctp_flags},
    judge::{Case, Fate, address, copy, header_is_right},
    ledger::{Inner, Ledger, Outer},
    scene::{OTHERS, OWN, Scene},
};
use crate::sctp::crc32c;

/// The hops that an answer begins with.
const HOPS: u8 = 64;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A packet that went back where it came from.
pub(crate) fn answered(scene: &Scene, case: &Case<'_>) -> Result<Fate, String> {
    let (came, left) = (case.came, &case.ran.frame[..]);
    let packet = Anatomy::of(came).ok_or("no packet")?;
    need!(scene.vips.contains(&packet.destination), "answered for an address that is no VIP");
    need!(left.len() >= ETHERNET + 20, "the answer is cut");
    need!(left[..6] == came[6..12] && left[6..12] == OWN, "the answer goes to or from another MAC");
    need!(came[6] & 1 == 0 && is_somebody(packet.source), "answered to nobody");
    need!(left[12..14] == came[12..14], "the answer is of another family");
    need!(left[packet.hops_at()] == HOPS, "the answer has {} hops", left[packet.hops_at()]);
    let ends = packet.addresses().map(|end| address(left, end));
    match packet.body {
        Body::Echo { at } => echoed(&packet, at, came, left),
        Body::Segment { at, .. } if ends != [packet.destination, packet.source] || at != back(&packet) => {
            Err(format!("the answer is between {ends:?}"))
        }
        Body::Segment { protocol: TCP, at } => reset(&packet, at, came, left),
        Body::Segment { protocol: SCTP, at } => abort(&packet, at, came, left),
        Body::Segment { at, .. } => unreachable(&packet, at, came, left),
        _ => Err(format!("answered, though it is {:?}", packet.body)),
    }
}

/// Offset of what follows a plain IP header.
fn back(packet: &Anatomy) -> usize {
    ETHERNET + if packet.source.is_ipv4() { 20 } else { 40 }
}

/// Bytes of the IP packet, header included, as it says.
fn said_length(packet: &Anatomy, frame: &[u8]) -> usize {
    let (at, more) = if packet.source.is_ipv4() { (ETHERNET + 2, 0) } else { (ETHERNET + 4, 40) };
    usize::from(port(frame, at)) + more
}

/// Whether an address may be answered to.
fn is_somebody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified()),
    }
}

/// A ping, turned round: nothing has changed but what must, and each checksum is as right as it was.
fn echoed(packet: &Anatomy, at: usize, came: &[u8], left: &[u8]) -> Result<Fate, String> {
    need!(left.len() == came.len(), "it has {} bytes", left.len());
    let [(source, length), (destination, _)] = packet.addresses();
    let mut expected = came.to_vec();
    copy(&mut expected, left, 0..12);
    expected[packet.hops_at()] = HOPS;
    expected[source..source + length].copy_from_slice(&came[destination..destination + length]);
    expected[destination..destination + length].copy_from_slice(&came[source..source + length]);
    expected[at] = if packet.source.is_ipv4() { 0 } else { 129 };
    header_is_right(packet, came, left, &mut expected)?;
    copy(&mut expected, left, at + 2..at + 4);
    need!(left == expected, "more has changed than a ping's answer needs");
    need!(residue([&came[at..]]) == residue([&left[at..]]), "the ICMP checksum is wrong");
    Ok(Fate::Answered)
}

/// A TCP segment's reset (RFC 9293, 3.10.7.1).
fn reset(packet: &Anatomy, at: usize, came: &[u8], left: &[u8]) -> Result<Fate, String> {
    let flags = came[at + 13];
    need!(flags & RST == 0, "a reset is answered by a reset");
    need!(left.len() == at + 20, "it has {} bytes", left.len());
    let total = said_length(packet, left);
    need!(total == at + 20 - ETHERNET, "its length says {total}");
    let (before, after) = (&came[at..], &left[at..]);
    need!(after[..2] == before[2..4] && after[2..4] == before[..2], "its ports are not those of an answer");
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if flags & ACK != 0 {
        need!(
            after[12..14] == [0x50, RST] && word(after, 4) == word(before, 8),
            "it is no reset of what was acknowledged"
        );
    } else {
        need!(after[12..14] == [0x50, RST | ACK] && word(after, 4) == 0, "it is no reset that acknowledges");
        let header = u32::from(before[12] >> 4) * 4;
        let data = (said_length(packet, came) as u32).wrapping_sub((at - ETHERNET) as u32).wrapping_sub(header);
        let taken = data.wrapping_add(u32::from(flags & SYN != 0)).wrapping_add(u32::from(flags & FIN != 0));
        need!(word(after, 8) == word(before, 4).wrapping_add(taken), "it acknowledges something else");
    }
    let pseudo = [&[0, TCP, 0, 20][..], &left[packet.addresses()[0].0..at], after];
    need!(residue(pseudo) == 0, "the reset's checksum is wrong");
    header_stays_right(packet, came, left)?;
    Ok(Fate::Refused)
}

/// An SCTP packet's abort (RFC 9260, 8.4).
fn abort(packet: &Anatomy, at: usize, came: &[u8], left: &[u8]) -> Result<Fate, String> {
    need!(sctp_flags(came, at) & RST == 0, "an abort is answered by an abort");
    need!(left.len() == at + 16, "it has {} bytes", left.len());
    let total = said_length(packet, left);
    need!(total == at + 16 - ETHERNET, "its length says {total}");
    let (before, after) = (&came[at..], &left[at..]);
    let opens = before[12] == 1;
    let tag = if opens { &before[16..20] } else { &before[4..8] };
    need!(after[..2] == before[2..4] && after[2..4] == before[..2], "its ports are not those of an answer");
    need!(after[4..8] == *tag && after[12..] == [6, u8::from(!opens), 0, 4], "it is no abort of this association");
    need!(after[8..12] == crc32c(&[&after[..8], &[0; 4], &after[12..]].concat()), "the abort's checksum is wrong");
    header_stays_right(packet, came, left)?;
    Ok(Fate::Refused)
}

fn header_stays_right(packet: &Anatomy, came: &[u8], left: &[u8]) -> Result<(), String> {
    if let (Some(before), Some(after)) = (packet.header_v4(came), packet.header_v4(left)) {
        need!(residue([before]) != 0 || residue([after]) == 0, "the IPv4 header's checksum is wrong");
    }
    Ok(())
}

/// "Port unreachable" about a datagram, of which its headers are quoted (RFC 792, RFC 4443).
fn unreachable(packet: &Anatomy, at: usize, came: &[u8], left: &[u8]) -> Result<Fate, String> {
    let v4 = packet.source.is_ipv4();
    let quoted = &came[ETHERNET..at + 8];
    need!(left.len() == at + 8 + quoted.len(), "it has {} bytes", left.len());
    let (protocol, message): (u8, [u8; 2]) = if v4 { (1, [3, 3]) } else { (58, [1, 4]) };
    let next = if v4 { left[ETHERNET + 9] } else { left[ETHERNET + 6] };
    need!(
        next == protocol && said_length(packet, left) == left.len() - ETHERNET,
        "it is no ICMP message of its length"
    );
    need!(
        left[at..at + 2] == message && left[at + 4..at + 8] == [0; 4],
        "it does not say that the port is unreachable"
    );
    need!(left[at + 8..] == *quoted, "it does not quote the packet");
    header_stays_right(packet, came, left)?;
    let header = packet.header_v4(came).map_or(0, |header| residue([header]));
    let pseudo = [0, protocol, 0, (left.len() - at) as u8];
    let sum = if v4 { residue([&left[at..]]) } else { residue([&pseudo, &left[22..at], &left[at..]]) };
    need!(header != 0 || sum == 0, "the ICMP checksum is wrong");
    Ok(Fate::Refused)
}

/// An ICMP error about a packet of a pod's: to the pod, and about the packet as the pod has sent it.
pub(crate) fn told(ledger: &Ledger, case: &Case<'_>) -> Result<Fate, String> {
    let (came, left) = (case.came, &case.ran.frame[..]);
    let packet = Anatomy::of(came).ok_or("no packet")?;
    let Body::Error { at, quoted: Some(quoted) } = packet.body else { return Err("no error".into()) };
    need!(came.starts_with(&OWN), "told, though it is for another node");
    need!(quoted.source == packet.destination, "told a pod of a packet of others");
    need!(left.len() == came.len(), "it has {} bytes", left.len());
    let Quoted { protocol, destination, at: ports, .. } = quoted;
    let client = SocketAddr::new(destination, port(came, ports + 2));
    let outer = Outer { protocol, client, vip: SocketAddr::new(quoted.source, port(came, ports)) };
    let (source, length) = if packet.source.is_ipv4() { (at + 8 + 12, 4) } else { (at + 8 + 8, 16) };
    let (begin, _) = packet.addresses()[1];
    let pod = SocketAddr::new(address(left, (begin, length)), port(left, ports));
    let inner = Inner { protocol, pod, client: SocketAddr::new(destination, port(left, ports + 2)) };
    need!(ledger.has(&inner, &outer), "told {inner:?} of {outer:?}, which it has not");
    need!(address(left, (source, length)) == pod.ip(), "quotes another pod's packet");
    let mut expected = came.to_vec();
    copy(&mut expected, left, begin..begin + length);
    copy(&mut expected, left, source..source + length);
    copy(&mut expected, left, ports..ports + 4);
    copy(&mut expected, left, at + 2..at + 4);
    header_is_right(&packet, came, left, &mut expected)?;
    let header = at + 8..ports;
    if packet.source.is_ipv4() {
        let sum = |frame: &[u8]| residue([&frame[header.clone()]]);
        need!(sum(came) == sum(left), "the quoted IPv4 header's checksum is wrong");
        copy(&mut expected, left, at + 18..at + 20);
    }
    let checksum = ports + if protocol == TCP { 16 } else { 6 };
    let none = protocol == UDP && came.get(checksum..checksum + 2) == Some(&[0, 0]);
    if protocol != SCTP && came.len() >= checksum + 2 && !none {
        copy(&mut expected, left, checksum..checksum + 2);
        let sum = |frame: &[u8]| {
            residue([&frame[source..source + 2 * length], &frame[ports..ports + 4], &frame[checksum..checksum + 2]])
        };
        need!(sum(came) == sum(left), "the quoted checksum is wrong");
    }
    need!(left == expected, "more has changed than an error to a pod needs");
    let sum = |frame: &[u8]| {
        let pseudo = if packet.source.is_ipv4() { 0..0 } else { 22..54 };
        residue([&frame[pseudo], &frame[at..]])
    };
    need!(sum(came) == sum(left), "the ICMP checksum is wrong");
    need!(!OTHERS.iter().any(|mac| left.starts_with(mac)), "told, and handed on");
    Ok(Fate::Told)
}
