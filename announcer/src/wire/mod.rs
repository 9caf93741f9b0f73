//! ARP and neighbour discovery on Ethernet, as values.
//!
//! Each codec is a pair of `parse` (bytes from anyone to a value, or the reason why not; never a panic) and `emit`
//! (a value to the bytes that Linux would send). Fields are read and written through pnet's packet views; what the
//! standards demand of a message is checked here, so that [`crate::announce`] sees valid messages only.
//! `fixtures/` holds frames captured from arping, ndisc6 and the Linux kernel.

pub mod arp;
pub mod ndp;

use pnet_packet::ethernet::{EthernetPacket, MutableEthernetPacket};

pub use arp::ArpFrame;
pub use ndp::NdpFrame;
pub use pnet_base::MacAddr;

/// Bytes of an Ethernet header without a VLAN tag (which the kernel takes off before a packet socket sees the frame).
const ETHERNET_HEADER: usize = EthernetPacket::minimum_packet_size();

/// Why bytes are not a message that may be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the message does.
    #[error("truncated")]
    Truncated,
    /// Another protocol, message type or address format; nothing is wrong with it.
    #[error("not a message of this protocol")]
    Foreign,
    /// The hop limit is not 255, so a router has passed it on: it may be forged from afar (RFC 4861 section 7.1).
    #[error("hop limit is not 255")]
    HopLimit,
    /// The checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
    /// The ICMPv6 code is not 0.
    #[error("ICMPv6 code is not 0")]
    Code,
    /// An option of length 0, or one that reaches past the end.
    #[error("malformed option")]
    Option,
    /// An address that must not stand where it does.
    #[error("an address that must not stand there")]
    Address,
    /// The Solicited flag in a multicast advertisement.
    #[error("a multicast advertisement with the Solicited flag")]
    Solicited,
}

/// Writes an Ethernet header into the first bytes of `frame`; does nothing if it is too short for one.
fn put_ethernet(frame: &mut [u8], destination: MacAddr, source: MacAddr, ethertype: pnet_packet::ethernet::EtherType) {
    if let Some(mut header) = MutableEthernetPacket::new(frame) {
        header.set_destination(destination);
        header.set_source(source);
        header.set_ethertype(ethertype);
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Reading of captured frames.

    /// The bytes of a captured frame: hexadecimal digits, comment lines begin with `#`.
    pub(crate) fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.bytes().filter(u8::is_ascii_hexdigit))
            .map(|digit| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap())
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }
}
