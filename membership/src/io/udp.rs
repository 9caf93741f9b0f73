//! The UDP sockets of gossip and watch, on one port.
//!
//! The kernel hands each datagram to one of the two by its first byte, the version: a classic BPF program on the port's
//! reuse group (`SO_ATTACH_REUSEPORT_CBPF`). Where that cannot be had, the kernel picks by a hash of the sender's
//! address, and each thread hands over to the other what came to the wrong socket.

use std::{io, net::SocketAddr};

use nix::{
    libc::{BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog},
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::header::{RECIPIENT_AT, WATCH_VERSION};

/// Bytes of the kernel's buffers asked for: a restart of a large cluster comes in bursts. The kernel may grant less.
const BUFFER: usize = 2 << 20;

/// What a socket's filter sees before the datagram itself: UDP's header.
const UDP_HEADER: u32 = 8;

/// Two sockets bound to one address.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Gets what is not for the watch.
    pub(super) gossip: Socket,
    /// Gets the watch's datagrams, stamped by the kernel with their times of arrival.
    pub(super) watch: Socket,
}

/// Binds both sockets, which do not block. An IPv6 wildcard address hears IPv4 as well.
///
/// # Errors
/// Also if another socket has the port, whatever its options.
pub(super) fn bind(address: SocketAddr) -> io::Result<Sockets> {
    let gossip = unbound(address)?;
    gossip.bind(&address.into())?;
    // The first socket is bound without leave to share, or a second agent could join in; from here on it shares.
    gossip.set_reuse_port(true)?;
    let watch = unbound(address)?;
    watch.set_reuse_port(true)?;
    if let Err(error) = setsockopt(&watch, sockopt::ReceiveTimestampns, &true) {
        tracing::warn!(%error, "the kernel does not stamp datagrams: how long they waited counts as silence");
    }
    if let Err(error) = setsockopt(&watch, sockopt::RxqOvfl, &1) {
        tracing::warn!(%error, "the kernel does not tell how many datagrams it drops: they are not counted");
    }
    watch.bind(&gossip.local_addr()?)?;
    if let Err(error) = steer(&watch) {
        tracing::warn!(%error, "datagrams cannot be steered to the watch's socket; they are handed over");
    }
    Ok(Sockets { gossip, watch })
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
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
    Ok(socket)
}

/// Makes the kernel choose by the first byte. The program's result is the socket's place in the group, in the order in
/// which they were bound; an empty datagram ends it with 0.
fn steer(socket: &Socket) -> nix::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| {
        // The kernel's operation codes fit 16 bits.
        sock_filter { code: code as u16, jt, jf, k }
    };
    let mut program = [
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, u32::from(WATCH_VERSION)),
        op(BPF_RET | BPF_K, 0, 0, 1),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)
}

/// Makes the kernel drop what is for another session of this node, or for none: only who was told the session can pass,
/// or who listens on the wire. So garbage does not even wake the watch. Gossip that came here by mistake passes.
///
/// # Errors
/// If the kernel refuses the program; the watch looks for itself then.
pub(super) fn admit_only(socket: &Socket, session: u64) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| {
        // The kernel's operation codes fit 16 bits.
        SockFilter::new(code as u16, jt, jf, k)
    };
    let word = |place: u32| op(BPF_LD | BPF_W | BPF_ABS, 0, 0, UDP_HEADER + RECIPIENT_AT + 4 * place);
    // Halves of a number: nothing is cut off that counts.
    let (high, low) = ((session >> 32) as u32, session as u32);
    socket.attach_filter(&[
        op(BPF_LD | BPF_B | BPF_ABS, 0, 0, UDP_HEADER),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, u32::from(WATCH_VERSION)),
        word(0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, high),
        word(1),
        op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, low),
        op(BPF_RET | BPF_K, 0, 0, u32::MAX),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ])
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
    use std::net::UdpSocket;

    use super::*;
    use crate::header::{GOSSIP_VERSION, Header};

    #[test]
    fn mapped_addresses_are_for_the_socket_only() {
        let v4: SocketAddr = "10.0.0.1:9651".parse().unwrap();
        let wildcard: SocketAddr = "[::]:9651".parse().unwrap();
        let mapped = sendable(v4, wildcard);
        assert_eq!(mapped.to_string(), "[::ffff:10.0.0.1]:9651");
        assert_eq!(canonical(mapped), v4);
        assert_eq!(sendable(v4, v4), v4);
    }

    /// What waits on a socket.
    fn waiting(socket: Socket) -> Vec<Vec<u8>> {
        let socket = UdpSocket::from(socket);
        let mut buffer = [0; 100];
        let next = |socket: &UdpSocket| socket.recv(&mut buffer).map(|len| buffer[..len].to_vec());
        std::iter::repeat_with({
            let mut next = next;
            move || next(&socket).ok()
        })
        .map_while(|datagram| datagram)
        .collect()
    }

    #[test]
    fn the_first_byte_picks_the_socket_in_both_families() {
        for (bind_to, senders) in [
            ("127.0.0.1:0", vec!["127.0.0.1"]),
            ("0.0.0.0:0", vec!["127.0.0.1"]),
            ("[::1]:0", vec!["::1"]),
            ("[::]:0", vec!["::1", "127.0.0.1"]),
        ] {
            let sockets = bind(bind_to.parse().unwrap()).unwrap();
            let port = sockets.gossip.local_addr().unwrap().as_socket().unwrap().port();
            let mut sent = 0;
            for sender in &senders {
                for _ in 0..20 {
                    // Another port each time: a hash of it must not decide.
                    let from = UdpSocket::bind((*sender, 0)).unwrap();
                    from.send_to(&[WATCH_VERSION, 7], (*sender, port)).unwrap();
                    from.send_to(&[1, 7], (*sender, port)).unwrap();
                    from.send_to(&[], (*sender, port)).unwrap();
                    sent += 1;
                }
            }
            let (watch, gossip) = (waiting(sockets.watch), waiting(sockets.gossip));
            assert_eq!(watch, vec![vec![WATCH_VERSION, 7]; sent], "{bind_to}");
            assert_eq!(gossip, vec![[vec![1, 7], vec![]]; sent].concat(), "{bind_to}");
        }
    }

    #[test]
    fn garbage_and_what_is_for_another_session_does_not_reach_the_watch() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let sockets = bind(address.parse().unwrap()).unwrap();
            let session = 0xfedc_ba98_7654_3210;
            admit_only(&sockets.watch, session).unwrap();
            let datagram = |version: u8, recipient: u64| {
                let header = Header { sender: 1, generation: 2, session: 3, recipient, counter: 4 };
                header.encode(version)
            };
            let mine = datagram(WATCH_VERSION, session);
            let to = sockets.watch.local_addr().unwrap().as_socket().unwrap();
            let from = UdpSocket::bind((to.ip(), 0)).unwrap();
            for strange in [0, session ^ 1, session ^ (1 << 63), session.swap_bytes()] {
                from.send_to(&datagram(WATCH_VERSION, strange), to).unwrap();
            }
            for length in 1..RECIPIENT_AT as usize + 8 {
                from.send_to(&mine[..length], to).unwrap();
            }
            from.send_to(&mine, to).unwrap();
            from.send_to(&datagram(GOSSIP_VERSION, 0), to).unwrap();
            assert_eq!(waiting(sockets.watch), [mine], "{address}");
            assert_eq!(waiting(sockets.gossip), [datagram(GOSSIP_VERSION, 0)], "{address}");
        }
    }

    #[test]
    fn a_second_agent_does_not_get_the_port() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let sockets = bind(address.parse().unwrap()).unwrap();
            let taken = sockets.gossip.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(bind(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(sockets);
            bind(taken).unwrap();
        }
    }
}
