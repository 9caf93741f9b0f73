//! Deaf is who finds one down and has heard nobody else for as long. It sends no beats from then on to whom it takes
//! for dead; so, in case it is heard, it says at once that it hears nobody. Its watchers take it at its word: it is down
//! without their having to miss its beats first. Unless they were held up themselves, or the word has waited.

use std::time::{Duration, Instant};

use super::{Signal, Watcher, micros};

/// Whether this node hears anybody.
#[derive(Debug)]
pub(super) struct Deafness {
    /// When anybody was last heard.
    heard: Instant,
    /// It has said that it hears nobody since.
    owned_up: bool,
}

impl Deafness {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, owned_up: false }
    }

    pub(super) fn hear(&mut self, arrival: Instant) {
        (self.heard, self.owned_up) = (self.heard.max(arrival), false);
    }

    /// For how long nobody was heard, if it is longer than `patience`, and to be said now.
    fn own_up(&mut self, patience: Duration, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.heard);
        let due = !self.owned_up && silent >= patience;
        self.owned_up |= due;
        due.then_some(silent)
    }
}

impl Watcher {
    /// Tells all, once, if one was found down and nobody else is heard either.
    pub(super) fn own_up(&mut self, now: Instant) {
        let Some(silent) = self.deafness.own_up(self.timing.patience(), now) else { return };
        for contact in self.plan.contacts.values().copied().collect::<Vec<_>>() {
            self.send(contact, Signal::Deaf { silent_us: micros(silent) });
        }
    }

    /// One that is watched says that it hears nobody. It may be this node that could not be heard: who was held up, or
    /// reads it late, goes by what it hears.
    pub(super) fn take_at_its_word(&mut self, id: u64, silent: Duration, arrival: Instant, now: Instant) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.is_excused(now) || now.saturating_duration_since(arrival) >= self.timing.interval {
            return;
        }
        // As if it had been silent itself: so this node answers when others ask.
        target.last = arrival.checked_sub(silent).unwrap_or(arrival);
        target.bury();
        self.stats.verdicts.observe(now.saturating_duration_since(target.last));
        self.report_is_new = true;
    }
}
