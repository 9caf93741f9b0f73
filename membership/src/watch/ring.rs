//! The ring: who watches whom.
//!
//! Members that are up, sorted by the hash of their names, form a ring; each is watched by its next [`WATCHERS`]
//! successors. So the load of the watch does not grow with the cluster, and up to `WATCHERS + 1` members all watch all.
//! Members compute this from their own views, which differ for a moment after each change; see
//! [`super::watcher`] for what makes up for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

/// How many watch each member.
pub(crate) const WATCHERS: usize = 3;

/// The next `count` ids after `of`, nearest first; all others where there are fewer.
pub(crate) fn successors<V>(ring: &BTreeMap<u64, V>, of: u64, count: usize) -> impl Iterator<Item = u64> {
    let after = ring.range((Excluded(of), Unbounded));
    after.chain(ring.range(..of)).map(|(id, _)| *id).take(count)
}

/// The `count` ids before `of`, nearest first; all others where there are fewer.
pub(crate) fn predecessors<V>(ring: &BTreeMap<u64, V>, of: u64, count: usize) -> impl Iterator<Item = u64> {
    let after = ring.range((Excluded(of), Unbounded)).rev();
    ring.range(..of).rev().chain(after).map(|(id, _)| *id).take(count)
}

/// The watchers of `of` besides `me`. `ring` has all members that are up, `me` among them.
pub(crate) fn other_watchers<V>(ring: &BTreeMap<u64, V>, of: u64, me: u64) -> BTreeSet<u64> {
    successors(ring, of, WATCHERS).filter(|id| *id != me).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: u64) -> BTreeMap<u64, ()> {
        (0..size).map(|id| (id * 10, ())).collect()
    }

    #[test]
    fn small_clusters_watch_all() {
        for size in 1..=4 {
            for me in ring(size).into_keys() {
                let others: BTreeSet<_> = ring(size).into_keys().filter(|id| *id != me).collect();
                assert_eq!(successors(&ring(size), me, WATCHERS).collect::<BTreeSet<_>>(), others);
                assert_eq!(predecessors(&ring(size), me, WATCHERS).collect::<BTreeSet<_>>(), others);
            }
        }
    }

    #[test]
    fn watching_and_being_watched_are_two_sides_of_one_thing() {
        let ring = ring(20);
        for &me in ring.keys() {
            assert_eq!(successors(&ring, me, WATCHERS).count(), WATCHERS);
            for watched in predecessors(&ring, me, WATCHERS) {
                assert!(successors(&ring, watched, WATCHERS).any(|id| id == me));
                let others = other_watchers(&ring, watched, me);
                assert!(others.len() == WATCHERS - 1 && !others.contains(&me) && !others.contains(&watched));
            }
        }
    }
}
