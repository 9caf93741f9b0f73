//! Whether a loop was held up: its process stopped (SIGSTOP), its machine paused, or without a processor. Pure.
//!
//! A loop that has not run for a while knows old things: its VIPs may be another's. So it wakes at least once in
//! [`TICK`], and one that finds itself later than [`TOLERANCE`] must hear before it speaks.

use std::time::{Duration, Instant};

/// How long a loop sleeps at most.
pub const TICK: Duration = Duration::from_millis(500);
/// How late it may wake.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// When a loop last ran.
#[derive(Debug, Clone, Copy)]
pub struct HoldUp {
    last: Instant,
}

impl HoldUp {
    /// A loop that runs now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { last: now }
    }

    /// When it should wake at the latest.
    #[must_use]
    pub fn wake(&self) -> Instant {
        self.last + TICK
    }

    /// It has woken: for how long it was held up beyond what is usual, if it was.
    #[must_use]
    pub fn woken(&self, now: Instant) -> Option<Duration> {
        let late = now.saturating_duration_since(self.wake());
        (late > TOLERANCE).then_some(late)
    }

    /// It goes to sleep.
    pub fn sleep(&mut self, now: Instant) {
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_sleeps_longer_than_it_meant_to_was_held_up() {
        #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]
        let t0 = Instant::now();
        let mut hold_up = HoldUp::new(t0);
        assert_eq!(hold_up.woken(t0 + TICK), None);
        assert_eq!(hold_up.woken(t0 + TICK + TOLERANCE), None);
        assert_eq!(hold_up.woken(t0 + TICK * 11), Some(TICK * 10));
        hold_up.sleep(t0 + TICK * 11);
        assert_eq!(hold_up.woken(t0 + TICK * 12), None);
    }
}
