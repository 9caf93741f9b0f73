//! Datagrams with the time at which the kernel received them (SO_TIMESTAMPNS): who reads late does not measure late.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};

/// A socket whose datagrams come with their time of arrival.
#[derive(Debug)]
pub(crate) struct Stamped {
    socket: UdpSocket,
    control: Vec<u8>,
}

/// A datagram received.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// Its length; longer ones are cut to the buffer's.
    pub(crate) length: usize,
    /// Who sent it.
    pub(crate) peer: SocketAddr,
    /// When the kernel received it.
    pub(crate) arrived: Instant,
}

impl Stamped {
    /// Turns the stamps on, and blocking off.
    pub(crate) fn new(socket: UdpSocket) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        // What arrives while the reader waits for a processor must not be lost.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(2 << 20);
        Ok(Self { socket, control: nix::cmsg_space!(nix::sys::time::TimeSpec) })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next datagram, if there is one.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<Datagram> {
        let mut parts = [std::io::IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut self.control), MsgFlags::MSG_DONTWAIT)?;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        // The stamp is of the wall clock, which may be set at any time: only how long ago it was is taken from it.
        let ago = stamp
            .and_then(|stamp| SystemTime::UNIX_EPOCH.checked_add(stamp))
            .and_then(|stamp| wall.duration_since(stamp).ok())
            .unwrap_or_default();
        let peer = message.address.as_ref().and_then(address).ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Ok(Datagram { length: message.bytes, peer, arrived: now.checked_sub(ago).unwrap_or(now) })
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::eventually;

    #[test]
    fn a_datagram_that_is_read_late_tells_when_it_came() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let target = receiver.local_addr().expect("an address");
        let mut receiver = Stamped::new(receiver).expect("stamps");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut buffer = [0; 64];
        // It begins a moment after the first socket asks for it; without a stamp the time of reading is all there is.
        let mut sent = None;
        let stamped = eventually(Duration::from_secs(5), "the kernel stamps", || {
            if let (Some(sent), Ok(datagram)) = (sent, receiver.receive(&mut buffer))
                && datagram.arrived <= sent
            {
                return Ok(());
            }
            sender.send_to(b"x", target)?;
            sent = Some(Instant::now());
            anyhow::bail!("not yet")
        });
        stamped.expect("stamps");
        while receiver.receive(&mut buffer).is_ok() {}
        let before = Instant::now();
        sender.send_to(b"late", target).expect("sent");
        let after = Instant::now();
        std::thread::sleep(Duration::from_millis(60));
        let datagram = receiver.receive(&mut buffer).expect("it is there");
        assert_eq!((&buffer[..datagram.length], datagram.peer), (&b"late"[..], sender.local_addr().expect("address")));
        let slack = Duration::from_millis(5);
        assert!(datagram.arrived + slack > before && datagram.arrived < after + slack, "{:?}", before.elapsed());
    }
}
