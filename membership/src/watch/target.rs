//! One watched node: when it was heard, when it is late, when it is overdue, and what others say about it then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Sight, Timing};

/// Short hold-ups of this node that put off a verdict, in one silence; more would put it off for ever where a loaded
/// machine makes them the rule.
const SHORT_GRACES: u32 = 2;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Target {
    /// Which life is watched.
    pub(super) session: u64,
    /// The last arrival, or the beginning of the watch.
    pub(super) last: Instant,
    pub(super) sight: Sight,
    /// The larger of this node's interval and the target's.
    interval: Duration,
    misses: u32,
    /// No suspicion before; no answers either.
    not_before: Instant,
    next_ping: Instant,
    pings: u32,
    graces: u32,
    inquiry: Option<Inquiry>,
}

/// Conferring with the other watchers, in rounds of an interval.
#[derive(Debug)]
struct Inquiry {
    /// When this round began.
    since: Instant,
    next_ask: Instant,
    /// The newest answer of each in this round.
    answers: BTreeMap<u64, Option<Duration>>,
    /// Somebody heard it.
    refuted: bool,
}

/// What the other watchers say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// Nobody hears it: it is down.
    Down,
    /// Somebody hears it. `first`: and this is news.
    Heard { first: bool },
    /// Not all have answered yet.
    Open,
}

impl Target {
    pub(super) fn new(session: u64, timing: Timing, now: Instant) -> Self {
        Self {
            session,
            last: now,
            sight: Sight::Awaited,
            interval: timing.interval,
            misses: timing.misses,
            not_before: now,
            // At once: a beat on schedule may be an interval away, or not meant for this node yet.
            next_ping: now,
            pings: 0,
            graces: 0,
            inquiry: None,
        }
    }

    /// Something came from it. True if it was suspected, and nobody had heard it yet.
    pub(super) fn hear(&mut self, arrival: Instant, interval: Option<Duration>, timing: Timing) -> bool {
        if let Some(interval) = interval {
            self.interval = interval.clamp(timing.interval, Timing::LONGEST);
        }
        self.last = self.last.max(arrival);
        self.next_ping = self.last + self.interval * 3 / 2;
        self.pings = 0;
        self.graces = 0;
        let suspected = self.inquiry.take().is_some_and(|inquiry| !inquiry.refuted);
        self.sight = Sight::Heard;
        suspected
    }

    /// The longest silence that is still in order.
    pub(super) fn patience(&self) -> Duration {
        Timing { interval: self.interval, misses: self.misses }.patience()
    }

    /// When it is overdue.
    pub(super) fn deadline(&self) -> Instant {
        (self.last + self.patience()).max(self.not_before)
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.deadline()
    }

    /// Whether this node was held up so lately that it judges nobody.
    pub(super) fn is_excused(&self, now: Instant) -> bool {
        now < self.not_before
    }

    /// For how long it has not been heard, if this node can say.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        let can_say = self.sight != Sight::Awaited && now >= self.not_before;
        can_say.then(|| now.saturating_duration_since(self.last))
    }

    /// This node was held up for `held`: it pings, and judges nobody before there was time for an answer.
    pub(super) fn excuse(&mut self, held: Duration, now: Instant) {
        let long = held >= self.interval * self.misses;
        if self.sight == Sight::Silent || (!long && self.graces >= SHORT_GRACES) {
            return;
        }
        self.graces += 1;
        self.not_before = now + self.interval.max(Timing::ROUND_TRIP);
        self.next_ping = now;
        if let Some(inquiry) = &mut self.inquiry {
            inquiry.since = self.not_before;
            inquiry.next_ask = self.not_before;
            inquiry.answers.clear();
        }
    }

    /// How many pings are due; they are put off then.
    pub(super) fn pings_due(&mut self, now: Instant) -> u32 {
        if now < self.next_ping || self.sight == Sight::Silent {
            return 0;
        }
        self.next_ping = now + self.interval / 2;
        self.pings += 1;
        // The first may be due to views that differ for a moment. After that, what is lost must not pass for death.
        if self.pings == 1 { 1 } else { 2 }
    }

    /// Begins an inquiry if it is overdue and none is under way. True if so.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        if self.inquiry.is_some() || self.sight == Sight::Silent || !self.is_overdue(now) {
            return false;
        }
        self.sight = Sight::Suspect;
        self.inquiry = Some(Inquiry { since: now, next_ask: now, answers: BTreeMap::new(), refuted: false });
        true
    }

    /// Whether others are to be asked now, those that have not answered yet; it is put off then.
    pub(super) fn ask_due(&mut self, now: Instant) -> bool {
        let interval = self.interval;
        let Some(inquiry) = self.inquiry.as_mut().filter(|inquiry| now >= inquiry.next_ask) else { return false };
        // Within a round a question is repeated because it may have been lost; the next round is about what changed.
        inquiry.next_ask = now + interval / 4;
        if now.saturating_duration_since(inquiry.since) >= interval {
            inquiry.since = now;
            inquiry.answers.clear();
        }
        true
    }

    pub(super) fn has_answer_of(&self, voter: u64) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.answers.contains_key(&voter))
    }

    /// Another watcher has answered.
    pub(super) fn note_answer(&mut self, of: u64, silent: Option<Duration>) {
        if let Some(inquiry) = &mut self.inquiry {
            inquiry.answers.insert(of, silent);
        }
    }

    /// What those who have a say think. Who cannot say, or does not answer, is waited for through one interval.
    pub(super) fn opinion(&mut self, voters: &BTreeSet<u64>, now: Instant) -> Opinion {
        let agreement = self.interval * self.misses.saturating_sub(1);
        let Some(inquiry) = &mut self.inquiry else { return Opinion::Open };
        let mut open = false;
        for voter in voters {
            match inquiry.answers.get(voter).copied().flatten() {
                Some(silent) if silent <= agreement => {
                    let first = !std::mem::replace(&mut inquiry.refuted, true);
                    return Opinion::Heard { first };
                }
                Some(_) => {}
                None => open = true,
            }
        }
        if open && now < inquiry.since + self.interval { Opinion::Open } else { Opinion::Down }
    }

    /// It is down.
    pub(super) fn bury(&mut self) {
        self.sight = Sight::Silent;
        self.inquiry = None;
    }

    /// When something is to be done about it.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.sight == Sight::Silent {
            return None;
        }
        let verdict = match &self.inquiry {
            None => self.deadline(),
            Some(inquiry) => inquiry.next_ask,
        };
        Some(verdict.min(self.next_ping))
    }
}
