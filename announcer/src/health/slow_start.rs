//! How a pod that has become healthy comes to its full share of new connections.
//!
//! In four steps, each twice the one before: an eighth at once, a quarter after a third of the time, half after two
//! thirds, all of it at its end. So no step does more than double what the pod gets, and each costs every node one change
//! of the service's tables: three more than a pod costs that gets all of its share at once.
//!
//! The pod's own node keeps the time and gossips where it is ([`membership::Verdict::Warming`]); so all nodes compute the
//! same tables without a common clock. A node that reads of a new pod before it hears that counts it in full, for as long as
//! gossip takes.

use std::time::{Duration, Instant};

/// The eighths of its share in the steps before the last.
const STEPS: [u8; 3] = [1, 2, 4];

/// A slow start under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowStart {
    began: Instant,
    takes: Duration,
}

impl SlowStart {
    /// One that begins now; `None` if it takes no time.
    pub(super) fn begin(takes: Duration, now: Instant) -> Option<Self> {
        (!takes.is_zero()).then_some(Self { began: now, takes })
    }

    /// The eighths of its share that the pod gets, and until when; `None`: it is over.
    pub(super) fn step(&self, now: Instant) -> Option<(u8, Instant)> {
        let until = |third: u32| self.began + self.takes * third / 3;
        (1..).map(until).zip(STEPS).find(|(until, _)| now < *until).map(|(until, eighths)| (eighths, until))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
mod tests {
    use super::*;

    #[test]
    fn the_share_doubles_every_third_of_the_time_and_is_whole_at_its_end() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let slow_start = SlowStart::begin(Duration::from_secs(9), began).unwrap();
        for (ms, expected) in [
            (0, Some((1, at(3000)))),
            (2999, Some((1, at(3000)))),
            (3000, Some((2, at(6000)))),
            (6000, Some((4, at(9000)))),
            (8999, Some((4, at(9000)))),
            (9000, None),
            (1_000_000, None),
        ] {
            assert_eq!(slow_start.step(at(ms)), expected, "{ms} ms");
        }
        assert_eq!(SlowStart::begin(Duration::ZERO, began), None);
    }
}
