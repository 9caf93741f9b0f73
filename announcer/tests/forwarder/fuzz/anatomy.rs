//! A packet as the standards read it: written for the test, by other means than the kernel program's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
/// Extension headers that a packet may have and be carried.
const EXTENSIONS: usize = 4;

/// What lies where in a packet whose IP header is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anatomy {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    pub(crate) body: Body,
    /// That it is a part of a packet.
    pub(crate) part: Option<Part>,
}

/// Which part of which packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: u32,
    /// What is in it, of IPv4, where numbers are of a protocol's own.
    pub(crate) protocol: u8,
    pub(crate) first: bool,
}

/// A packet that an ICMP error is about: who sent it, and where its TCP, UDP or SCTP header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) at: usize,
}

/// What is behind the IP header and its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A TCP, UDP or SCTP header, whole, at this offset.
    Segment { protocol: u8, at: usize },
    /// One that is cut behind the ports. Who only hands packets on need not see more.
    Cut { protocol: u8, at: usize },
    /// An ICMP echo request at this offset.
    Echo { at: usize },
    /// An ICMP error at this offset, and the packet that it quotes, as far as its ports.
    Error { at: usize, quoted: Option<Quoted> },
    /// Neighbour discovery (RFC 4861).
    Discovery,
    /// A part of a packet that is not the first.
    Later,
    /// What cannot be carried; each of these reasons is right.
    Unfit(&'static [&'static str]),
}

impl Anatomy {
    /// `None` if there is no IP header, or one that says it is shorter than it can be.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] => v4(frame),
            [0x86, 0xdd] => v6(frame),
            _ => None,
        }
    }

    /// Where the addresses lie: the source, and behind it the destination.
    pub(crate) fn addresses(&self) -> [(usize, usize); 2] {
        match self.source {
            IpAddr::V4(_) => [(26, 4), (30, 4)],
            IpAddr::V6(_) => [(22, 16), (38, 16)],
        }
    }

    pub(crate) fn hops_at(&self) -> usize {
        if self.source.is_ipv4() { ETHERNET + 8 } else { ETHERNET + 7 }
    }

    /// The IPv4 header with its options, as far as it is there.
    pub(crate) fn header_v4<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let end = (ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4).min(frame.len());
        self.source.is_ipv4().then(|| &frame[ETHERNET..end])
    }
}

fn v4(frame: &[u8]) -> Option<Anatomy> {
    let header = frame.get(ETHERNET..ETHERNET + 20)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if length < 20 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    let (more, offset) = (header[6] & 0x20 != 0, u16::from_be_bytes([header[6] & 0x1f, header[7]]));
    let sound = header[0] >> 4 == 4;
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let part = Part { id, protocol: header[9], first: offset == 0 };
    let part = (sound && (more || offset != 0)).then_some(part);
    let body = match part {
        _ if !sound => Body::Unfit(&["malformed"]),
        Some(Part { first: false, .. }) => Body::Later,
        Some(_) => first(segment(frame, header[9], ETHERNET + length, false)),
        None => segment(frame, header[9], ETHERNET + length, false),
    };
    Some(Anatomy { source: address(12), destination: address(16), hops: header[8], body, part })
}

fn v6(frame: &[u8]) -> Option<Anatomy> {
    let header: &[u8; 40] = frame.get(ETHERNET..ETHERNET + 40)?.try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    // No machine sends from an IPv4 address by IPv6.
    let mapped = matches!(address(8)?, IpAddr::V6(from) if from.to_ipv4_mapped().is_some());
    let (body, part) =
        if mapped { (Body::Unfit(&["malformed"]), None) } else { chain(frame, header[6], ETHERNET + 40, false) };
    Some(Anatomy { source: address(8)?, destination: address(24)?, hops: header[7], body, part })
}

/// What is in a first part, which is not answered, nor told to anybody.
fn first(body: Body) -> Body {
    match body {
        Body::Segment { .. } | Body::Unfit(_) => body,
        Body::Cut { .. } => Body::Unfit(&["malformed"]),
        _ => Body::Unfit(&["fragment"]),
    }
}

/// Walks the extension headers, of which those behind that of a first part are counted anew.
fn chain(frame: &[u8], mut next: u8, mut at: usize, within: bool) -> (Body, Option<Part>) {
    let unfit = |reasons| (Body::Unfit(reasons), None);
    for walked in 0.. {
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        if walked == EXTENSIONS {
            return unfit(&["extension"]);
        }
        let Some(header) = frame.get(at..at + 4) else { return unfit(&["malformed"]) };
        if next == 44 {
            if header[2] != 0 || header[3] & 0xf9 != 0 {
                // There are no parts of parts.
                return if within { unfit(&["fragment"]) } else { part(frame, at) };
            }
            at += 8;
        } else if next == 43 && header[3] != 0 {
            // Where it goes is another than where the IP header says (RFC 8200, 4.4).
            return unfit(&["extension"]);
        } else {
            at += 8 * (usize::from(header[1]) + 1);
        }
        next = header[0];
    }
    (segment(frame, next, at, true), None)
}

/// A fragment header that makes a part, and what is behind it.
fn part(frame: &[u8], at: usize) -> (Body, Option<Part>) {
    let Some(header) = frame.get(at..at + 8) else { return (Body::Unfit(&["malformed"]), None) };
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let part = Part { id, protocol: 0, first: header[2] == 0 && header[3] & 0xf8 == 0 };
    let body = if part.first { first(chain(frame, header[0], at + 8, true).0) } else { Body::Later };
    (body, Some(part))
}

fn segment(frame: &[u8], protocol: u8, at: usize, v6: bool) -> Body {
    let there = |length: usize| frame.len() >= at + length;
    match protocol {
        TCP if there(20) => Body::Segment { protocol, at },
        UDP if there(8) => Body::Segment { protocol, at },
        SCTP if there(16) => Body::Segment { protocol, at },
        TCP | UDP | SCTP if there(4) => Body::Cut { protocol, at },
        TCP | UDP | SCTP => Body::Unfit(&["malformed"]),
        1 if !v6 => message(frame, at, v6),
        58 if v6 => message(frame, at, v6),
        _ => Body::Unfit(&["protocol"]),
    }
}

/// RFC 792, RFC 4443, RFC 4861.
fn message(frame: &[u8], at: usize, v6: bool) -> Body {
    let Some(header) = frame.get(at..at + 8) else { return Body::Unfit(&["malformed"]) };
    match (header[0], header[1]) {
        (8, 0) if !v6 => Body::Echo { at },
        (128, 0) if v6 => Body::Echo { at },
        (3 | 11 | 12, _) if !v6 => Body::Error { at, quoted: quoted(&frame[at + 8..], at + 8, v6) },
        (1..=4, _) if v6 => Body::Error { at, quoted: quoted(&frame[at + 8..], at + 8, v6) },
        (133..=137, _) if v6 => Body::Discovery,
        _ => Body::Unfit(&["protocol"]),
    }
}

/// The packet that begins here, at an offset in the frame. One with extension headers but a first part's is none that is looked for.
fn quoted(packet: &[u8], offset: usize, v6: bool) -> Option<Quoted> {
    let octets = |at: usize| -> Option<IpAddr> {
        Some(if v6 {
            <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into()
        } else {
            <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into()
        })
    };
    let first = *packet.first()?;
    let (source, destination, protocol, length) = if v6 {
        let (from, to) = (octets(8)?, octets(24)?);
        let part = packet[6] == 44 && packet.len() >= 48;
        if part && (packet[42] != 0 || packet[43] & 0xf8 != 0) {
            return None;
        }
        let (protocol, length) = if part { (packet[40], 48) } else { (packet[6], 40) };
        (from, to, protocol, length)
    } else {
        let length = usize::from(first & 0x0f) * 4;
        let whole = first >> 4 == 4 && length >= 20 && packet.get(6)? & 0x1f == 0 && *packet.get(7)? == 0;
        whole.then_some((octets(12)?, octets(16)?, packet[9], length))?
    };
    let known = matches!(protocol, TCP | UDP | SCTP) && packet.len() >= length + 4;
    known.then_some(Quoted { source, destination, protocol, at: offset + length })
}

/// What is left of a sum of 16-bit words when its carries are taken in: 0 for a checksum that is right, and the same before and
/// after for one that was changed by the right difference.
pub(crate) fn residue<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let words = parts.into_iter().flat_map(|part| part.chunks(2));
    words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum::<u64>() % 0xffff
}

pub(crate) fn port(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// What an SCTP packet's first chunk says in terms of TCP's flags (RFC 9260, 3.3).
pub(crate) fn sctp_flags(frame: &[u8], at: usize) -> u8 {
    match frame.get(at + 12) {
        Some(1) => 0x02,
        Some(2) => 0x12,
        Some(6 | 14) => 0x04,
        Some(_) => 0x10,
        None => 0,
    }
}
