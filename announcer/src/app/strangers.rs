//! Machines outside the cluster that use this node's VIPs: what the status tells of them. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use crate::{announce::Conflict, http::status};

/// Pairs of VIP and machine that are told of: the latest.
const ROOM: usize = 32;

/// The latest conflicts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    latest: Vec<status::Conflict>,
}

impl Strangers {
    /// A machine that is no member answers for a VIP of this node.
    pub(super) fn note(&mut self, conflict: &Conflict, now: SystemTime) {
        let mac = pnet_base::MacAddr::from(conflict.mac).to_string();
        let same = |entry: &status::Conflict| {
            entry.vip == conflict.vip && entry.mac == mac && entry.interface == conflict.interface
        };
        let known = self.latest.iter().position(same).map(|place| self.latest.remove(place));
        if known.is_none() && self.latest.len() >= ROOM {
            self.latest.remove(0);
        }
        let (first, times) = known.map_or((now, 0), |entry| (entry.first, entry.times));
        let (vip, interface) = (conflict.vip, conflict.interface.clone());
        self.latest.push(status::Conflict { vip, interface, mac, first, last: now, times: times + 1 });
    }

    /// For the status, the latest last.
    #[must_use]
    pub fn latest(&self) -> &[status::Conflict] {
        &self.latest
    }
}

/// When a VIP may be defended again.
#[derive(Debug, Default)]
pub(super) struct Defence {
    last: BTreeMap<IpAddr, Instant>,
}

impl Defence {
    /// RFC 5227's DEFEND_INTERVAL.
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether the VIP is to be defended against a machine heard now. At most once in a while, lest two machines that both
    /// insist flood the segment (RFC 5227 section 2.4 (c)).
    pub(super) fn is_due(&mut self, vip: IpAddr, now: Instant) -> bool {
        self.last.retain(|_, last| now.saturating_duration_since(*last) < Self::INTERVAL);
        let due = !self.last.contains_key(&vip);
        self.last.entry(vip).or_insert(now);
        due
    }

    /// When the VIP may be defended again, if that was done a moment ago.
    pub(super) fn next(&self, vip: IpAddr) -> Option<Instant> {
        self.last.get(&vip)?.checked_add(Self::INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_listed_once_with_how_often_it_was_heard_and_the_list_is_bounded() {
        let mut strangers = Strangers::default();
        let t0 = SystemTime::UNIX_EPOCH;
        let conflict =
            |n: u8| Conflict { vip: IpAddr::from([10, 77, 0, n]), interface: "eth0".into(), mac: [2, 0, 0, 0, 0, 1] };
        strangers.note(&conflict(1), t0);
        strangers.note(&conflict(1), t0 + Duration::from_secs(5));
        let entry = &strangers.latest()[0];
        assert_eq!((strangers.latest().len(), entry.times, entry.first), (1, 2, t0));
        assert_eq!((entry.last, entry.mac.as_str()), (t0 + Duration::from_secs(5), "02:00:00:00:00:01"));
        (0..200).for_each(|n| strangers.note(&conflict(n), t0));
        assert_eq!(strangers.latest().len(), ROOM);
    }

    #[test]
    fn two_machines_that_both_insist_meet_a_defence_every_ten_seconds() {
        #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]
        let t0 = Instant::now();
        let (mut defence, vip) = (Defence::default(), IpAddr::from([10, 77, 0, 1]));
        let defended = (0..300u32).filter(|n| defence.is_due(vip, t0 + Duration::from_millis(100) * *n)).count();
        assert_eq!(defended, 3);
        assert!(defence.is_due(IpAddr::from([10, 77, 0, 2]), t0 + Duration::from_secs(30)));
    }
}
