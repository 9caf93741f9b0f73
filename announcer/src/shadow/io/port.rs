//! An uplink's sockets: one for asks and answers, one that only holds memberships, by which the network card lets frames
//! to shadowed MACs in. Both go with the process.

use std::{
    io::{self, Read},
    os::fd::AsRawFd,
    task::{Context, Poll, ready},
};

use membership::document::Mac;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::{announce::io::packet::link_address, shadow::frame::ETHERTYPE};

/// An uplink's sockets.
#[derive(Debug)]
pub(super) struct Port {
    index: u32,
    probes: AsyncFd<Socket>,
    members: Socket,
}

impl Port {
    /// Opens both on the interface with this index. Must be called within a tokio runtime.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        let probes = Socket::new(Domain::PACKET, Type::RAW, None)?;
        probes.set_nonblocking(true)?;
        probes.bind(&link_address(index, ETHERTYPE)?)?;
        // Without a protocol it hears nothing.
        let members = Socket::new(Domain::PACKET, Type::RAW, None)?;
        // SAFETY: a `Socket` names the same descriptor for as long as it lives, and the `AsyncFd` owns it until then.
        let probes = unsafe { AsyncFd::register(probes) }?;
        Ok(Self { index, probes, members })
    }

    /// Sends a frame, of whatever type.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.probes.get_ref().send(frame).map(drop)
    }

    /// The next frame's length in `buffer`.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.probes.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|socket| socket.get_ref().read(buffer)) {
                return Poll::Ready(result);
            }
        }
    }

    /// Lets frames to this MAC in, or not any more. Other frames stay out: this is not promiscuous mode, unless the card
    /// has no filter for it.
    pub(super) fn admit(&self, mac: Mac, admit: bool) -> io::Result<()> {
        let [a, b, c, d, e, f] = mac;
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(self.index).map_err(io::Error::other)?,
            mr_type: u16::try_from(libc::PACKET_MR_UNICAST).map_err(io::Error::other)?,
            mr_alen: 6,
            mr_address: [a, b, c, d, e, f, 0, 0],
        };
        let length = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
        let option = if admit { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        let (socket, pointer) = (self.members.as_raw_fd(), (&raw const request).cast());
        // SAFETY: the pointer and length are those of `request`, which outlives the call; the socket is open.
        if unsafe { libc::setsockopt(socket, libc::SOL_PACKET, option, pointer, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
