//! An uplink's sockets for address resolution: one for ARP, one for neighbour discovery.
//!
//! The kernel filters (classic BPF), so that nothing but ARP and neighbour solicitations and advertisements that are meant
//! for this host wakes the thread; frames that the interface lets in for another MAC, and our own, stay out.

use std::{
    io,
    task::{Context, Poll},
};

use socket2::SockFilter;

use super::{
    lines::Sockets,
    packet::{Admitted, Memberships, PacketSocket},
};

/// Longest frame looked at, in bytes: a neighbour discovery message with every option there is fits well.
pub(crate) const LONGEST: usize = 2048;

const ETHERTYPE: u32 = 12;
const NEXT_HEADER: u32 = 14 + 6;
const ICMP_TYPE: u32 = 14 + 40;

/// Sockets for ARP and neighbour discovery.
#[derive(Debug)]
pub(crate) struct Resolution {
    index: u32,
    arp: PacketSocket,
    ndp: PacketSocket,
    /// What lets all multicast in, once that was asked for.
    multicast: Option<Memberships>,
}

impl Sockets for Resolution {
    fn open(index: u32) -> io::Result<Self> {
        Ok(Self {
            index,
            arp: PacketSocket::open(index, ethertype(libc::ETH_P_ARP), Some(&arp_filter()))?,
            ndp: PacketSocket::open(index, ethertype(libc::ETH_P_IPV6), Some(&ndp_filter()))?,
            multicast: None,
        })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.arp.send(frame)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.arp.poll_recv(cx, buffer) {
            Poll::Pending => self.ndp.poll_recv(cx, buffer),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

impl Resolution {
    /// Lets all multicast frames through the interface's filter, for when a group cannot be joined.
    pub(crate) fn admit_all_multicast(&mut self) -> io::Result<()> {
        if self.multicast.is_none() {
            let memberships = Memberships::open()?;
            memberships.join(self.index, Admitted::AllMulticast)?;
            self.multicast = Some(memberships);
        }
        Ok(())
    }
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
