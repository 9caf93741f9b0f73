//! A sniffer: what passes an interface, kept as short records.
//!
//! It reads an AF_PACKET socket in a thread of its own, so frames sent by the host itself are seen too; the source
//! address tells them apart.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use pnet_packet::{
    Packet,
    arp::{ArpOperations, ArpPacket},
    ethernet::{EtherTypes, EthernetPacket},
    icmpv6::{Icmpv6Packet, Icmpv6Types, ndp::NeighborAdvertPacket, ndp::NeighborSolicitPacket},
    ip::{IpNextHeaderProtocol, IpNextHeaderProtocols},
    ipv4::Ipv4Packet,
    ipv6::Ipv6Packet,
    udp::UdpPacket,
};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{netns::Netns, topology::Mac};

/// Records kept; later frames are only counted.
const CAPACITY: usize = 200_000;

/// A frame, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When the sniffer saw it.
    pub at: Instant,
    /// Who sent it on this segment.
    pub source: Mac,
    /// To whom on this segment.
    pub destination: Mac,
    /// What it is.
    pub kind: Kind,
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// RFC 826. Gratuitous when `sender == target`.
    Arp {
        /// Request, not reply.
        request: bool,
        /// Whose address is told.
        sender: Ipv4Addr,
        /// Whose address is asked.
        target: Ipv4Addr,
    },
    /// A neighbour solicitation (RFC 4861) for this address.
    Solicitation(Ipv6Addr),
    /// A neighbour advertisement (RFC 4861) of this address.
    Advertisement(Ipv6Addr),
    /// Any other IP packet.
    Ip {
        /// From.
        source: IpAddr,
        /// To.
        destination: IpAddr,
        /// The protocol number; 6 is TCP, 17 UDP.
        protocol: u8,
        /// TCP's or UDP's ports, from and to.
        ports: Option<(u16, u16)>,
    },
    /// Something else.
    Other,
}

#[derive(Debug, Default)]
struct Seen {
    frames: Mutex<Vec<Frame>>,
    stop: AtomicBool,
}

/// A running sniffer.
#[derive(Debug)]
pub struct Sniffer {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sniffer {
    /// Starts to record what passes `interface` of `ns`; every frame after the return is recorded.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn start(ns: &Netns, interface: &str) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let (inner, interface) = (Arc::clone(&seen), interface.to_owned());
        let (sender, started) = channel();
        let thread = ns.thread("sniffer", move || match open(&interface) {
            Ok(socket) => {
                let _ = sender.send(Ok(()));
                record(socket, &inner);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        })?;
        started.recv().context("the sniffer ended at once")??;
        Ok(Self { seen, thread: Some(thread) })
    }

    /// What was recorded until now.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many recorded frames satisfy `wanted`.
    pub fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.seen.frames.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|frame| wanted(frame)).count()
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.seen.frames.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// ETH_P_ALL in network byte order, as AF_PACKET wants it.
#[expect(clippy::cast_possible_truncation, reason = "ETH_P_ALL is 3")]
const EVERYTHING: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A packet socket bound to the interface before it receives anything.
pub(crate) fn open(interface: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let index = nix::net::if_::if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a plain C structure that fits sockaddr_storage, and its length is given.
    let address = unsafe {
        let link = storage.view_as::<libc::sockaddr_ll>();
        link.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET)?;
        link.sll_protocol = EVERYTHING;
        link.sll_ifindex = i32::try_from(index)?;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>().try_into()?)
    };
    socket.bind(&address)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    // Frames of a burst must not be lost while this thread waits for a processor.
    let _ = socket.set_recv_buffer_size(8 << 20);
    Ok(socket)
}

fn record(mut socket: Socket, seen: &Seen) {
    let mut buffer = [0_u8; 256];
    while !seen.stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else { continue };
        let at = Instant::now();
        let Some(frame) = parse(&buffer[..length], at) else { continue };
        let mut frames = seen.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < CAPACITY {
            frames.push(frame);
        }
    }
}

fn parse(bytes: &[u8], at: Instant) -> Option<Frame> {
    let frame = EthernetPacket::new(bytes)?;
    let mac = |mac: pnet_base::MacAddr| Mac(mac.octets());
    let kind = match frame.get_ethertype() {
        EtherTypes::Arp => arp(frame.payload()),
        EtherTypes::Ipv4 => ipv4(frame.payload()),
        EtherTypes::Ipv6 => ipv6(frame.payload()),
        _ => None,
    };
    Some(Frame {
        at,
        source: mac(frame.get_source()),
        destination: mac(frame.get_destination()),
        kind: kind.unwrap_or(Kind::Other),
    })
}

fn arp(bytes: &[u8]) -> Option<Kind> {
    let arp = ArpPacket::new(bytes)?;
    Some(Kind::Arp {
        request: arp.get_operation() == ArpOperations::Request,
        sender: arp.get_sender_proto_addr(),
        target: arp.get_target_proto_addr(),
    })
}

fn ip(source: IpAddr, destination: IpAddr, protocol: IpNextHeaderProtocol, payload: &[u8]) -> Kind {
    // Both protocols begin with their ports.
    let ports = match (protocol, payload) {
        (IpNextHeaderProtocols::Tcp | IpNextHeaderProtocols::Udp, &[a, b, c, d, ..]) => {
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        _ => None,
    };
    Kind::Ip { source, destination, protocol: protocol.0, ports }
}

fn ipv4(bytes: &[u8]) -> Option<Kind> {
    let packet = Ipv4Packet::new(bytes)?;
    Some(ip(
        packet.get_source().into(),
        packet.get_destination().into(),
        packet.get_next_level_protocol(),
        packet.payload(),
    ))
}

fn ipv6(bytes: &[u8]) -> Option<Kind> {
    let packet = Ipv6Packet::new(bytes)?;
    if packet.get_next_header() == IpNextHeaderProtocols::Icmpv6 {
        match Icmpv6Packet::new(packet.payload())?.get_icmpv6_type() {
            Icmpv6Types::NeighborSolicit => {
                return Some(Kind::Solicitation(NeighborSolicitPacket::new(packet.payload())?.get_target_addr()));
            }
            Icmpv6Types::NeighborAdvert => {
                return Some(Kind::Advertisement(NeighborAdvertPacket::new(packet.payload())?.get_target_addr()));
            }
            _ => {}
        }
    }
    Some(ip(packet.get_source().into(), packet.get_destination().into(), packet.get_next_header(), packet.payload()))
}

/// Records the payloads of `count` UDP datagrams to `port` that pass `interface` of `ns`, with their destinations;
/// gives up after `timeout` with those it has.
///
/// # Errors
/// When there is no such interface.
pub fn capture_udp(
    ns: &Netns,
    interface: &str,
    port: u16,
    count: usize,
    timeout: Duration,
) -> Result<Vec<(IpAddr, Vec<u8>)>> {
    ns.run(|| {
        let mut socket = open(interface)?;
        let start = Instant::now();
        let mut buffer = [0_u8; 4096];
        let mut datagrams = Vec::new();
        while datagrams.len() < count && start.elapsed() < timeout {
            let Ok(length) = socket.read(&mut buffer) else { continue };
            datagrams.extend(udp_payload(&buffer[..length], port));
        }
        Ok(datagrams)
    })
}

fn udp_payload(bytes: &[u8], port: u16) -> Option<(IpAddr, Vec<u8>)> {
    let frame = EthernetPacket::new(bytes)?;
    let packet = Ipv4Packet::new(frame.payload())?;
    if frame.get_ethertype() != EtherTypes::Ipv4 || packet.get_next_level_protocol() != IpNextHeaderProtocols::Udp {
        return None;
    }
    let udp = UdpPacket::new(packet.payload())?;
    let length = usize::from(udp.get_length()).checked_sub(8)?;
    let payload = udp.payload().get(..length)?;
    (udp.get_destination() == port).then(|| (packet.get_destination().into(), payload.to_vec()))
}
