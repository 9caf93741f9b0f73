//! What goes over a wire, as a packet socket at its end sees it.

use std::{
    net::UdpSocket,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt::RcvBufForce};

use crate::lan::Host;

/// Everything, in both directions.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Hears every frame at an interface from when it was made.
pub(crate) struct Tap(UdpSocket);

impl Tap {
    pub(crate) fn new(host: &Host, interface: &'static str) -> Self {
        let index = host.run(move || nix::net::if_::if_nametoindex(interface).unwrap());
        let packet = host.run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap());
        setsockopt(&packet, RcvBufForce, &(64 << 20)).unwrap();
        // SAFETY: all zero is a value of this plain C structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is initialised and as long as stated.
        let bound = unsafe { libc::bind(packet.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0);
        // It is read as any socket that takes datagrams.
        Self(UdpSocket::from(packet))
    }

    /// The next frame that is looked for; `None` if none comes in time.
    pub(crate) fn next(&self, is_it: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let read = self.0.recv(&mut buffer).ok()?;
            if is_it(&buffer[..read]) {
                return Some(buffer[..read].to_vec());
            }
        }
    }

    /// All frames that have come by.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let mut frames = Vec::new();
        while let Ok(read) = self.0.recv(&mut buffer) {
            frames.push(buffer[..read].to_vec());
        }
        self.0.set_nonblocking(false).unwrap();
        frames
    }
}
