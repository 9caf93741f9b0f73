//! Asking the segment itself who has an address: ARP (RFC 826) and neighbour solicitations (RFC 4861), as broadcast and
//! multicast frames, so that everyone who thinks it his may answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pnet_packet::{
    Packet,
    icmpv6::{self, Icmpv6Packet},
};

use crate::{
    observe::eventually,
    sniffer::{Kind, Sniffer, open},
    topology::{Host, Mac},
};

/// How long the first answer may take; the question is put again until then.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long others may take to answer as well.
const OTHERS: Duration = Duration::from_millis(200);

/// Who answers for each of `addresses`, asked from `host`: the hardware addresses the answers came from.
///
/// # Errors
/// When packet sockets cannot be had. An address nobody answers for has an empty set.
pub fn ask(host: &Host, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, BTreeSet<Mac>>> {
    let sniffer = Sniffer::start(&host.ns, "eth0")?;
    let answers = || {
        let mut answers: BTreeMap<IpAddr, BTreeSet<Mac>> = BTreeMap::new();
        for frame in sniffer.frames().into_iter().filter(|frame| frame.source != host.mac) {
            let address = match frame.kind {
                Kind::Arp { request: false, sender, .. } => IpAddr::V4(sender),
                Kind::Advertisement(target) => IpAddr::V6(target),
                _ => continue,
            };
            answers.entry(address).or_default().insert(frame.source);
        }
        answers
    };
    // Who stays silent is told by the answers, not by this.
    let _ = eventually(PATIENCE, "answers", || {
        let heard = answers();
        let silent: Vec<_> = addresses.iter().filter(|address| !heard.contains_key(address)).copied().collect();
        host.ns.run(|| put_questions(host, &silent))?;
        std::thread::sleep(Duration::from_millis(20));
        let heard = answers();
        ensure!(silent.iter().all(|address| heard.contains_key(address)));
        Ok(())
    });
    std::thread::sleep(OTHERS);
    let mut heard = answers();
    heard.retain(|address, _| addresses.contains(address));
    Ok(heard)
}

fn put_questions(host: &Host, addresses: &[IpAddr]) -> Result<()> {
    let mut socket = open("eth0")?;
    for address in addresses {
        let frame = match *address {
            IpAddr::V4(target) => arp_request(host.mac, host.v4, target),
            IpAddr::V6(target) => solicitation(host.mac, host.v6, target).context("a solicitation")?,
        };
        socket.write_all(&frame)?;
    }
    Ok(())
}

fn arp_request(mac: Mac, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    // Ethertype ARP; Ethernet, IPv4, their lengths; request.
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn solicitation(mac: Mac, own: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
    // Type 135, code, checksum, reserved, target; option 1 (source link-layer address), 8 bytes.
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(mac.0);
    let [.., x, y, z] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let checksum = icmpv6::checksum(&Icmpv6Packet::new(&message)?, &own, &group);
    message.splice(2..4, checksum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, x, y, z];
    frame.extend(mac.0);
    // Ethertype IPv6; version; payload length; next header ICMPv6; hop limit 255, as RFC 4861 demands.
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, u8::try_from(message.len()).ok()?, 58, 255]);
    frame.extend(own.octets());
    frame.extend(group.octets());
    frame.extend(Icmpv6Packet::new(&message)?.packet());
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0xc7, 0, 0, 0, 9]);

    #[test]
    fn an_arp_request_is_42_bytes_and_asks_everyone() {
        let frame = arp_request(MAC, Ipv4Addr::new(10, 77, 0, 9), Ipv4Addr::new(10, 77, 0, 100));
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[38..], [10, 77, 0, 100]);
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_nodes_group_with_a_right_checksum() {
        let (own, target) = ("fd77::9".parse().expect("own"), "fd77::100".parse().expect("target"));
        let frame = solicitation(MAC, own, target).expect("a frame");
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 1, 0]);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let group: Ipv6Addr = "ff02::1:ff00:100".parse().expect("a group");
        assert_eq!(frame[38..54], group.octets());
        let message = Icmpv6Packet::new(&frame[54..]).expect("a message");
        assert_eq!(message.get_checksum(), icmpv6::checksum(&message, &own, &group));
    }
}
