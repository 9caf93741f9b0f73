//! Who has been heard lately: against rumours of the deaths of nodes that are audibly alive.
//!
//! SWIM spreads "down" as final, whoever says it. A node that was cut off has found everybody dead; the first thing it
//! does on its return is to tell. The slandered refute that within a round trip, but until then others would move
//! their VIPs. So a member that was heard within the last few watch intervals, by any authentic datagram, is shown as
//! suspect instead of down until it has been silent for as long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Earshot {
    /// By id; only of those heard lately.
    heard: BTreeMap<u64, Instant>,
    lately: Duration,
    /// When the first of those that are shown as suspect instead of down has been silent for long enough.
    recheck: Option<Instant>,
}

impl Earshot {
    pub(crate) fn new(lately: Duration) -> Self {
        Self { heard: BTreeMap::new(), lately, recheck: None }
    }

    /// An authentic datagram came from this member.
    pub(crate) fn note(&mut self, id: u64, now: Instant) {
        self.heard.insert(id, now);
    }

    /// Forgets old news. To be called before a round of [`Self::doubts`].
    pub(crate) fn begin(&mut self, now: Instant) {
        let lately = self.lately;
        self.heard.retain(|_, at| now.saturating_duration_since(*at) < lately);
        self.recheck = None;
    }

    /// Whether the member was heard so lately that it cannot be taken for dead.
    pub(crate) fn doubts(&mut self, id: u64) -> bool {
        let Some(until) = self.heard.get(&id).and_then(|at| at.checked_add(self.lately)) else { return false };
        self.recheck = Some(self.recheck.map_or(until, |other| other.min(until)));
        true
    }

    /// When a doubt may have to end.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.recheck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_is_not_dead_until_it_was_silent_for_as_long() {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can only be had from the clock; only differences count"
        )]
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut earshot = Earshot::new(Duration::from_millis(250));
        earshot.note(1, at(0));
        earshot.begin(at(100));
        assert!(!earshot.doubts(2), "never heard");
        assert!(earshot.doubts(1));
        assert_eq!(earshot.poll_timeout(), Some(at(250)));
        earshot.note(1, at(200));
        earshot.begin(at(250));
        assert!(earshot.doubts(1), "it was heard again");
        earshot.begin(at(450));
        assert!(!earshot.doubts(1));
        assert_eq!(earshot.poll_timeout(), None);
    }
}
