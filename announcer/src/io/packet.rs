//! A packet socket (AF_PACKET): whole Ethernet frames, in and out of one interface.

use std::{
    io::{self, Read},
    os::fd::AsRawFd,
    task::{Context, Poll, ready},
};

use membership::document::Mac;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// Whether packet sockets may be opened at all.
pub(crate) fn probe() -> io::Result<()> {
    Socket::new(Domain::PACKET, Type::RAW, None).map(drop)
}

/// A socket that hears frames of one Ethernet type on one interface, and sends frames of any type there.
#[derive(Debug)]
pub(crate) struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// Opens it on the interface with this index, with a filter if not all frames of that type are of interest. Must be
    /// called within a tokio runtime.
    pub(crate) fn open(index: u32, ethertype: u16, filter: Option<&[SockFilter]>) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        // Without a protocol it hears nothing, so the filter is in place before the first frame.
        if let Some(filter) = filter {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_address(index, ethertype)?)?;
        // SAFETY: a `Socket` names the same descriptor for as long as it lives, and the `AsyncFd` owns it until then.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Sends a frame, whatever its type.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.get_ref().send(frame).map(drop)
    }

    /// The next frame's length in `buffer`.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|socket| socket.get_ref().read(buffer)) {
                return Poll::Ready(result);
            }
        }
    }
}

/// What an interface's filter lets in beside what is for this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// All multicast frames.
    AllMulticast,
    /// Frames to this MAC. Others stay out: this is not promiscuous mode, unless the card has no filter for it.
    Unicast(Mac),
}

/// Memberships in what interfaces let in. They end with this value, and so with the process.
#[derive(Debug)]
pub(crate) struct Memberships(Socket);

impl Memberships {
    /// Holds none yet.
    pub(crate) fn open() -> io::Result<Self> {
        // Without a protocol the socket hears nothing, whatever it lets in.
        Socket::new(Domain::PACKET, Type::RAW, None).map(Self)
    }

    /// Lets frames in on the interface with this index.
    pub(crate) fn join(&self, index: u32, admitted: Admitted) -> io::Result<()> {
        self.set(libc::PACKET_ADD_MEMBERSHIP, index, admitted)
    }

    /// Does not let them in any more.
    pub(crate) fn leave(&self, index: u32, admitted: Admitted) -> io::Result<()> {
        self.set(libc::PACKET_DROP_MEMBERSHIP, index, admitted)
    }

    fn set(&self, option: libc::c_int, index: u32, admitted: Admitted) -> io::Result<()> {
        let (kind, mac_length, [a, b, c, d, e, f]) = match admitted {
            Admitted::AllMulticast => (libc::PACKET_MR_ALLMULTI, 0, [0; 6]),
            Admitted::Unicast(mac) => (libc::PACKET_MR_UNICAST, 6, mac),
        };
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            mr_type: u16::try_from(kind).map_err(io::Error::other)?,
            mr_alen: mac_length,
            mr_address: [a, b, c, d, e, f, 0, 0],
        };
        let length = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
        let (socket, pointer) = (self.0.as_raw_fd(), (&raw const request).cast());
        // SAFETY: the pointer and length are those of `request`, which outlives the call; the socket is open.
        if unsafe { libc::setsockopt(socket, libc::SOL_PACKET, option, pointer, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// An interface and an Ethernet type as an address to bind to.
fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is an address type of the kernel's that fits the storage, and zeroes are a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage was initialised as a `sockaddr_ll` of that length just above.
    Ok(unsafe { SockAddr::new(storage, length) })
}
