//! Questions for VIPs that are not this node's, or may not be any more: pure.
//!
//! A question is asked as any host on the segment would ask, from the node's own address, so it claims nothing and changes
//! no neighbour table but the answerer's. The first ones follow each other quickly, then comes one each second.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::burst::Spot;
use crate::wire::{ArpFrame, MacAddr, NdpFrame};

/// Frames sent in one go, and the rest after them.
const BATCH: usize = 32;
const PACE: Duration = Duration::from_millis(1);
/// When the first questions are asked, in milliseconds after the start.
const FIRST: &[u64] = &[0, 150, 300, 600, 1000];
/// Between questions after that.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Asking {
    started: Instant,
    step: usize,
    due: Instant,
}

/// What is being asked.
#[derive(Debug, Default)]
pub struct Inquiries {
    asking: BTreeMap<Spot, Asking>,
    due: BTreeSet<(Instant, Spot)>,
    rest_until: Option<Instant>,
}

impl Inquiries {
    /// Exactly these are asked for from now on.
    pub fn set(&mut self, spots: &BTreeSet<Spot>, now: Instant) {
        self.asking.retain(|spot, asking| spots.contains(spot) || !self.due.remove(&(asking.due, spot.clone())));
        for spot in spots.iter().filter(|spot| !self.asking.contains_key(spot)).cloned().collect::<Vec<_>>() {
            self.due.insert((now, spot.clone()));
            self.asking.insert(spot, Asking { started: now, step: 0, due: now });
        }
    }

    /// Whether the VIP is asked for there.
    #[must_use]
    pub fn contains(&self, spot: &Spot) -> bool {
        self.asking.contains_key(spot)
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        Some(self.rest_until.map_or(*due, |rest| rest.max(*due)))
    }

    /// What is to be asked now.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Spot> {
        let mut asked = Vec::new();
        if self.rest_until.is_some_and(|rest| rest > now) {
            return asked;
        }
        self.rest_until = None;
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            if asked.len() == BATCH {
                self.rest_until = Some(now + PACE);
                break;
            }
            let Some((_, spot)) = self.due.pop_first() else { break };
            let Some(asking) = self.asking.get_mut(&spot) else { continue };
            asking.step += 1;
            asking.due = match FIRST.get(asking.step) {
                Some(offset) => asking.started + Duration::from_millis(*offset),
                None => now + PERIOD,
            };
            self.due.insert((asking.due, spot.clone()));
            asked.push(spot);
        }
        asked
    }
}

/// The question for `vip` from an interface with this address and these networks (with the node's own addresses in them);
/// `None`: it has no address to ask from.
#[must_use]
pub fn question(vip: IpAddr, mac: MacAddr, networks: &[IpNet]) -> Option<Vec<u8>> {
    let own = |network: &&IpNet| network.addr().is_ipv4() == vip.is_ipv4();
    let near = networks.iter().filter(own).find(|network| network.contains(&vip));
    match (vip, near.or_else(|| networks.iter().find(own)).map(IpNet::addr)) {
        // Without an address of its own it asks as a probe does (RFC 5227 section 2.1.1).
        (IpAddr::V4(vip), own) => {
            let sender_ip = match own {
                Some(IpAddr::V4(own)) => own,
                _ => std::net::Ipv4Addr::UNSPECIFIED,
            };
            Some(ArpFrame::question(mac, sender_ip, vip, None).emit())
        }
        (IpAddr::V6(vip), Some(IpAddr::V6(own))) => Some(NdpFrame::question(mac, own, vip, None).emit()),
        (IpAddr::V6(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

    fn spot(n: u8) -> Spot {
        Spot { vip: IpAddr::from([10, 77, 0, n]), interface: "eth0".into() }
    }

    #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn questions_follow_each_other_quickly_and_then_each_second_until_they_are_taken_back() {
        let (mut inquiries, t0) = (Inquiries::default(), start());
        inquiries.set(&[spot(1)].into(), t0);
        let mut asked = Vec::new();
        while let Some(due) = inquiries.poll_timeout().filter(|due| *due <= t0 + Duration::from_millis(3500)) {
            asked.extend(inquiries.handle_timeout(due).iter().map(|_| (due - t0).as_millis()));
            inquiries.set(&[spot(1)].into(), due);
        }
        assert_eq!(asked, [0, 150, 300, 600, 1000, 2000, 3000]);
        inquiries.set(&BTreeSet::new(), t0);
        assert_eq!(inquiries.poll_timeout(), None);
        assert!(inquiries.asking.is_empty() && inquiries.due.is_empty());
    }

    #[test]
    fn many_questions_are_asked_in_batches() {
        let (mut inquiries, t0) = (Inquiries::default(), start());
        inquiries.set(&(0..100).map(spot).collect(), t0);
        assert_eq!(inquiries.handle_timeout(t0).len(), BATCH);
        assert_eq!(inquiries.handle_timeout(t0).len(), 0);
        assert_eq!(inquiries.poll_timeout(), Some(t0 + PACE));
        assert_eq!(inquiries.handle_timeout(t0 + PACE).len(), BATCH);
    }

    #[test]
    fn a_question_comes_from_the_nodes_own_address_nearest_to_the_vip() {
        let networks: Vec<IpNet> = ["10.1.0.5/24", "10.77.0.5/24", "fe80::5/64", "fd77::5/64"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect();
        let arp = ArpFrame::parse(&question("10.77.0.100".parse().unwrap(), MAC, &networks).unwrap()).unwrap();
        assert_eq!((arp.sender_ip, arp.target_ip), ([10, 77, 0, 5].into(), [10, 77, 0, 100].into()));
        let ndp = NdpFrame::parse(&question("fd77::100".parse().unwrap(), MAC, &networks).unwrap()).unwrap();
        assert_eq!(ndp.source_ip, "fd77::5".parse::<std::net::Ipv6Addr>().unwrap());

        let probe = ArpFrame::parse(&question("10.77.0.100".parse().unwrap(), MAC, &[]).unwrap()).unwrap();
        assert!(probe.sender_ip.is_unspecified());
        assert_eq!(question("fd77::100".parse().unwrap(), MAC, &[]), None);
    }
}
