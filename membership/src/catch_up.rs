//! Catching up: when has a node that starts learned what was there before it?
//!
//! It asks a peer for its digest, page by page, until it has all that each page lists. If that peer is *settled* (has
//! caught up itself, or is long enough in service to have nothing left to learn), this node is caught up. Where all are
//! new, as in a cluster that starts at once, nobody is settled; then a node is caught up once it has gone through the
//! pages of every peer that it knows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{rngs::StdRng, seq::IteratorRandom as _};

use crate::{channel::Peer, digest::Page, spread::Peers};

/// A node in service for so long has met who is to be met.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How far a starting node is.
#[derive(Debug)]
pub(crate) struct CatchUp {
    started: Instant,
    done: bool,
    /// By peer: the owner hash up to which its pages are satisfied, exclusive. `None`: all.
    reached: BTreeMap<u64, Option<u64>>,
    /// Whose page was satisfied last, and has more: to ask whoever it may be each time would take a cluster of 1,000,
    /// whose digests have 20 pages, a quarter of an hour.
    current: Option<u64>,
}

impl CatchUp {
    pub(crate) fn new(now: Instant) -> Self {
        Self { started: now, done: false, reached: BTreeMap::new(), current: None }
    }

    /// This node has exchanged documents with its peers.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whoever has all of this node's documents knows what was there before.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.done || now.saturating_duration_since(self.started) >= SETTLED_AFTER
    }

    /// Whom to ask next, and from where on: who has just answered, or any other.
    pub(crate) fn next_question(&mut self, peers: &Peers, rng: &mut StdRng) -> Option<(Peer, u64)> {
        let current = self.current.take().and_then(|id| peers.get(&id));
        let open = |peer: &Peer| Some((*peer, self.next_page(peer.id)?));
        current.and_then(open).or_else(|| peers.values().filter_map(open).choose(rng))
    }

    /// Where the next page asked of a peer begins; `None` if all its pages are satisfied.
    fn next_page(&self, peer: u64) -> Option<u64> {
        self.reached.get(&peer).copied().unwrap_or(Some(0))
    }

    /// Takes note of a page all of which this node has. `peers` are those that are up. True if that completes it.
    pub(crate) fn satisfied(&mut self, peer: u64, page: &Page, peers: &Peers) -> bool {
        if self.done || self.next_page(peer).is_none_or(|next| page.first > next || page.last < next) {
            return false;
        }
        let next = page.last.checked_add(1);
        self.reached.insert(peer, next);
        self.reached.retain(|peer, _| peers.contains_key(peer));
        self.current = next.map(|_| peer);
        let all_of = |peer: &u64| self.reached.get(peer) == Some(&None);
        self.done = next.is_none() && (page.settled || peers.keys().all(all_of));
        if self.done {
            self.reached.clear();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;
    use crate::sim::address;

    fn page(first: u64, last: u64, settled: bool) -> Page {
        Page { first, last, entries: Vec::new(), answer: false, settled }
    }

    fn start() -> CatchUp {
        #[expect(clippy::disallowed_methods, reason = "tests need an arbitrary origin of time")]
        CatchUp::new(Instant::now())
    }

    fn peers<const N: usize>(ids: [u64; N]) -> Peers {
        ids.map(|id| (id, Peer { id, address: address(usize::try_from(id).unwrap()) })).into()
    }

    #[test]
    fn who_has_answered_is_asked_on_and_another_if_it_falls_silent() {
        let mut catch_up = start();
        let peers = peers([1, 2, 3]);
        let mut rng = StdRng::seed_from_u64(1);
        let mut ask = |catch_up: &mut CatchUp| {
            let (peer, from) = catch_up.next_question(&peers, &mut rng).unwrap();
            (peer.id, from)
        };
        for (page, next) in [(page(0, 99, false), 100), (page(100, 199, false), 200)] {
            assert!(!catch_up.satisfied(1, &page, &peers));
            assert_eq!(ask(&mut catch_up), (1, next));
        }
        let others: BTreeSet<_> = (0..50).map(|_| ask(&mut catch_up)).collect();
        assert_eq!(others, BTreeSet::from([(1, 200), (2, 0), (3, 0)]), "1 has not answered");
    }

    #[test]
    fn one_settled_peer_is_enough_once_all_its_pages_are_satisfied() {
        let mut catch_up = start();
        let peers = peers([1, 2]);
        assert!(!catch_up.satisfied(1, &page(100, u64::MAX, true), &peers), "the beginning is missing");
        assert!(!catch_up.satisfied(1, &page(0, 99, true), &peers));
        assert_eq!(catch_up.next_page(1), Some(100));
        assert!(catch_up.satisfied(1, &page(100, u64::MAX, true), &peers));
        assert!(catch_up.is_done());
    }

    #[test]
    fn among_the_new_every_peer_counts() {
        let mut catch_up = start();
        let peers = peers([1, 2]);
        assert!(!catch_up.satisfied(1, &page(0, u64::MAX, false), &peers));
        assert!(catch_up.satisfied(2, &page(0, u64::MAX, false), &peers));
    }

    #[test]
    fn long_service_settles() {
        let catch_up = start();
        assert!(!catch_up.is_settled(catch_up.started));
        assert!(catch_up.is_settled(catch_up.started + SETTLED_AFTER));
        assert!(!catch_up.is_done());
    }
}
