//! What to do with a frame that came in: pure, without memory.
//!
//! ARP requests for an owned VIP are answered, broadcast and unicast ones (a client's unreachability probe) and probes
//! of RFC 5227 alike; so are neighbour solicitations (RFC 4861 section 7.2.4). Whoever names an owned VIP as its own
//! address is reported, and whoever names one that is asked for.

use std::net::{IpAddr, Ipv6Addr};

use crate::wire::{
    ArpFrame, MacAddr, NdpFrame, WireError,
    arp::Operation,
    ndp::{ALL_NODES, Message, multicast_mac},
};

/// What a frame that we send is; a label of `crier_announcements_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Gratuitous ARP, of either form.
    Garp,
    /// Unsolicited neighbour advertisement.
    UnsolicitedNa,
    /// Answer to an ARP request.
    ArpReply,
    /// Answer to a neighbour solicitation.
    Na,
    /// Question for a VIP that may be another's.
    Question,
}

/// What a valid frame asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The frame to send back.
    pub answer: Option<(Kind, Vec<u8>)>,
    /// A VIP of interest that the sender calls its own, and the sender's Ethernet address.
    pub claimed: Option<(IpAddr, MacAddr)>,
}

/// Judges a `frame` that came in on an interface with address `mac`. `is_ours` knows the addresses of all our
/// interfaces (two of them may be on one segment), `answered` the VIPs answered for on this one, `heeded` whether it is of
/// interest that the machine of that address calls the VIP its own.
///
/// # Errors
/// The frame is not valid ARP, neighbour solicitation or advertisement.
pub fn hear(
    frame: &[u8],
    mac: MacAddr,
    is_ours: impl Fn(MacAddr) -> bool,
    answered: impl Fn(IpAddr) -> bool,
    heeded: impl Fn(IpAddr, MacAddr) -> bool,
) -> Result<Heard, WireError> {
    match ArpFrame::parse(frame) {
        Ok(arp) if is_ours(arp.sender_mac) || is_ours(arp.source) => Ok(Heard::default()),
        Ok(arp) => Ok(hear_arp(&arp, mac, answered, heeded)),
        Err(WireError::Foreign) => match NdpFrame::parse(frame)? {
            ndp if is_ours(ndp.source) => Ok(Heard::default()),
            ndp => Ok(hear_ndp(&ndp, mac, is_ours, answered, heeded)),
        },
        Err(error) => Err(error),
    }
}

fn hear_arp(
    arp: &ArpFrame,
    mac: MacAddr,
    answered: impl Fn(IpAddr) -> bool,
    heeded: impl Fn(IpAddr, MacAddr) -> bool,
) -> Heard {
    let claimed = heeded(arp.sender_ip.into(), arp.sender_mac).then_some((arp.sender_ip.into(), arp.sender_mac));
    let asked = arp.operation == Operation::Request && arp.sender_ip != arp.target_ip && answered(arp.target_ip.into());
    let asker = reachable(Some(arp.sender_mac), arp.source).filter(|_| asked);
    let answer = asker.map(|asker| {
        let reply = ArpFrame {
            destination: asker,
            source: mac,
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: arp.target_ip,
            target_mac: asker,
            target_ip: arp.sender_ip,
        };
        (Kind::ArpReply, reply.emit())
    });
    Heard { answer, claimed }
}

fn hear_ndp(
    ndp: &NdpFrame,
    mac: MacAddr,
    is_ours: impl Fn(MacAddr) -> bool,
    answered: impl Fn(IpAddr) -> bool,
    heeded: impl Fn(IpAddr, MacAddr) -> bool,
) -> Heard {
    let (address, link) = match ndp.message {
        Message::Solicitation { source_link, .. } => (ndp.source_ip, source_link),
        Message::Advertisement { target, target_link, .. } => (target, target_link),
    };
    let sender = link.unwrap_or(ndp.source);
    let claimed = (heeded(address.into(), sender) && !is_ours(sender)).then_some((address.into(), sender));
    let answer = match ndp.message {
        Message::Solicitation { target, source_link } if answered(target.into()) => {
            advertise(ndp, mac, target, source_link)
        }
        Message::Solicitation { .. } | Message::Advertisement { .. } => None,
    };
    Heard { answer, claimed }
}

/// The answer to a solicitation. In duplicate address detection the asker has no address yet: all nodes are told.
fn advertise(ndp: &NdpFrame, mac: MacAddr, target: Ipv6Addr, asker: Option<MacAddr>) -> Option<(Kind, Vec<u8>)> {
    let detection = ndp.source_ip.is_unspecified();
    let (destination, destination_ip) =
        if detection { (multicast_mac(ALL_NODES), ALL_NODES) } else { (reachable(asker, ndp.source)?, ndp.source_ip) };
    let answer = NdpFrame {
        destination,
        source: mac,
        source_ip: target,
        destination_ip,
        message: Message::Advertisement {
            target,
            target_link: Some(mac),
            router: false,
            solicited: !detection,
            overriding: true,
        },
    };
    Some((Kind::Na, answer.emit()))
}

/// Where an answer can go: the address the message names, else the frame's source; never to a group.
fn reachable(named: Option<MacAddr>, source: MacAddr) -> Option<MacAddr> {
    named.into_iter().chain([source]).find(|mac| mac.is_unicast() && !mac.is_zero())
}

#[cfg(test)]
mod tests;
