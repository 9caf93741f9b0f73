//! Discovery: whom to greet in the hope of finding the cluster.
//!
//! Seeds come from configuration, remembered peers from disk and from this life's members. Each address is tried for
//! as long as no member that is up has it, with a delay that doubles up to a bound and is jittered, so that a healed
//! partition reunites within seconds and a cluster that starts at once does not beat in time. Pure: the random part of
//! the delay is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The first delay between two tries.
const FIRST: Duration = Duration::from_millis(200);
/// The longest, for up to [`AT_LONGEST_PACE`] addresses; more share the pace.
const LONGEST: Duration = Duration::from_secs(2);
const AT_LONGEST_PACE: u32 = 16;
/// Peers remembered besides the seeds.
const MAX_REMEMBERED: usize = 256;

#[derive(Debug)]
struct Candidate {
    seed: bool,
    /// A member had the address, in this life or one that left it on disk.
    member: bool,
    next: Instant,
    delay: Duration,
}

/// Addresses worth trying.
#[derive(Debug)]
pub(crate) struct Discovery {
    own: SocketAddr,
    candidates: BTreeMap<SocketAddr, Candidate>,
    up: BTreeSet<SocketAddr>,
    /// When the first of those that are not up is due: asked for after every datagram.
    next: Option<Instant>,
}

impl Discovery {
    pub(crate) fn new(own: SocketAddr) -> Self {
        Self { own, candidates: BTreeMap::new(), up: BTreeSet::new(), next: None }
    }

    /// Replaces the seeds; new ones are tried at once. Former ones stay only if members had them: names of seeds may
    /// resolve to something else each time.
    pub(crate) fn set_seeds(&mut self, seeds: &[SocketAddr], now: Instant) {
        for candidate in self.candidates.values_mut() {
            candidate.seed = false;
        }
        let own = self.own;
        for &seed in seeds.iter().filter(|seed| **seed != own) {
            self.add(seed, now).seed = true;
        }
        self.candidates.retain(|_, candidate| candidate.seed || candidate.member);
        self.reschedule();
    }

    /// Adds an address that was a member's; false if there are too many.
    pub(crate) fn remember(&mut self, address: SocketAddr, now: Instant) -> bool {
        if address == self.own {
            return true;
        }
        if let Some(known) = self.candidates.get_mut(&address) {
            known.member = true;
            return true;
        }
        if self.candidates.values().filter(|candidate| !candidate.seed).count() >= MAX_REMEMBERED {
            let gone = self.candidates.iter().find(|(address, other)| !other.seed && !self.up.contains(address));
            let Some(gone) = gone.map(|(address, _)| *address) else { return false };
            self.candidates.remove(&gone);
        }
        self.add(address, now).member = true;
        self.reschedule();
        true
    }

    fn add(&mut self, address: SocketAddr, now: Instant) -> &mut Candidate {
        self.candidates.entry(address).or_insert(Candidate { seed: false, member: false, next: now, delay: FIRST })
    }

    /// Says which addresses members that are up have; those that have just lost theirs are tried soon.
    pub(crate) fn set_up(&mut self, up: BTreeSet<SocketAddr>, now: Instant) {
        for (address, candidate) in &mut self.candidates {
            if self.up.contains(address) && !up.contains(address) {
                candidate.next = now + FIRST;
                candidate.delay = FIRST;
            }
        }
        self.up = up;
        self.reschedule();
    }

    /// The addresses to greet, each then put off. `jitter` gives numbers in `0.0..1.0`.
    pub(crate) fn due(&mut self, now: Instant, mut jitter: impl FnMut() -> f64) -> Vec<SocketAddr> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let idle = u32::try_from(self.candidates.len().saturating_sub(self.up.len())).unwrap_or(u32::MAX);
        let longest = LONGEST.saturating_mul(idle.div_ceil(AT_LONGEST_PACE).max(1));
        let mut due = Vec::new();
        for (address, candidate) in &mut self.candidates {
            if candidate.next > now || self.up.contains(address) {
                continue;
            }
            due.push(*address);
            candidate.next = now + candidate.delay.mul_f64(0.75 + jitter() / 2.0);
            candidate.delay = (candidate.delay * 2).min(longest);
        }
        self.reschedule();
        due
    }

    /// When the next address is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn reschedule(&mut self) {
        let waiting = self.candidates.iter().filter(|(address, _)| !self.up.contains(address));
        self.next = waiting.map(|(_, candidate)| candidate.next).min();
    }

    /// The addresses to remember for the next start.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.candidates.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (last >> 8) as u8, last as u8], 9651))
    }

    fn epoch() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need an arbitrary origin of time")]
        Instant::now()
    }

    #[test]
    fn seeds_are_tried_with_growing_delays_until_they_are_members() {
        let start = epoch();
        let mut discovery = Discovery::new(address(1));
        discovery.set_seeds(&[address(1), address(2)], start);
        let mut tries = Vec::new();
        while let Some(next) = discovery.poll_timeout().filter(|next| *next < start + Duration::from_secs(10)) {
            assert_eq!(discovery.due(next, || 0.5), [address(2)], "never this node itself");
            tries.push((next - start).as_millis());
        }
        assert_eq!(tries, [0, 200, 600, 1400, 3000, 5000, 7000, 9000]);
        discovery.set_up(BTreeSet::from([address(2)]), start);
        assert_eq!(discovery.poll_timeout(), None);
        let later = start + Duration::from_secs(60);
        discovery.set_up(BTreeSet::new(), later);
        assert_eq!(discovery.poll_timeout(), Some(later + FIRST), "a lost member is tried again soon");
    }

    #[test]
    fn a_former_seed_is_forgotten_unless_it_was_a_member() {
        let start = epoch();
        let mut discovery = Discovery::new(address(1));
        discovery.set_seeds(&[address(2), address(3)], start);
        discovery.remember(address(3), start);
        discovery.remember(address(4), start);
        discovery.set_seeds(&[address(5)], start);
        assert_eq!(discovery.peers(), [address(3), address(4), address(5)]);
    }

    #[test]
    fn memory_is_bounded_and_prefers_the_living() {
        let start = epoch();
        let mut discovery = Discovery::new(address(0));
        discovery.set_seeds(&[address(9999)], start);
        for peer in 1..=256 {
            assert!(discovery.remember(address(peer), start));
        }
        discovery.set_up((1..=255).map(address).collect(), start);
        assert!(discovery.remember(address(300), start), "takes the place of the one that is gone");
        assert!(!discovery.peers().contains(&address(256)));
        discovery.set_up((1..=300).map(address).collect(), start);
        assert!(!discovery.remember(address(301), start));
        assert_eq!(discovery.peers().len(), 257);
    }
}
