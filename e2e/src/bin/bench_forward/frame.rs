//! The packets: what they look like when they come, and what must have become of them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::plan::{CHECKSUM_V4, ETHERNET, Plan, TCP_CHECKSUM, TCP_V4, TCP_V6, WORDS, WORDS_V4};

/// Bytes of the frames, as they are usually given for such measurements: without their check sequence.
const LENGTH_V4: usize = 64;
const LENGTH_V6: usize = 86;
/// The hops a client's packet has left.
const HOPS: u8 = 64;
const CLIENT_V4: [u8; 4] = [10, 100, 0, 0];
const CLIENT_V6: [u8; 16] = [0xfd, 0x64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A hardware address.
pub(crate) type Mac = [u8; 6];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What kind of TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    /// It opens a connection.
    Syn,
    /// Any other.
    Ack,
}

/// What the packets of many clients have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Whom frames are addressed to.
    pub(crate) to: Mac,
    /// Who sends them.
    pub(crate) from: Mac,
    /// The end that is no client.
    pub(crate) other: SocketAddr,
    /// It is the other end that sends.
    pub(crate) to_client: bool,
    pub(crate) segment: Segment,
}

impl Shape {
    pub(crate) fn family(&self) -> Family {
        Family::of(self.other.ip())
    }

    fn kind(&self) -> u32 {
        let v6 = if self.family() == Family::V6 { Plan::V6 } else { 0 };
        v6 | if self.to_client { Plan::TO_CLIENT } else { 0 }
    }

    /// What the harness has to know.
    pub(crate) fn plan(&self, flows: u32, first: u32) -> Result<Plan> {
        ensure!(flows.is_power_of_two(), "{flows} flows");
        let bytes = self.blank();
        let words = if self.family() == Family::V6 { WORDS } else { WORDS_V4 };
        let mut frame = [0; WORDS];
        for (word, chunk) in frame.iter_mut().zip(bytes.chunks_exact(8)).take(words) {
            *word = u64::from_ne_bytes(chunk.try_into()?);
        }
        let (network_sum, transport_sum) = sums(&bytes);
        Ok(Plan { frame, network_sum, transport_sum, mask: flows - 1, first, last: 0, kind: self.kind() })
    }

    /// The packet of a flow, as it comes.
    pub(crate) fn bytes(&self, flow: u32) -> Vec<u8> {
        let mut bytes = self.blank();
        let (address_at, port_at) = Plan::places(self.kind());
        let (address, port) = Plan::client(flow);
        bytes[address_at..address_at + 2].copy_from_slice(&address.to_be_bytes());
        bytes[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        fill_in_checksums(&mut bytes);
        bytes
    }

    /// Without what is a client's own, and without checksums.
    fn blank(&self) -> Vec<u8> {
        let ethertype = if self.family() == Family::V4 { 0x0800_u16 } else { 0x86dd };
        let mut bytes = [&self.to[..], &self.from, &ethertype.to_be_bytes()].concat();
        bytes.extend(match self.other.ip() {
            IpAddr::V4(other) => {
                let total = u16::try_from(LENGTH_V4 - ETHERNET).unwrap_or(0).to_be_bytes();
                let [source, destination] = self.ends(CLIENT_V4, other.octets());
                let header = [0x45, 0, total[0], total[1], 0, 1, 0x40, 0, HOPS, 6, 0, 0];
                [&header[..], &source, &destination].concat()
            }
            IpAddr::V6(other) => {
                let payload = u16::try_from(LENGTH_V6 - TCP_V6).unwrap_or(0).to_be_bytes();
                let [source, destination] = self.ends(CLIENT_V6, other.octets());
                [&[0x60, 0, 0, 0, payload[0], payload[1], 6, HOPS][..], &source, &destination].concat()
            }
        });
        let [source, destination] = self.ends([0; 2], self.other.port().to_be_bytes());
        bytes.extend([source, destination].concat());
        let flags = if self.segment == Segment::Syn { 0x02 } else { 0x10 };
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.resize(if self.family() == Family::V4 { LENGTH_V4 } else { LENGTH_V6 }, 0);
        bytes
    }

    /// Source and destination.
    fn ends<T>(&self, client: T, other: T) -> [T; 2] {
        if self.to_client { [other, client] } else { [client, other] }
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 4
}

fn tcp(frame: &[u8]) -> usize {
    if is_v4(frame) { TCP_V4 } else { TCP_V6 }
}

/// The sums of the IPv4 header and of the TCP segment with its pseudo header, as they are.
fn sums(frame: &[u8]) -> (u32, u32) {
    let sum = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum()
    };
    let segment = &frame[tcp(frame)..];
    let addresses = if is_v4(frame) { &frame[ETHERNET + 12..TCP_V4] } else { &frame[ETHERNET + 8..TCP_V6] };
    let pseudo = sum(addresses) + u32::try_from(segment.len()).unwrap_or(0) + 6;
    let network = if is_v4(frame) { sum(&frame[ETHERNET..TCP_V4]) } else { 0 };
    (network, pseudo + sum(segment))
}

fn fill_in_checksums(frame: &mut [u8]) {
    let checksum = tcp(frame) + TCP_CHECKSUM;
    frame[checksum..checksum + 2].fill(0);
    if is_v4(frame) {
        frame[CHECKSUM_V4..CHECKSUM_V4 + 2].fill(0);
    }
    let (network, transport) = sums(frame);
    frame[checksum..checksum + 2].copy_from_slice(&Plan::checksum(transport).to_be_bytes());
    if is_v4(frame) {
        frame[CHECKSUM_V4..CHECKSUM_V4 + 2].copy_from_slice(&Plan::checksum(network).to_be_bytes());
    }
}

/// What must become of a packet.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It goes to one of these nodes, from this MAC.
    HandedOn { from: Mac, nodes: BTreeSet<Mac> },
    /// It goes to one of these pods.
    Delivered { pods: BTreeSet<SocketAddr> },
    /// It looks as if it came from here.
    From(SocketAddr),
    /// Nothing.
    Untouched,
    /// Whatever the program does.
    Any,
}

impl Outcome {
    /// Whether that became of a packet.
    pub(crate) fn check(&self, came: &[u8], left: &[u8]) -> Result<()> {
        let expected = self.expected(came, left)?;
        ensure!(
            left == expected,
            "{self:?}:\n  came     {}\n  expected {}\n  left     {}",
            hex(came),
            hex(&expected),
            hex(left)
        );
        Ok(())
    }

    /// What must have been made of the packet. Where there is a choice, what was chosen is taken from what left.
    fn expected(&self, came: &[u8], left: &[u8]) -> Result<Vec<u8>> {
        let mut frame = came.to_vec();
        ensure!(left.len() == came.len(), "it has {} bytes", left.len());
        match self {
            Self::HandedOn { from, nodes } => {
                let to: Mac = left[..6].try_into()?;
                ensure!(nodes.contains(&to), "it goes to none of the nodes, but to {}", hex(&to));
                frame[..6].copy_from_slice(&to);
                frame[6..12].copy_from_slice(from);
                let hops = if is_v4(came) { ETHERNET + 8 } else { ETHERNET + 7 };
                frame[hops] -= 1;
            }
            Self::Delivered { pods } => {
                let pod = pods.iter().find(|pod| {
                    let (address, port) = places(left, true);
                    left[address..].starts_with(&octets(pod.ip()))
                        && left[port..].starts_with(&pod.port().to_be_bytes())
                });
                replace(&mut frame, true, *pod.with_context(|| format!("it goes to none of the pods: {}", hex(left)))?);
            }
            Self::From(vip) => replace(&mut frame, false, *vip),
            Self::Untouched => {}
            Self::Any => return Ok(left.to_vec()),
        }
        fill_in_checksums(&mut frame);
        Ok(frame)
    }
}

/// Where an end's address and port lie.
fn places(frame: &[u8], destination: bool) -> (usize, usize) {
    let (first, length) = if is_v4(frame) { (ETHERNET + 12, 4) } else { (ETHERNET + 8, 16) };
    if destination { (first + length, tcp(frame) + 2) } else { (first, tcp(frame)) }
}

fn replace(frame: &mut [u8], destination: bool, end: SocketAddr) {
    let (address, port) = places(frame, destination);
    let octets = octets(end.ip());
    frame[address..address + octets.len()].copy_from_slice(&octets);
    frame[port..port + 2].copy_from_slice(&end.port().to_be_bytes());
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use pnet_packet::{Packet, ethernet::EthernetPacket, ipv4, ipv6, tcp};

    use super::*;

    fn shape(other: &str, to_client: bool) -> Shape {
        let other = other.parse().expect("a socket");
        Shape { to: [2; 6], from: [4; 6], other, to_client, segment: Segment::Ack }
    }

    #[test]
    fn frames_are_what_another_parser_takes_for_them() {
        let bytes = shape("10.77.0.100:80", false).bytes(0x12_3456);
        let frame = EthernetPacket::new(&bytes).expect("a frame");
        let packet = ipv4::Ipv4Packet::new(frame.payload()).expect("a packet");
        assert_eq!(packet.get_source().octets(), [10, 100, 0, 0x48]);
        assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
        let segment = tcp::TcpPacket::new(packet.payload()).expect("a segment");
        assert_eq!((segment.get_source(), segment.get_destination()), (1024 + 0x3456, 80));
        let checksum = tcp::ipv4_checksum(&segment, &packet.get_source(), &packet.get_destination());
        assert_eq!(segment.get_checksum(), checksum);

        let bytes = shape("[fd78:1::11]:8080", true).bytes(7);
        let frame = EthernetPacket::new(&bytes).expect("a frame");
        let packet = ipv6::Ipv6Packet::new(frame.payload()).expect("a packet");
        let segment = tcp::TcpPacket::new(packet.payload()).expect("a segment");
        assert_eq!((segment.get_source(), segment.get_destination()), (8080, 1031));
        let checksum = tcp::ipv6_checksum(&segment, &packet.get_source(), &packet.get_destination());
        assert_eq!(segment.get_checksum(), checksum);
    }

    #[test]
    fn a_plan_has_all_of_a_frame_but_what_is_the_clients_own() {
        for other in ["10.77.0.100:80", "[fd77::100]:80"] {
            let shape = shape(other, false);
            let (plan, bytes) = (shape.plan(2, 0).expect("a plan"), shape.bytes(5));
            let (address, port) = Plan::client(5);
            let sum = plan.transport_sum + u32::from(address) + u32::from(port);
            let at = tcp(&bytes) + TCP_CHECKSUM;
            assert_eq!(bytes[at..at + 2], Plan::checksum(sum).to_be_bytes());
        }
    }

    #[test]
    fn all_flows_come_before_one_comes_again() {
        let mut last = 0;
        let seen: BTreeSet<u32> = std::iter::repeat_with(|| {
            last = Plan::next(1023, last);
            last
        })
        .take(1024)
        .collect();
        assert_eq!(seen.len(), 1024);
    }

    #[test]
    fn another_packet_than_the_expected_is_found_out() {
        let came = shape("10.77.0.100:80", false).bytes(1);
        let nodes = BTreeSet::from([[6; 6]]);
        let outcome = Outcome::HandedOn { from: [2; 6], nodes };
        let mut left = came.clone();
        left[..6].fill(6);
        left[6..12].fill(2);
        left[ETHERNET + 8] -= 1;
        assert!(outcome.check(&came, &left).is_err(), "the checksum is not that of the header");
        fill_in_checksums(&mut left);
        outcome.check(&came, &left).expect("handed on");
        left[0] = 7;
        assert!(outcome.check(&came, &left).is_err(), "no such node");
        assert!(Outcome::Untouched.check(&came, &left).is_err());
        Outcome::Untouched.check(&came, &came).expect("untouched");
    }
}
