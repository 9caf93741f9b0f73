//! Neighbour solicitations and advertisements (RFC 4861 sections 4.3, 4.4 and 7.1) on Ethernet.
//!
//! A message is checked as RFC 4861 section 7.1 demands before it becomes a value: hop limit, checksum, code, lengths,
//! options, addresses. Options other than the link-layer address are skipped. A message behind an IPv6 extension header is
//! foreign: hosts send none, and fragments are forbidden (RFC 6980).

use std::net::Ipv6Addr;

use pnet_packet::{
    ethernet::{EtherTypes, EthernetPacket},
    icmpv6::{
        self, Icmpv6Code, Icmpv6Packet, Icmpv6Type, Icmpv6Types, MutableIcmpv6Packet,
        ndp::{
            MutableNdpOptionPacket, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NdpOptionType,
            NdpOptionTypes, NeighborAdvertFlags, NeighborAdvertPacket, NeighborSolicitPacket,
        },
    },
    ip::IpNextHeaderProtocols,
    ipv6::{Ipv6Packet, MutableIpv6Packet},
};

use super::{ETHERNET_HEADER, MacAddr, WireError, put_ethernet};

const IPV6_HEADER: usize = Ipv6Packet::minimum_packet_size();
/// Both messages up to and including the target address.
const MESSAGE: usize = NeighborSolicitPacket::minimum_packet_size();
/// An option that holds an Ethernet address, in bytes.
const LINK_OPTION: usize = 8;
/// Options are measured in units of 8 bytes.
const OPTION_UNIT: usize = 8;
const HOP_LIMIT: u8 = 255;

/// The link-local group of all nodes.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A neighbour solicitation or advertisement with its Ethernet and IPv6 headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NdpFrame {
    /// Ethernet destination.
    pub destination: MacAddr,
    /// Ethernet source.
    pub source: MacAddr,
    /// IPv6 source; `::` in duplicate address detection.
    pub source_ip: Ipv6Addr,
    /// IPv6 destination.
    pub destination_ip: Ipv6Addr,
    /// What it says.
    pub message: Message,
}

/// What a neighbour discovery message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who has the target? (or: is it still there?)
    Solicitation {
        /// The address in question.
        target: Ipv6Addr,
        /// The asking node's link-layer address, if it tells.
        source_link: Option<MacAddr>,
    },
    /// The target is here.
    Advertisement {
        /// The address.
        target: Ipv6Addr,
        /// The target's link-layer address, if it tells.
        target_link: Option<MacAddr>,
        /// From a router.
        router: bool,
        /// In answer to a solicitation.
        solicited: bool,
        /// May replace what a neighbour cache holds.
        overriding: bool,
    },
}

impl NdpFrame {
    /// Reads a frame; bytes after the IPv6 payload are padding.
    ///
    /// # Errors
    /// [`WireError::Foreign`] for other protocols and messages, else which rule of RFC 4861 section 7.1 it breaks.
    pub fn parse(frame: &[u8]) -> Result<Self, WireError> {
        let (header, rest) = frame.split_at_checked(ETHERNET_HEADER).ok_or(WireError::Truncated)?;
        let ethernet = EthernetPacket::new(header).ok_or(WireError::Truncated)?;
        if ethernet.get_ethertype() != EtherTypes::Ipv6 {
            return Err(WireError::Foreign);
        }
        let (header, rest) = rest.split_at_checked(IPV6_HEADER).ok_or(WireError::Truncated)?;
        let ip = Ipv6Packet::new(header).ok_or(WireError::Truncated)?;
        if ip.get_version() != 6 || ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
            return Err(WireError::Foreign);
        }
        let payload = rest.get(..usize::from(ip.get_payload_length())).ok_or(WireError::Truncated)?;
        let icmp = Icmpv6Packet::new(payload).ok_or(WireError::Truncated)?;
        let kind = icmp.get_icmpv6_type();
        if kind != Icmpv6Types::NeighborSolicit && kind != Icmpv6Types::NeighborAdvert {
            return Err(WireError::Foreign);
        }
        let (source_ip, destination_ip) = (ip.get_source(), ip.get_destination());
        if ip.get_hop_limit() != HOP_LIMIT {
            return Err(WireError::HopLimit);
        }
        if icmp.get_checksum() != icmpv6::checksum(&icmp, &source_ip, &destination_ip) {
            return Err(WireError::Checksum);
        }
        if icmp.get_icmpv6_code() != Icmpv6Code(0) {
            return Err(WireError::Code);
        }
        let options = payload.get(MESSAGE..).ok_or(WireError::Truncated)?;
        let message = if kind == Icmpv6Types::NeighborSolicit {
            solicitation(payload, options, source_ip, destination_ip)?
        } else {
            advertisement(payload, options, destination_ip)?
        };
        Ok(Self {
            destination: ethernet.get_destination(),
            source: ethernet.get_source(),
            source_ip,
            destination_ip,
            message,
        })
    }

    /// A solicitation from the host's own address `own`, to one machine or to all that may have the target.
    #[must_use]
    pub fn question(mac: MacAddr, own: Ipv6Addr, target: Ipv6Addr, to: Option<MacAddr>) -> Self {
        let group = solicited_node(target);
        Self {
            destination: to.unwrap_or(multicast_mac(group)),
            source: mac,
            source_ip: own,
            destination_ip: if to.is_some() { target } else { group },
            message: Message::Solicitation { target, source_link: Some(mac) },
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let (kind, link) = match self.message {
            Message::Solicitation { source_link, .. } => (Icmpv6Types::NeighborSolicit, source_link),
            Message::Advertisement { target_link, .. } => (Icmpv6Types::NeighborAdvert, target_link),
        };
        let payload = MESSAGE + if link.is_some() { LINK_OPTION } else { 0 };
        let mut frame = vec![0; ETHERNET_HEADER + IPV6_HEADER + payload];
        put_ethernet(&mut frame, self.destination, self.source, EtherTypes::Ipv6);
        if let Some((_, rest)) = frame.split_at_mut_checked(ETHERNET_HEADER)
            && let Some((header, icmp)) = rest.split_at_mut_checked(IPV6_HEADER)
        {
            self.put_ip(header, payload);
            put_message(icmp, self.message);
            put_link_option(icmp, kind, link);
            self.put_checksum(icmp, kind);
        }
        frame
    }

    /// An unsolicited advertisement to all nodes: what moves neighbour caches to `mac` (RFC 4861 section 7.2.6).
    #[must_use]
    pub fn unsolicited(mac: MacAddr, ip: Ipv6Addr) -> Self {
        Self {
            destination: multicast_mac(ALL_NODES),
            source: mac,
            source_ip: ip,
            destination_ip: ALL_NODES,
            message: Message::Advertisement {
                target: ip,
                target_link: Some(mac),
                router: false,
                solicited: false,
                overriding: true,
            },
        }
    }

    fn put_ip(&self, header: &mut [u8], payload: usize) {
        if let Some(mut ip) = MutableIpv6Packet::new(header) {
            ip.set_version(6);
            ip.set_payload_length(u16::try_from(payload).unwrap_or(u16::MAX));
            ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
            ip.set_hop_limit(HOP_LIMIT);
            ip.set_source(self.source_ip);
            ip.set_destination(self.destination_ip);
        }
    }

    fn put_checksum(&self, payload: &mut [u8], kind: Icmpv6Type) {
        if let Some(mut icmp) = MutableIcmpv6Packet::new(payload) {
            icmp.set_icmpv6_type(kind);
            let sum = icmpv6::checksum(&icmp.to_immutable(), &self.source_ip, &self.destination_ip);
            icmp.set_checksum(sum);
        }
    }
}

/// The group that a node with `address` listens to for solicitations (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr(0x33, 0x33, a, b, c, d)
}

/// RFC 4861 section 7.1.1.
fn solicitation(
    payload: &[u8],
    options: &[u8],
    source_ip: Ipv6Addr,
    destination_ip: Ipv6Addr,
) -> Result<Message, WireError> {
    let target = NeighborSolicitPacket::new(payload).ok_or(WireError::Truncated)?.get_target_addr();
    let source_link = link_option(options, NdpOptionTypes::SourceLLAddr)?;
    let detection = source_ip.is_unspecified();
    let solicited_group = solicited_node(destination_ip) == destination_ip;
    if target.is_multicast() || source_ip.is_multicast() || (detection && (!solicited_group || source_link.is_some())) {
        return Err(WireError::Address);
    }
    Ok(Message::Solicitation { target, source_link })
}

/// RFC 4861 section 7.1.2.
fn advertisement(payload: &[u8], options: &[u8], destination_ip: Ipv6Addr) -> Result<Message, WireError> {
    let packet = NeighborAdvertPacket::new(payload).ok_or(WireError::Truncated)?;
    let (target, flags) = (packet.get_target_addr(), packet.get_flags());
    let target_link = link_option(options, NdpOptionTypes::TargetLLAddr)?;
    let solicited = flags & NeighborAdvertFlags::Solicited != 0;
    if target.is_multicast() {
        return Err(WireError::Address);
    }
    if destination_ip.is_multicast() && solicited {
        return Err(WireError::Solicited);
    }
    Ok(Message::Advertisement {
        target,
        target_link,
        router: flags & NeighborAdvertFlags::Router != 0,
        solicited,
        overriding: flags & NeighborAdvertFlags::Override != 0,
    })
}

/// The Ethernet address in the first option of type `wanted`. Walks the options by hand, because pnet computes an
/// option's length in eight bits.
fn link_option(mut options: &[u8], wanted: NdpOptionType) -> Result<Option<MacAddr>, WireError> {
    let mut found = None;
    while !options.is_empty() {
        let &[kind, units, ..] = options else { return Err(WireError::Option) };
        if units == 0 {
            return Err(WireError::Option);
        }
        let (option, rest) = options.split_at_checked(usize::from(units) * OPTION_UNIT).ok_or(WireError::Option)?;
        if let (true, None, &[_, 1, a, b, c, d, e, f]) = (kind == wanted.0, found, option) {
            found = Some(MacAddr(a, b, c, d, e, f));
        }
        options = rest;
    }
    Ok(found)
}

fn put_message(payload: &mut [u8], message: Message) {
    match message {
        Message::Solicitation { target, .. } => {
            if let Some(mut packet) = MutableNeighborSolicitPacket::new(payload) {
                packet.set_target_addr(target);
            }
        }
        Message::Advertisement { target, router, solicited, overriding, .. } => {
            if let Some(mut packet) = MutableNeighborAdvertPacket::new(payload) {
                let flag = |set: bool, bit: u8| if set { bit } else { 0 };
                packet.set_flags(
                    flag(router, NeighborAdvertFlags::Router)
                        | flag(solicited, NeighborAdvertFlags::Solicited)
                        | flag(overriding, NeighborAdvertFlags::Override),
                );
                packet.set_target_addr(target);
            }
        }
    }
}

fn put_link_option(payload: &mut [u8], kind: Icmpv6Type, link: Option<MacAddr>) {
    if let Some(link) = link
        && let Some(mut option) = payload.get_mut(MESSAGE..).and_then(MutableNdpOptionPacket::new)
    {
        option.set_option_type(if kind == Icmpv6Types::NeighborSolicit {
            NdpOptionTypes::SourceLLAddr
        } else {
            NdpOptionTypes::TargetLLAddr
        });
        option.set_length(1);
        option.set_data(&link.octets());
    }
}

#[cfg(test)]
mod tests;
