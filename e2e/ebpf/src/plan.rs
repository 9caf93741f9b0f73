//! What the harness is told: which frame it writes, and from which clients. The kernel program and the benchmark share
//! this file.

/// Words of a frame that the harness writes anew for each packet: all headers, up to those of TCP in IPv6.
pub(crate) const WORDS: usize = 10;
/// Those of TCP in IPv4.
pub(crate) const WORDS_V4: usize = 7;

/// Bytes of each length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Where an IPv4 header's checksum lies.
pub(crate) const CHECKSUM_V4: usize = ETHERNET + 10;
/// Where TCP begins behind an IPv4 header.
pub(crate) const TCP_V4: usize = ETHERNET + 20;
/// Where TCP begins behind an IPv6 header.
pub(crate) const TCP_V6: usize = ETHERNET + 40;
/// Where TCP's checksum lies in its header.
pub(crate) const TCP_CHECKSUM: usize = 16;

/// The frame, the flows, and how far the harness has come with them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The frame's first bytes: its client's port, the last two bytes of its client's address, and its checksums are
    /// zero.
    pub(crate) frame: [u64; WORDS],
    /// The sum that the IPv4 checksum is made of, without what is zero in the frame.
    pub(crate) network_sum: u32,
    /// The sum that the TCP checksum is made of, likewise.
    pub(crate) transport_sum: u32,
    /// Number of flows less one; the number is a power of two.
    pub(crate) mask: u32,
    /// The first flow.
    pub(crate) first: u32,
    /// The flow, less the first, whose packet was written last.
    pub(crate) last: u32,
    /// [`Plan::V6`], [`Plan::TO_CLIENT`].
    pub(crate) kind: u32,
}

impl Plan {
    /// The frame is IPv6, else IPv4.
    pub(crate) const V6: u32 = 1;
    /// The client is its destination, else its source.
    pub(crate) const TO_CLIENT: u32 = 2;

    /// The flow after another: all of them in an order without locality, then again.
    #[inline(always)]
    pub(crate) const fn next(mask: u32, last: u32) -> u32 {
        // A linear congruential generator: its period is whole for every power of two.
        last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & mask
    }

    /// The last two bytes of the address of a flow's client, and its port.
    #[inline(always)]
    pub(crate) const fn client(flow: u32) -> (u16, u16) {
        ((flow >> 14) as u16, 1024 + (flow & 0x3fff) as u16)
    }

    /// Where the client's address ends, less two, and where its port lies.
    #[inline(always)]
    pub(crate) const fn places(kind: u32) -> (usize, usize) {
        match (kind & Self::V6 != 0, kind & Self::TO_CLIENT != 0) {
            (false, false) => (ETHERNET + 14, TCP_V4),
            (false, true) => (ETHERNET + 18, TCP_V4 + 2),
            (true, false) => (ETHERNET + 22, TCP_V6),
            (true, true) => (ETHERNET + 38, TCP_V6 + 2),
        }
    }

    /// The checksum over what has this sum.
    #[inline(always)]
    pub(crate) const fn checksum(sum: u32) -> u16 {
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}
