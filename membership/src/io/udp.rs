//! The gossip's UDP socket.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Bytes of the kernel's buffers asked for: a restart of a large cluster comes in bursts. The kernel may grant less.
const BUFFER: usize = 2 << 20;

/// Binds the socket. An IPv6 wildcard address hears IPv4 as well.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for granted in [socket.set_recv_buffer_size(BUFFER), socket.set_send_buffer_size(BUFFER)] {
        if let Err(error) = granted {
            tracing::debug!(%error, "socket buffer keeps its size");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The same address as seen on the socket and in gossip: a dual-stack socket shows IPv4 peers as mapped IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address in the form that a socket bound to `bind` sends to.
pub(super) fn sendable(to: SocketAddr, bind: SocketAddr) -> SocketAddr {
    match (to, bind) {
        (SocketAddr::V4(to), SocketAddr::V6(_)) => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
        _ => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_for_the_socket_only() {
        let v4: SocketAddr = "10.0.0.1:9651".parse().unwrap();
        let wildcard: SocketAddr = "[::]:9651".parse().unwrap();
        let mapped = sendable(v4, wildcard);
        assert_eq!(mapped.to_string(), "[::ffff:10.0.0.1]:9651");
        assert_eq!(canonical(mapped), v4);
        assert_eq!(sendable(v4, v4), v4);
    }
}
