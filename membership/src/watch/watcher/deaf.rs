//! Deaf is who finds one down and has heard nobody else for as long.
//!
//! What it finds then may be its own fault, so it keeps it to itself, until it hears somebody ([`super::Report::deaf`]). It sends no
//! beats from then on to whom it takes for dead; so, in case it is heard, it says that it hears nobody, once no answer is due any
//! more that might show otherwise. Its watchers take it at its word: it is down without their having to miss its beats
//! first. Unless they were held up themselves, or the word has waited.

use std::time::{Duration, Instant};

use super::{Signal, Target, Watcher, micros};
use crate::watch::Sight;

/// Whether this node hears anybody.
#[derive(Debug)]
pub(super) struct Deafness {
    /// When anybody was last heard.
    heard: Instant,
    /// It has found one down since, later than it should have heard somebody.
    deaf: bool,
    /// It has said so.
    owned_up: bool,
}

impl Deafness {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, deaf: false, owned_up: false }
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Somebody was heard. Whether this node was deaf until now.
    pub(super) fn hear(&mut self, arrival: Instant) -> bool {
        self.heard = self.heard.max(arrival);
        self.owned_up = false;
        std::mem::take(&mut self.deaf)
    }

    /// One was found down: for how long nobody was heard.
    fn note_down(&mut self, patience: Duration, now: Instant) -> Duration {
        let silent = now.saturating_duration_since(self.heard);
        self.deaf |= silent >= patience;
        silent
    }
}

impl Watcher {
    /// One was found down. Tells all, once, if nobody is heard.
    pub(super) fn own_up(&mut self, now: Instant) {
        let silent = self.deafness.note_down(self.timing.patience(), now);
        // Beats may come more seldom than this node's own.
        let patience = self.targets.values().map(Target::patience).max().unwrap_or_default();
        if !self.deafness.deaf || self.deafness.owned_up || silent < patience || self.answers_are_due(now) {
            return;
        }
        self.deafness.owned_up = true;
        for contact in self.plan.contacts.values().copied().collect::<Vec<_>>() {
            self.send(contact, Signal::Deaf { silent_us: micros(silent) });
        }
    }

    /// Whether others are being asked about somebody.
    fn answers_are_due(&self, now: Instant) -> bool {
        let open = |target: &Target| target.sight != Sight::Silent && target.is_overdue(now);
        self.targets.iter().any(|(id, target)| open(target) && !self.voters(*id, now).is_empty())
    }

    /// One that is watched says that it hears nobody. It may be this node that could not be heard: who was held up, or
    /// reads it late, goes by what it hears.
    pub(super) fn take_at_its_word(&mut self, id: u64, silent: Duration, arrival: Instant, now: Instant) {
        let Some(target) = self.targets.get_mut(&id).filter(|target| target.sight != Sight::Silent) else { return };
        if target.is_excused(now) || now.saturating_duration_since(arrival) >= self.timing.interval {
            return;
        }
        self.stats.verdicts.observe(now.saturating_duration_since(target.last));
        // As if it had been silent itself: so this node answers when others ask.
        target.last = arrival.checked_sub(silent).unwrap_or(arrival).min(target.last);
        target.bury();
        self.report_is_new = true;
    }
}
