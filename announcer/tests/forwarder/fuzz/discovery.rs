//! ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861) as the standards read them: who asks for an address, and who says that
//! it has one.

use std::net::IpAddr;

use super::{
    anatomy::{ETHERNET, residue},
    judge::address,
    scene::OWN,
};
use crate::frames::{arp, from_mac, neighbour, solicited_node};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Where an IPv6 packet's ICMP message begins, and its options.
const MESSAGE: usize = ETHERNET + 40;
const OPTIONS: usize = MESSAGE + 24;
/// Options with a link-layer address.
const SOURCE_LINK: [u8; 2] = [1, 1];
const TARGET_LINK: [u8; 2] = [2, 1];

/// What a frame says of addresses.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Another machine says that it has this one.
    pub(crate) claims: Option<IpAddr>,
    /// Somebody asks who has one.
    pub(crate) asks: Option<Question>,
}

/// A question.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) target: IpAddr,
    /// What this node must say if it has the address.
    pub(crate) answer: Vec<u8>,
    /// It is as the standards have it. Another may be answered, too: nobody is told anything that is wrong.
    pub(crate) valid: bool,
}

impl Said {
    /// What is said to this node, alone or with others.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let to_us = frame[0] & 1 != 0 || frame.starts_with(&OWN);
        let said = match frame.get(12..ETHERNET) {
            Some([0x08, 0x06]) if to_us => by_arp(frame),
            Some([0x86, 0xdd]) if to_us => by_ndp(frame),
            _ => None,
        };
        said.unwrap_or_default()
    }
}

fn mac(frame: &[u8], at: usize) -> [u8; 6] {
    std::array::from_fn(|n| frame[at + n])
}

fn by_arp(frame: &[u8]) -> Option<Said> {
    let packet = frame.get(ETHERNET..ETHERNET + 28)?;
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let (asker, from, target) = (mac(packet, 8), address(packet, (14, 4)), address(packet, (24, 4)));
    let asks = (packet[6..8] == [0, 1] && from != target && asker[0] & 1 == 0).then(|| {
        let reply = from_mac(arp(asker, 2, (OWN, target), (asker, from)), OWN);
        Question { target, answer: [&reply, &frame[ETHERNET + 28..]].concat(), valid: true }
    });
    Some(Said { claims: (asker != OWN).then_some(from), asks })
}

fn by_ndp(frame: &[u8]) -> Option<Said> {
    if frame.len() < OPTIONS || frame[ETHERNET + 6..ETHERNET + 8] != [58, 255] || frame[MESSAGE + 1] != 0 {
        return None;
    }
    let [from, to, target] = [22, 38, MESSAGE + 8].map(|at| address(frame, (at, 16)));
    let option = frame.get(OPTIONS..OPTIONS + 8);
    if option.is_some_and(|option| option[1] == 0) {
        return None;
    }
    let linked = |kind: [u8; 2]| match option {
        Some(option) if option[..2] == kind => mac(option, 2),
        _ => mac(frame, 6),
    };
    match frame[MESSAGE] {
        ADVERTISEMENT => Some(Said { claims: (linked(TARGET_LINK) != OWN).then_some(target), asks: None }),
        SOLICITATION => Some(Said { claims: None, asks: question(frame, [from, to, target], linked(SOURCE_LINK)) }),
        _ => None,
    }
}

fn question(frame: &[u8], [from, to, target]: [IpAddr; 3], asker: [u8; 6]) -> Option<Question> {
    let to_group = frame[0] & 1 != 0;
    let option = [&[2, 1], &OWN[..]].concat();
    let (mac, flags, asker_ip) = match from.is_unspecified() {
        true if to_group => ([0x33, 0x33, 0, 0, 0, 1], 0x20, "ff02::1".parse().ok()?),
        false if !from.is_multicast() && asker[0] & 1 == 0 => (asker, 0x60, from),
        _ => return None,
    };
    let mut answer = from_mac(neighbour(mac, [target, asker_ip], [ADVERTISEMENT, flags], target, &option), OWN);
    answer[ETHERNET..ETHERNET + 4].copy_from_slice(&frame[ETHERNET..ETHERNET + 4]);
    let right_way = if to_group { to == solicited_node(target).0 } else { to == target };
    Some(Question { target, answer, valid: right_way && is_valid(frame, from) })
}

/// RFC 4861, 7.1.1, of what is not looked at before.
fn is_valid(frame: &[u8], from: IpAddr) -> bool {
    let length = u16::from_be_bytes([frame[18], frame[19]]);
    let covered = [&[0, 58][..], &length.to_be_bytes()].concat();
    let sum = residue([&frame[22..MESSAGE], &covered, &frame[MESSAGE..]]);
    let mapped = matches!(from, IpAddr::V6(from) if from.to_ipv4_mapped().is_some());
    let options = options(&frame[OPTIONS..]);
    let linked = options.as_ref().is_some_and(|kinds| kinds.contains(&SOURCE_LINK[0]));
    let whole = usize::from(length) == frame.len() - MESSAGE;
    frame[ETHERNET] >> 4 == 6 && whole && sum == 0 && !mapped && options.is_some() && !(from.is_unspecified() && linked)
}

/// The kinds of all options; `None` if they are not whole.
fn options(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut kinds = Vec::new();
    while let [kind, length, ..] = *bytes {
        if length == 0 {
            return None;
        }
        kinds.push(kind);
        bytes = bytes.get(8 * usize::from(length)..)?;
    }
    bytes.is_empty().then_some(kinds)
}
