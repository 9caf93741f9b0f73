//! Which rows of the kernel's one array of rows belong to whom.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// A run of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    /// The first.
    pub(super) start: u32,
    /// How many.
    pub(super) len: u32,
}

/// First fit; given-back runs rest before they are used again, since a packet under way may still be reading them.
///
/// Row 0 is nobody's and stays empty: a service without a table begins there ([`Run::default`]), and the kernel program, which
/// does not ask for a table's length, finds no node in it.
#[derive(Debug)]
pub(super) struct Rows {
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Instant, Run)>,
    rest: Duration,
}

impl Rows {
    /// All of `capacity` rows free but the first.
    pub(super) fn new(capacity: u32, rest: Duration) -> Self {
        Self { free: BTreeMap::from([(1, capacity.saturating_sub(1))]), resting: VecDeque::new(), rest }
    }

    /// A run of `len` rows, if there is one.
    pub(super) fn take(&mut self, len: u32) -> Option<Run> {
        if len == 0 {
            return Some(Run::default());
        }
        let (&start, &there) = self.free.iter().find(|(_, there)| **there >= len)?;
        self.free.remove(&start);
        if there > len {
            self.free.insert(start + len, there - len);
        }
        Some(Run { start, len })
    }

    /// Gives back a run that was never shown to the kernel.
    pub(super) fn untake(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        let Run { mut start, mut len } = run;
        if let Some((&before, &there)) = self.free.range(..start).next_back()
            && before + there == start
        {
            self.free.remove(&before);
            (start, len) = (before, there + len);
        }
        if let Some(there) = self.free.remove(&(start + len)) {
            len += there;
        }
        self.free.insert(start, len);
    }

    /// Gives back a run; it rests from now on.
    pub(super) fn release(&mut self, run: Run, now: Instant) {
        if run.len > 0 {
            self.resting.push_back((now + self.rest, run));
        }
    }

    /// Makes runs whose rest is over free.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.next_wake().is_some_and(|until| until <= now) {
            let Some((_, run)) = self.resting.pop_front() else { return };
            self.untake(run);
        }
    }

    /// When the next rest is over.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(lens in prop::collection::vec(1_u32..9, 1..60)) {
            let now = Instant::now();
            let mut rows = Rows::new(128, Duration::ZERO);
            let mut taken: Vec<Run> = Vec::new();
            for (turn, len) in lens.into_iter().enumerate() {
                if turn % 3 == 2 && !taken.is_empty() {
                    let run = taken.remove(turn % taken.len());
                    rows.release(run, now);
                    rows.wake(now);
                } else if let Some(run) = rows.take(len) {
                    prop_assert!(run.start > 0 && run.start + run.len <= 128);
                    for other in &taken {
                        prop_assert!(run.start + run.len <= other.start || other.start + other.len <= run.start);
                    }
                    taken.push(run);
                }
            }
            for run in taken {
                rows.untake(run);
            }
            prop_assert_eq!(rows.free, BTreeMap::from([(1, 127)]));
        }
    }
}
