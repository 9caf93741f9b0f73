//! What datagrams that do not open may cost the watch.
//!
//! Whoever listens on the wire can copy a header, which is clear, so that a forged datagram passes for a member's until
//! it is tried with the keys. From addresses where no member was heard only so many a second are tried; a member's own
//! address is always tried, or who forges it could silence the member.

use std::time::{Duration, Instant};

/// Datagrams in a second that may fail to open.
pub(super) const FAILURES_PER_SECOND: u32 = 64;
/// Between two lines in the log.
const SILENCE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Budget {
    second: Instant,
    failures: u32,
    next_line: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { second: now, failures: 0, next_line: now }
    }

    /// Whether no more are to be tried for now.
    pub(super) fn is_spent(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.failures) = (now, 0);
        }
        self.failures >= FAILURES_PER_SECOND
    }

    /// One did not open.
    pub(super) fn note_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether it is to be said in the log that it is spent.
    pub(super) fn line_is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_line;
        if due {
            self.next_line = now + SILENCE;
        }
        due
    }
}
