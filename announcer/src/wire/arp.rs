//! The Address Resolution Protocol for IPv4 on Ethernet (RFC 826), with what RFC 5227 names: probes (sender 0.0.0.0)
//! and announcements (sender and target the same).

use std::net::Ipv4Addr;

use pnet_packet::{
    arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket},
    ethernet::{EtherTypes, EthernetPacket},
};

use super::{ETHERNET_HEADER, MacAddr, WireError, put_ethernet};

/// Bytes of an ARP frame; drivers pad it to Ethernet's minimum.
pub const LENGTH: usize = ETHERNET_HEADER + ArpPacket::minimum_packet_size();

/// What an ARP message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP message with its Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpFrame {
    /// Ethernet destination.
    pub destination: MacAddr,
    /// Ethernet source.
    pub source: MacAddr,
    /// Request or reply.
    pub operation: Operation,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address; meaningless in a request.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl ArpFrame {
    /// Reads a frame; bytes after the message are padding.
    ///
    /// # Errors
    /// [`WireError::Truncated`], or [`WireError::Foreign`] for what is not a request or reply for IPv4 on Ethernet.
    pub fn parse(frame: &[u8]) -> Result<Self, WireError> {
        let (header, body) = frame.split_at_checked(ETHERNET_HEADER).ok_or(WireError::Truncated)?;
        let ethernet = EthernetPacket::new(header).ok_or(WireError::Truncated)?;
        if ethernet.get_ethertype() != EtherTypes::Arp {
            return Err(WireError::Foreign);
        }
        let arp = ArpPacket::new(body).ok_or(WireError::Truncated)?;
        if arp.get_hardware_type() != ArpHardwareTypes::Ethernet
            || arp.get_protocol_type() != EtherTypes::Ipv4
            || arp.get_hw_addr_len() != 6
            || arp.get_proto_addr_len() != 4
        {
            return Err(WireError::Foreign);
        }
        let operation = match arp.get_operation() {
            ArpOperations::Request => Operation::Request,
            ArpOperations::Reply => Operation::Reply,
            ArpOperation(_) => return Err(WireError::Foreign),
        };
        Ok(Self {
            destination: ethernet.get_destination(),
            source: ethernet.get_source(),
            operation,
            sender_mac: arp.get_sender_hw_addr(),
            sender_ip: arp.get_sender_proto_addr(),
            target_mac: arp.get_target_hw_addr(),
            target_ip: arp.get_target_proto_addr(),
        })
    }

    /// The frame's bytes, [`LENGTH`] of them.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut frame = vec![0; LENGTH];
        put_ethernet(&mut frame, self.destination, self.source, EtherTypes::Arp);
        if let Some(mut arp) = frame.get_mut(ETHERNET_HEADER..).and_then(MutableArpPacket::new) {
            arp.set_hardware_type(ArpHardwareTypes::Ethernet);
            arp.set_protocol_type(EtherTypes::Ipv4);
            arp.set_hw_addr_len(6);
            arp.set_proto_addr_len(4);
            arp.set_operation(match self.operation {
                Operation::Request => ArpOperations::Request,
                Operation::Reply => ArpOperations::Reply,
            });
            arp.set_sender_hw_addr(self.sender_mac);
            arp.set_sender_proto_addr(self.sender_ip);
            arp.set_target_hw_addr(self.target_mac);
            arp.set_target_proto_addr(self.target_ip);
        }
        frame
    }

    /// A request from the host's own address `own` (0.0.0.0: a probe), to one machine or to all.
    #[must_use]
    pub fn question(mac: MacAddr, own: Ipv4Addr, target: Ipv4Addr, to: Option<MacAddr>) -> Self {
        Self {
            destination: to.unwrap_or(MacAddr::broadcast()),
            source: mac,
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: own,
            target_mac: MacAddr::zero(),
            target_ip: target,
        }
    }

    /// A gratuitous ARP of the request form: the announcement of RFC 5227 section 3.
    #[must_use]
    pub fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self {
            destination: MacAddr::broadcast(),
            source: mac,
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: ip,
            target_mac: MacAddr::zero(),
            target_ip: ip,
        }
    }

    /// A gratuitous ARP of the reply form. The target hardware address is the sender's own: with any other, Linux
    /// ignores it while the entry is younger than its locktime of 1 s.
    #[must_use]
    pub fn gratuitous_reply(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self { operation: Operation::Reply, target_mac: mac, ..Self::announcement(mac, ip) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::fixtures;

    const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x0a);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x0b);
    const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

    fn request() -> ArpFrame {
        ArpFrame {
            destination: MacAddr::broadcast(),
            source: B,
            operation: Operation::Request,
            sender_mac: B,
            sender_ip: CLIENT,
            target_mac: MacAddr::zero(),
            target_ip: HOST,
        }
    }

    fn reply() -> ArpFrame {
        ArpFrame {
            destination: B,
            source: A,
            operation: Operation::Reply,
            sender_mac: A,
            sender_ip: HOST,
            target_mac: B,
            target_ip: CLIENT,
        }
    }

    #[test]
    fn captured_frames_are_read_and_written_alike() {
        let pairs = [
            (include_str!("fixtures/arp_arping_request.hex"), request()),
            (include_str!("fixtures/arp_kernel_reply.hex"), reply()),
            (include_str!("fixtures/arp_arping_probe.hex"), ArpFrame { sender_ip: Ipv4Addr::UNSPECIFIED, ..request() }),
            (
                include_str!("fixtures/arp_kernel_probe_reply.hex"),
                ArpFrame { target_ip: Ipv4Addr::UNSPECIFIED, ..reply() },
            ),
            (include_str!("fixtures/arp_kernel_garp.hex"), ArpFrame::announcement(B, CLIENT)),
            (
                include_str!("fixtures/arp_arping_garp.hex"),
                ArpFrame { target_mac: MacAddr::broadcast(), ..ArpFrame::announcement(B, CLIENT) },
            ),
        ];
        for (text, value) in pairs {
            let bytes = fixtures::bytes(text);
            assert_eq!(ArpFrame::parse(&bytes), Ok(value), "{text}");
            assert_eq!(value.emit(), bytes[..LENGTH], "{text}");
        }
    }

    #[test]
    fn what_is_not_arp_for_ipv4_on_ethernet_is_foreign() {
        let good = request().emit();
        // Ethertype, hardware type, protocol type, both lengths, operation.
        for position in [13, 15, 17, 18, 19, 21] {
            let mut bytes = good.clone();
            bytes[position] ^= 0x40;
            assert_eq!(ArpFrame::parse(&bytes), Err(WireError::Foreign), "byte {position}");
        }
    }

    #[test]
    fn every_shorter_frame_is_truncated() {
        let bytes = request().emit();
        for length in 0..bytes.len() {
            assert_eq!(ArpFrame::parse(&bytes[..length]), Err(WireError::Truncated), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ArpFrame::parse(&bytes);
        }

        #[test]
        fn what_is_read_from_arbitrary_fields_is_written_back(fields in prop::collection::vec(any::<u8>(), 20), op in 1..=2u8) {
            let mut bytes = request().emit();
            bytes[21] = op;
            bytes[22..].copy_from_slice(&fields);
            prop_assert_eq!(ArpFrame::parse(&bytes).unwrap().emit(), bytes);
        }
    }
}
