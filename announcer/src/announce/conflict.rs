//! Someone else answers for a VIP that we announce: pure.
//!
//! Every such frame is counted; reported is a MAC at most once per [`QUIET`], and at most [`STRANGERS`] MACs per VIP and
//! interface in that time, so a flood with made-up addresses costs neither memory nor the agent's attention.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::burst::Spot;
use crate::wire::MacAddr;

/// How long the same news is not reported again.
pub const QUIET: Duration = Duration::from_secs(1);
/// The same for answers to what is asked, questions being further apart.
pub const QUIET_ASKED: Duration = Duration::from_millis(100);
/// MACs remembered per VIP and interface.
pub const STRANGERS: usize = 4;

/// VIPs and interfaces remembered; news of more is not reported.
pub const SPOTS: usize = 16_384;

/// Another machine has announced itself as the holder of a VIP that this node announces or asks for, or one whose
/// announcements matter has announced any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface on which it was heard.
    pub interface: String,
    /// The other machine's Ethernet address.
    pub mac: [u8; 6],
}

/// Who was reported when.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// At most [`SPOTS`].
    reported: BTreeMap<Spot, Vec<(MacAddr, Instant)>>,
}

impl Conflicts {
    /// A frame from `mac` claims the spot. Returns what is to be reported, if it is news after `quiet`.
    pub fn notice(&mut self, spot: Spot, mac: MacAddr, quiet: Duration, now: Instant) -> Option<Conflict> {
        if self.reported.len() >= SPOTS {
            self.reported
                .retain(|_, heard| heard.iter().any(|(_, since)| now.saturating_duration_since(*since) < QUIET));
        }
        if self.reported.len() >= SPOTS && !self.reported.contains_key(&spot) {
            return None;
        }
        let strangers = self.reported.entry(spot.clone()).or_default();
        strangers.retain(|(_, since)| now.saturating_duration_since(*since) < quiet);
        if strangers.len() >= STRANGERS || strangers.iter().any(|(stranger, _)| *stranger == mac) {
            return None;
        }
        strangers.push((mac, now));
        Some(Conflict { vip: spot.vip, interface: spot.interface, mac: mac.octets() })
    }

    /// The spot is not announced any more.
    pub fn forget(&mut self, spot: &Spot) {
        self.reported.remove(spot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot() -> Spot {
        Spot { vip: "10.77.0.100".parse().unwrap(), interface: "eth0".into() }
    }

    #[expect(clippy::disallowed_methods, reason = "any instant does")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_same_stranger_is_reported_once_per_quiet_time() {
        let (mut conflicts, t0) = (Conflicts::default(), start());
        let mac = MacAddr(2, 0, 0, 0, 0, 1);
        let report = Conflict { vip: spot().vip, interface: "eth0".into(), mac: mac.octets() };
        assert_eq!(conflicts.notice(spot(), mac, QUIET, t0), Some(report.clone()));
        assert_eq!(conflicts.notice(spot(), mac, QUIET, t0 + QUIET / 2), None);
        assert_eq!(conflicts.notice(spot(), mac, QUIET, t0 + QUIET), Some(report));
    }

    #[test]
    fn a_flood_of_made_up_macs_is_reported_a_few_times_and_remembered_no_further() {
        let (mut conflicts, t0) = (Conflicts::default(), start());
        let reports =
            (0..=255).filter(|n| conflicts.notice(spot(), MacAddr(2, 0, 0, 0, 1, *n), QUIET, t0).is_some()).count();
        assert_eq!(reports, STRANGERS);
        assert_eq!(conflicts.reported[&spot()].len(), STRANGERS);
        conflicts.forget(&spot());
        assert!(conflicts.reported.is_empty());
    }
}
