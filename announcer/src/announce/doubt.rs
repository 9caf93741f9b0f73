//! After a hold-up: the VIPs that this node announces, but which others may have taken meanwhile. Pure.
//!
//! For a moment nothing is said of them, not even in answer to questions that may have waited as long as this thread; they
//! are asked for. Whoever has them answers, is reported, and the agent takes the wish back. Who gets no such answer goes on
//! as before, without a burst.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::burst::Spot;

/// Long enough for two questions and their answers, and for the agent to judge them.
const SILENCE: Duration = Duration::from_millis(300);

/// What is in doubt, and until when. As bounded as what is announced.
#[derive(Debug, Default)]
pub struct Doubts {
    until: BTreeMap<Spot, Instant>,
}

impl Doubts {
    /// The spot is in doubt from now on.
    pub fn begin(&mut self, spot: Spot, now: Instant) {
        self.until.insert(spot, now + SILENCE);
    }

    /// It is not any more.
    pub fn end(&mut self, spot: &Spot) {
        self.until.remove(spot);
    }

    /// Whether nothing may be said of it.
    #[must_use]
    pub fn contains(&self, spot: &Spot) -> bool {
        self.until.contains_key(spot)
    }

    /// All in doubt.
    pub fn spots(&self) -> impl Iterator<Item = Spot> {
        self.until.keys().cloned()
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Those that nobody else has claimed.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Spot> {
        let over = |(_, until): &(&Spot, &Instant)| **until <= now;
        let spots: Vec<Spot> = self.until.iter().filter(over).map(|(spot, _)| spot.clone()).collect();
        self.until.retain(|_, until| *until > now);
        spots
    }
}
