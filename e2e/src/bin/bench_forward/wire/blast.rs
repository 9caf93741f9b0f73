//! Datagrams, as many as one thread can send, and how many of them arrive.

use std::{
    fs,
    io::Error,
    mem::zeroed,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    netns::Netns,
    topology::{Host, Mac},
};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::bed::stay_on;

/// Frames given to the kernel at once.
pub(super) const BATCH: usize = 64;
/// Bytes of a frame, as the shortest on Ethernet are.
pub(super) const LENGTH: usize = 60;
const ETHERNET: usize = 14;
pub(super) const UDP: usize = ETHERNET + 20;
const UDP_PROTOCOL: u8 = 17;
/// The first port datagrams come from, when they come from one.
const PORT: u16 = 40_000;
/// Until what is on its way has arrived.
const REST: Duration = Duration::from_millis(20);

/// Who sends, through whom, and where to.
pub(super) struct Blast<'a> {
    pub(super) from: &'a Host,
    pub(super) through: Mac,
    pub(super) targets: &'a [SocketAddr],
    pub(super) flows: u32,
}

impl Blast<'_> {
    /// Sends for so many seconds; how many it took.
    pub(super) fn run(&self, seconds: f64) -> Result<f64> {
        let spent = self.from.ns.run(|| {
            stay_on(0)?;
            let socket = open("eth0")?;
            let mut frames = (0..BATCH).map(|number| self.frame(number)).collect::<Result<Vec<_>>>()?;
            let (start, mut sent) = (Instant::now(), 0);
            while start.elapsed().as_secs_f64() < seconds {
                for frame in &mut frames {
                    if self.flows > 1 {
                        let port = u16::try_from(sent % self.flows).unwrap_or(0);
                        frame[UDP..UDP + 2].copy_from_slice(&port.max(1).to_be_bytes());
                    }
                    sent = sent.wrapping_add(1);
                }
                send(&socket, &frames)?;
            }
            Ok(start.elapsed().as_secs_f64())
        });
        std::thread::sleep(REST);
        spent
    }

    fn frame(&self, number: usize) -> Result<[u8; LENGTH]> {
        let target = self.targets[number % self.targets.len()];
        let IpAddr::V4(address) = target.ip() else { bail!("{target} is not IPv4") };
        let mut frame = ip_frame(self.from, self.through, address, UDP_PROTOCOL);
        // No checksum: it is not needed in IPv4.
        frame[UDP..UDP + 2].copy_from_slice(&PORT.to_be_bytes());
        frame[UDP + 2..UDP + 4].copy_from_slice(&target.port().to_be_bytes());
        frame[UDP + 4..UDP + 6].copy_from_slice(&u16::try_from(LENGTH - UDP)?.to_be_bytes());
        Ok(frame)
    }
}

/// A frame as far as its IPv4 header; behind it zeros.
pub(super) fn ip_frame(from: &Host, through: Mac, to: Ipv4Addr, protocol: u8) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&through.0);
    frame[6..12].copy_from_slice(&from.mac.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[ETHERNET..UDP].copy_from_slice(&header(protocol, from.v4.octets(), to.octets()));
    frame
}

/// The IPv4 header of a frame.
fn header(protocol: u8, source: [u8; 4], destination: [u8; 4]) -> [u8; 20] {
    const TOTAL: u8 = (LENGTH - ETHERNET) as u8;
    let mut header = [0x45, 0, 0, TOTAL, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&destination);
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    header[10..12].copy_from_slice(&crate::plan::Plan::checksum(sum).to_be_bytes());
    header
}

/// A packet socket that only sends.
pub(super) fn open(interface: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let index = nix::net::if_::if_nametoindex(interface)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a plain C structure that fits sockaddr_storage, and its length is given.
    let address = unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET)?;
        link.sll_ifindex = i32::try_from(index)?;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>().try_into()?)
    };
    socket.bind(&address)?;
    Ok(socket)
}

pub(super) fn send(socket: &Socket, frames: &[[u8; LENGTH]]) -> Result<()> {
    let mut parts: Vec<_> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: LENGTH })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: a plain C structure, for which zeros are a value: no address, no control data.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = u32::try_from(messages.len())?;
    // SAFETY: the messages, and the frames they point to, live until the call returns; the kernel only reads frames.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    ensure!(
        sent > 0 || Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS),
        "sendmmsg: {}",
        Error::last_os_error()
    );
    Ok(())
}

/// Datagrams that came to a socket in a namespace, whether it had room for them or not.
pub(super) fn arrived(ns: &Netns) -> Result<u64> {
    ns.run(|| counted(&fs::read_to_string("/proc/thread-self/net/snmp")?))
}

/// The same, from the kernel's table: a line of names, and one of values.
fn counted(text: &str) -> Result<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no counters of UDP")?;
    let columns = names.split(' ').zip(values.split(' '));
    let wanted = columns.filter(|(name, _)| ["InDatagrams", "RcvbufErrors"].contains(name));
    wanted.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

#[cfg(test)]
mod tests {
    use pnet_packet::ipv4;

    use super::*;

    #[test]
    fn datagrams_for_which_there_was_no_room_have_arrived_too() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts InErrors RcvbufErrors\nUdp: 30 4 500 500\n";
        assert_eq!(counted(text).expect("counters"), 530);
        assert!(counted("Tcp: A\nTcp: 1\n").is_err());
    }

    #[test]
    fn the_header_is_one_that_another_parser_takes_for_it() {
        let bytes = header(UDP_PROTOCOL, [10, 77, 0, 9], [10, 77, 0, 100]);
        let packet = ipv4::Ipv4Packet::new(&bytes).expect("a packet");
        assert_eq!((packet.get_total_length(), packet.get_ttl()), (46, 64));
        assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
    }
}
