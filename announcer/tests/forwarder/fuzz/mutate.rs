//! Makes packets of others: what bit errors, liars and other stacks would make of them.

use std::net::IpAddr;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

use super::{
    anatomy::{Anatomy, Body, ETHERNET, SCTP, TCP},
    scene::{OTHERS, OWN, ROUTER, Scene, address},
};

/// The longest frame that is made.
const LONGEST: usize = 1514;
/// Values at which counting goes wrong.
const EDGES: [u8; 12] = [0, 1, 4, 5, 0x0f, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff, 20];
/// Protocols, and what follows IPv6 headers.
const PROTOCOLS: [u8; 13] = [0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135];

/// The frame with one to four changes.
pub(crate) fn mutate(frame: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut changed = frame.to_vec();
    for _ in 0..rng.random_range(1..5) {
        change(&mut changed, rng);
    }
    changed.resize(changed.len().clamp(ETHERNET, LONGEST), 0);
    changed
}

fn change(frame: &mut Vec<u8>, rng: &mut StdRng) {
    match rng.random_range(0..12) {
        0 => flip(frame, rng),
        1 => set(frame, rng),
        2 => frame.truncate(rng.random_range(ETHERNET..=frame.len().max(ETHERNET + 1))),
        3 => frame.extend((0..rng.random_range(1..64)).map(|_| rng.random::<u8>())),
        4 => set_header_byte(frame, rng),
        5 => set_macs(frame, rng),
        6 | 7 => set_end(frame, rng),
        8 => set_ports(frame, rng),
        9 => set_flags(frame, rng),
        10 => insert_extension(frame, rng),
        _ => remove_bytes(frame, rng),
    }
}

fn flip(frame: &mut [u8], rng: &mut StdRng) {
    let at = rng.random_range(0..frame.len());
    frame[at] ^= 1 << rng.random_range(0..8);
}

fn set(frame: &mut [u8], rng: &mut StdRng) {
    let at = rng.random_range(0..frame.len());
    frame[at] = if rng.random() { EDGES.choose(rng).copied().unwrap_or(0) } else { rng.random() };
}

/// One of the bytes of an IP header, by which all else is found.
fn set_header_byte(frame: &mut [u8], rng: &mut StdRng) {
    let at = ETHERNET + rng.random_range(0..12);
    let value = match rng.random_range(0..3) {
        0 => EDGES.choose(rng).copied().unwrap_or(0),
        1 => PROTOCOLS.choose(rng).copied().unwrap_or(0),
        _ => 0x40 | rng.random_range(0..16),
    };
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}

fn set_macs(frame: &mut [u8], rng: &mut StdRng) {
    let macs = [OWN, OWN, OTHERS[0], OTHERS[1], ROUTER, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]];
    let at = if rng.random() { 0 } else { 6 };
    frame[at..at + 6].copy_from_slice(macs.choose(rng).unwrap_or(&OWN));
}

/// One of the addresses: a VIP, a pod, a client.
fn set_end(frame: &mut [u8], rng: &mut StdRng) {
    let Some(packet) = Anatomy::of(frame) else { return };
    let v6 = packet.source.is_ipv6();
    let end: IpAddr = match rng.random_range(0..8) {
        0 => Scene::pods(v6)[0].ip(),
        1 => address(v6, 9),
        _ => address(v6, rng.random_range(100..108)),
    };
    let (at, length) = packet.addresses()[usize::from(rng.random_range(0..4) > 0)];
    let octets = match end {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    frame[at..at + length].copy_from_slice(&octets);
}

/// One of the ports. Few clients' ports, so that connections meet.
fn set_ports(frame: &mut [u8], rng: &mut StdRng) {
    let Some(Anatomy { body: Body::Segment { at, .. }, .. }) = Anatomy::of(frame) else { return };
    let (offset, port) = if rng.random() {
        (0, 40_000 + rng.random_range(0..4_u16))
    } else {
        (2, [80, 443, 8080, 0, 81].choose(rng).copied().unwrap_or(0))
    };
    frame[at + offset..at + offset + 2].copy_from_slice(&port.to_be_bytes());
}

fn set_flags(frame: &mut [u8], rng: &mut StdRng) {
    let Some(Anatomy { body: Body::Segment { protocol, at }, .. }) = Anatomy::of(frame) else { return };
    if protocol == SCTP {
        frame[at + 12] = [0, 1, 2, 6, 10, 14].choose(rng).copied().unwrap_or(0);
    }
    if protocol != TCP {
        return;
    }
    frame[at + 13] = if rng.random_range(0..4) == 0 {
        rng.random()
    } else {
        [0x02, 0x10, 0x11, 0x12, 0x04, 0x14].choose(rng).copied().unwrap_or(0)
    };
}

/// An extension header behind the IPv6 header: of any kind and length.
fn insert_extension(frame: &mut Vec<u8>, rng: &mut StdRng) {
    let at = ETHERNET + 40;
    if frame.get(12..ETHERNET) != Some(&[0x86, 0xdd]) || frame.len() < at {
        return;
    }
    let kind = PROTOCOLS.choose(rng).copied().unwrap_or(0);
    let words = if rng.random_range(0..4) == 0 { rng.random() } else { rng.random_range(0..2_u8) };
    let mut header = vec![std::mem::replace(&mut frame[ETHERNET + 6], kind), words];
    header.extend((0..6 + 8 * usize::from(words.min(8))).map(|_| if rng.random() { 0 } else { rng.random::<u8>() }));
    frame.splice(at..at, header);
}

fn remove_bytes(frame: &mut Vec<u8>, rng: &mut StdRng) {
    let begin = rng.random_range(ETHERNET..=frame.len().max(ETHERNET));
    let end = (begin + rng.random_range(1..16)).min(frame.len());
    frame.drain(begin.min(end)..end);
}
