//! Timers that stand still while the node itself does.
//!
//! If this node is held up (a busy machine, a paused VM), answers of its peers wait in the socket while the deadlines
//! for them pass. To count that time against the peers would declare the innocent dead. So time spent past an overdue
//! deadline is taken out: all later deadlines move by it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Deadlines of `T`, in a time that leaves out the node's own hold-ups.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    /// Keyed by the deadline in protocol time, then by order of arrival.
    queue: BTreeMap<(Instant, u64), T>,
    next: u64,
    /// How far protocol time is behind.
    held_up: Duration,
    /// Lateness up to this much is normal.
    tolerance: Duration,
}

impl<T> Timers<T> {
    pub(crate) fn new(tolerance: Duration) -> Self {
        Self { queue: BTreeMap::new(), next: 0, held_up: Duration::ZERO, tolerance }
    }

    pub(crate) fn schedule(&mut self, item: T, after: Duration, now: Instant) {
        let due = self.protocol_time(now) + after;
        self.queue.insert((due, self.next), item);
        self.next += 1;
    }

    /// The next item that is due, in order of deadlines.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let protocol_now = self.protocol_time(now);
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= protocol_now).then(|| entry.remove())
    }

    /// When the next item is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((due, _), _)| *due + self.held_up)
    }

    /// Notices a hold-up. To be called with each event, before anything is made of it.
    pub(crate) fn observe(&mut self, now: Instant) {
        let Some(((due, _), _)) = self.queue.first_key_value() else { return };
        let late = self.protocol_time(now).saturating_duration_since(*due);
        if late > self.tolerance {
            self.held_up += late;
        }
    }

    fn protocol_time(&self, now: Instant) -> Instant {
        now.checked_sub(self.held_up).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn epoch() -> Instant {
        // Any instant will do: only differences matter.
        #[expect(clippy::disallowed_methods, reason = "tests need an arbitrary origin of time")]
        Instant::now()
    }

    #[test]
    fn items_come_in_order_of_their_deadlines() {
        let start = epoch();
        let mut timers = Timers::new(50 * MS);
        timers.schedule('b', 20 * MS, start);
        timers.schedule('a', 10 * MS, start);
        timers.schedule('c', 20 * MS, start);
        assert_eq!(timers.next_due(), Some(start + 10 * MS));
        assert_eq!(timers.pop_due(start + 9 * MS), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(start + 30 * MS)).collect();
        assert_eq!(due, ['a', 'b', 'c']);
    }

    #[test]
    fn a_hold_up_of_the_node_postpones_what_follows_it() {
        let start = epoch();
        let mut timers = Timers::new(50 * MS);
        timers.schedule("probe", 10 * MS, start);
        timers.schedule("verdict", 150 * MS, start);
        let woken = start + 1010 * MS;
        timers.observe(woken);
        assert_eq!(timers.pop_due(woken), Some("probe"));
        assert_eq!(timers.pop_due(woken), None, "the suspect still has its 140 ms");
        assert_eq!(timers.next_due(), Some(woken + 140 * MS));
    }

    #[test]
    fn a_little_lateness_is_not_a_hold_up() {
        let start = epoch();
        let mut timers = Timers::new(50 * MS);
        timers.schedule("probe", 10 * MS, start);
        timers.schedule("verdict", 150 * MS, start);
        timers.observe(start + 40 * MS);
        assert_eq!(timers.next_due(), Some(start + 10 * MS));
        assert_eq!(timers.pop_due(start + 40 * MS), Some("probe"));
        assert_eq!(timers.next_due(), Some(start + 150 * MS));
    }
}
