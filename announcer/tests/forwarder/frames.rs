//! Frames made by hand, for what no honest client sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lan::Host;

/// An IPv4 frame to the VIP with a UDP or other payload.
pub(crate) struct V4 {
    pub(crate) to: [u8; 6],
    pub(crate) vip: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// Flags and offset.
    pub(crate) fragment: u16,
    pub(crate) payload: Vec<u8>,
}

impl V4 {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend((20 + self.payload.len() as u16).to_be_bytes());
        header.extend([0, 7]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend([10, 77, 0, 9]);
        header.extend(self.vip.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        ethernet(self.to, [0x08, 0x00], &[header, self.payload.clone()].concat())
    }
}

/// An IPv4 frame as if from another address.
pub(crate) fn from_v4(mut frame: Vec<u8>, source: [u8; 4]) -> Vec<u8> {
    frame[26..30].copy_from_slice(&source);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// An IPv6 frame to the VIP.
pub(crate) fn v6(to: [u8; 6], vip: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend("fd77::9".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(vip.octets());
    packet.extend(payload);
    ethernet(to, [0x86, 0xdd], &packet)
}

/// A UDP header without a checksum, from port 5353, with four bytes.
pub(crate) fn udp(to: u16) -> Vec<u8> {
    [&5353_u16.to_be_bytes()[..], &to.to_be_bytes(), &12_u16.to_be_bytes(), &[0, 0], b"who?"].concat()
}

/// The checksum of the internet protocols.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    folded.to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// What a checksum covers beside the packet itself.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    [octets(from), octets(to), (length as u16).to_be_bytes().to_vec(), vec![0, protocol]].concat()
}

/// An ICMP message: type and code, and what follows the checksum.
pub(crate) fn icmp([kind, code]: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], rest].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// "Host unreachable", or in IPv6 "no route", about a packet.
pub(crate) fn icmp_error(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let rest = [&[0; 4], quoted].concat();
    if from.is_ipv4() {
        return icmp([3, 1], &rest);
    }
    let mut message = [&[1, 0, 0, 0], &rest[..]].concat();
    let sum = checksum(&[pseudo_header(from, to, 58, message.len()), message.clone()].concat());
    message[2..4].copy_from_slice(&sum);
    message
}

/// A UDP datagram with its IP header; without a checksum if it is not `checked`.
pub(crate) fn udp_datagram(from: SocketAddr, to: SocketAddr, payload: &[u8], checked: bool) -> Vec<u8> {
    let length = 8 + payload.len();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut udp = [&ports[..], &(length as u16).to_be_bytes(), &[0, 0], payload].concat();
    if checked {
        let sum = checksum(&[pseudo_header(from.ip(), to.ip(), 17, length), udp.clone()].concat());
        udp[6..8].copy_from_slice(&sum);
    }
    let (length, ends) = ((length as u16).to_be_bytes(), [octets(from.ip()), octets(to.ip())].concat());
    if from.is_ipv6() {
        return [&[0x60, 0, 0, 0][..], &length, &[17, 64], &ends, &udp].concat();
    }
    let total = (20 + udp.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0][..], &total, &[0, 9, 0x40, 0, 63, 17, 0, 0], &ends].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [header, udp].concat()
}

/// An ARP packet: request 1 or reply 2, the sender's MAC and address, the target's.
pub(crate) fn arp(to: [u8; 6], operation: u8, sender: ([u8; 6], IpAddr), target: ([u8; 6], IpAddr)) -> Vec<u8> {
    let [sender, target] = [sender, target].map(|(mac, ip)| [&mac[..], &octets(ip)].concat());
    ethernet(to, [0x08, 0x06], &[&[0, 1, 8, 0, 6, 4, 0, operation], &sender[..], &target].concat())
}

/// A neighbour solicitation (135) or advertisement (136) about a target, with its flags and an option.
pub(crate) fn neighbour(
    mac: [u8; 6],
    [from, to]: [IpAddr; 2],
    [kind, flags]: [u8; 2],
    target: IpAddr,
    option: &[u8],
) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0], &octets(target)[..], option].concat();
    let sum = checksum(&[pseudo_header(from, to, 58, message.len()), message.clone()].concat());
    message[2..4].copy_from_slice(&sum);
    let length = (message.len() as u16).to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &octets(from), &octets(to)].concat();
    ethernet(mac, [0x86, 0xdd], &[header, message].concat())
}

/// The group in which a host listens for solicitations for an address, and its MAC.
pub(crate) fn solicited_node(address: IpAddr) -> (IpAddr, [u8; 6]) {
    let [.., a, b, c] = as_v6(address).octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group.into(), [0x33, 0x33, 0xff, a, b, c])
}

/// The frame as if from another machine.
pub(crate) fn from_mac(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// A frame to the VIP with an ICMP message.
pub(crate) fn packet(to: [u8; 6], vip: IpAddr, message: &[u8]) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => V4 { to, vip, protocol: 1, ttl: 64, fragment: 0, payload: message.to_vec() }.bytes(),
        IpAddr::V6(vip) => v6(to, vip, 58, message),
    }
}

/// A TCP header with nothing but ports and flags.
pub(crate) fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[0x50, flags], &[0; 6]].concat()
}

/// A packet of any protocol in a frame.
pub(crate) fn ip(to: [u8; 6], from: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ends = [octets(from), octets(destination)].concat();
    if from.is_ipv6() {
        let length = (payload.len() as u16).to_be_bytes();
        let header = [&[0x60, 0, 0, 0][..], &length, &[protocol, 64], &ends].concat();
        return ethernet(to, [0x86, 0xdd], &[&header, payload].concat());
    }
    let total = (20 + payload.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0][..], &total, &[0, 9, 0x40, 0, 64, protocol, 0, 0], &ends].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    ethernet(to, [0x08, 0x00], &[&header, payload].concat())
}

/// Whether a frame is that packet, with whatever hops and a right checksum of its header.
pub(crate) fn carries(frame: &[u8], from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> bool {
    let length = if from.is_ipv4() { 20 } else { 40 };
    let Some((header, behind)) = frame[14..].split_at_checked(length) else { return false };
    let (ends, kind, whole) = match from {
        IpAddr::V4(_) => (&header[12..], header[9], checksum(header) == [0, 0]),
        IpAddr::V6(_) => (&header[8..], header[6], true),
    };
    // The shortest frames are filled up.
    ends == [octets(from), octets(to)].concat() && kind == protocol && whole && behind.starts_with(payload)
}

fn ethernet(to: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 9], &kind, packet].concat()
}

/// Sends frames out of the host's `eth0`.
pub(crate) fn send(host: &Host, frames: &[Vec<u8>]) {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;

    let index = host.index("eth0");
    let packet = host.run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap());
    // SAFETY: all zero is a value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is initialised and as long as stated.
    let bound = unsafe { libc::bind(packet.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0);
    for frame in frames {
        nix::sys::socket::send(packet.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }
}

pub(crate) fn as_v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("{v6} is not IPv4"),
    }
}

pub(crate) fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(v4) => panic!("{v4} is not IPv6"),
    }
}
