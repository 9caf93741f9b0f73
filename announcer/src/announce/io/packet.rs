//! Packet sockets: one for ARP and one for neighbour discovery on each interface.
//!
//! The kernel filters (classic BPF), so that nothing but ARP and neighbour solicitations and advertisements that are meant
//! for this host wakes the thread; frames that the interface lets in for another MAC, and our own, stay out.

use std::{
    io::{self, Read},
    os::fd::AsRawFd,
    task::{Context, Poll, ready},
};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// Longest frame looked at, in bytes: a neighbour discovery message with every option there is fits well.
pub(crate) const LONGEST: usize = 2048;

const ETHERTYPE: u32 = 12;
const NEXT_HEADER: u32 = 14 + 6;
const ICMP_TYPE: u32 = 14 + 40;

/// An interface's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
    all_multicast: bool,
}

impl Sockets {
    /// Opens both, bound to the interface with this index. Must be called within a tokio runtime.
    pub(crate) fn open(index: u32) -> io::Result<Self> {
        Ok(Self {
            arp: registered(bound(index, ethertype(libc::ETH_P_ARP), &arp_filter())?)?,
            ndp: registered(bound(index, ethertype(libc::ETH_P_IPV6), &ndp_filter())?)?,
            all_multicast: false,
        })
    }

    /// Sends a frame. The socket's protocol plays no part in sending.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.arp.get_ref().send(frame).map(drop)
    }

    /// The next frame's length in `buffer`.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match poll_socket(&self.arp, cx, buffer) {
            Poll::Pending => poll_socket(&self.ndp, cx, buffer),
            ready @ Poll::Ready(_) => ready,
        }
    }

    /// Lets all multicast frames through the interface's filter, for when a group cannot be joined.
    pub(super) fn admit_all_multicast(&mut self, index: u32) -> io::Result<()> {
        if self.all_multicast {
            return Ok(());
        }
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            mr_type: u16::try_from(libc::PACKET_MR_ALLMULTI).map_err(io::Error::other)?,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
        // SAFETY: the pointer and length are those of `request`, which outlives the call; the socket is open.
        let result = unsafe {
            libc::setsockopt(
                self.ndp.get_ref().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.all_multicast = true;
        Ok(())
    }
}

/// Whether packet sockets may be opened at all.
pub(super) fn probe() -> io::Result<()> {
    Socket::new(Domain::PACKET, Type::RAW, None).map(drop)
}

fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` names the same descriptor for as long as it lives, and the `AsyncFd` owns it until then.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn poll_socket(socket: &AsyncFd<Socket>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(socket.poll_read_ready(cx))?;
        if let Ok(result) = guard.try_io(|socket| socket.get_ref().read(buffer)) {
            return Poll::Ready(result);
        }
    }
}

/// A socket without a protocol hears nothing; it gets one only when its filter is in place.
fn bound(index: u32, protocol: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(filter)?;
    socket.bind(&link_address(index, protocol)?)?;
    Ok(socket)
}

/// An interface and a protocol as an address to bind to.
pub(crate) fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is an address type of the kernel's that fits the storage, and zeroes are a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage was initialised as a `sockaddr_ll` of that length just above.
    Ok(unsafe { SockAddr::new(storage, length) })
}

const fn ethertype(value: i32) -> u16 {
    // Ethertypes are 16 bits; libc has them as `int`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "constants below 65,536")]
    {
        value as u16
    }
}

fn statement(code: u32, k: u32) -> SockFilter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new(u16::try_from(code).unwrap_or(0), yes, no, k)
}

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// Where the kernel shows whom the frame was meant for: 0 to 2 are this host, broadcast and multicast.
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
const OTHER_HOST: u32 = 3;

fn arp_filter() -> [SockFilter; 6] {
    [
        statement(LOAD_WORD, PACKET_TYPE),
        jump(IF_AT_LEAST, OTHER_HOST, 3, 0),
        statement(LOAD_HALF, ETHERTYPE),
        jump(IF_EQUAL, u32::from(ethertype(libc::ETH_P_ARP)), 0, 1),
        statement(RETURN, 128),
        statement(RETURN, 0),
    ]
}

fn ndp_filter() -> [SockFilter; 11] {
    [
        statement(LOAD_WORD, PACKET_TYPE),
        jump(IF_AT_LEAST, OTHER_HOST, 8, 0),
        statement(LOAD_HALF, ETHERTYPE),
        jump(IF_EQUAL, u32::from(ethertype(libc::ETH_P_IPV6)), 0, 6),
        statement(LOAD_BYTE, NEXT_HEADER),
        jump(IF_EQUAL, 58, 0, 4),
        statement(LOAD_BYTE, ICMP_TYPE),
        jump(IF_EQUAL, 135, 1, 0),
        jump(IF_EQUAL, 136, 0, 1),
        statement(RETURN, 2048),
        statement(RETURN, 0),
    ]
}
