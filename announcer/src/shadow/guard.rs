//! When a standby may carry what is flooded to an owner's MAC: a state machine for each shadowed MAC.
//!
//! ```text
//!             quiet for two seconds, and asks answered
//!  watching -----------------------------------------> armed <-- the lease is put off at each step
//!     ^  \ a frame to the MAC is seen: starts over       |
//!     |                                                  | the owner lives while frames to it are flooded
//!     +------------------- stood down <------------------+
//!          1 s, doubled each time up to 60 s
//! ```
//! While watching, nothing is carried. What is seen then, echoes included ([`super::frame`]), comes from a segment that
//! floods while the owner lives, so on a hub a standby never arms. The kernel stands down by itself; the guard finds out
//! at its next step.

use std::time::{Duration, Instant};

/// Between steps in calm times.
pub const STEP: Duration = Duration::from_millis(250);
/// How long nothing must have been seen. Longer than [`LEASE`]: should this node stand in for another standby whose agent
/// has died, that one's lease is over by then.
const QUIET: Duration = Duration::from_secs(2);
/// Asks that must have been answered in that time: of these many echoes one would have come by.
const ANSWERS: u32 = 4;
/// For how long the kernel goes on without the agent, which renews it at each step.
pub const LEASE: Duration = Duration::from_millis(1500);
/// Between asks while armed.
const ASK_ARMED: Duration = Duration::from_secs(1);
/// How long a stood down guard holds off, at first and at most.
const HOLD_OFF: Duration = Duration::from_secs(1);
const HOLD_OFF_MAX: Duration = Duration::from_secs(60);
/// When the owner is asked after a flood has begun. Signs of life in the first millisecond do not count.
const BURST: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
];
/// For how long a frame seen, or an answer missing, says why a guard watches.
const RECENT: Duration = Duration::from_secs(5);

/// How a guard is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Finding out whether the segment floods.
    Watching,
    /// The segment floods frames to the owner though it lives.
    Flooded,
    /// The owner does not answer.
    Unanswered,
    /// Carries what is flooded.
    Armed,
    /// The owner lived while frames to it were flooded; holding off.
    StoodDown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Watching, Self::Flooded, Self::Unanswered, Self::Armed, Self::StoodDown];

    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Flooded => "flooded",
            Self::Unanswered => "unanswered",
            Self::Armed => "armed",
            Self::StoodDown => "stood_down",
        }
    }
}

/// What the kernel has noted of the MAC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Changes with each frame seen that is addressed to it.
    pub seen: u64,
    /// The round in which the kernel stood down last.
    pub stood_down: u32,
}

/// What is to be done after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Todo {
    /// The owner's agent is to be asked, with this number.
    pub ask: Option<u64>,
    /// The owner's network stack is to be asked as well.
    pub knock: bool,
    /// The kernel is to be told.
    pub tell: Option<Lease>,
    /// It has just stood down.
    pub stood_down: bool,
}

/// What the kernel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Carry until then; `None`: carry nothing.
    pub until: Option<Instant>,
    /// Which round it is.
    pub round: u32,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Watching { since: Instant, answers: u32 },
    Armed { since: Instant },
    StoodDown { until: Instant },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Guard {
    phase: Phase,
    round: u32,
    hold_off: Duration,
    reading: Reading,
    /// The number of the newest ask, and of the first that counts.
    nonce: u64,
    first_nonce: u64,
    asked: Option<Instant>,
    answered: Option<Instant>,
    seen: Option<Instant>,
    began: Instant,
    next_step: Instant,
    /// The owner is said to be dead.
    doubted: bool,
    /// When the flood began, and which ask of the burst is next.
    burst: Option<(Instant, usize)>,
}

impl Guard {
    /// A guard that watches. `nonce` is where its numbers begin: such that no other guard's are near.
    #[must_use]
    pub fn new(now: Instant, nonce: u64) -> Self {
        Self {
            phase: Phase::Watching { since: now, answers: 0 },
            round: 1,
            hold_off: HOLD_OFF,
            reading: Reading::default(),
            nonce,
            first_nonce: nonce.wrapping_add(1),
            asked: None,
            answered: None,
            seen: None,
            began: now,
            next_step: now,
            doubted: false,
            burst: None,
        }
    }

    /// How it is.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
        match self.phase {
            Phase::Armed { .. } => State::Armed,
            Phase::StoodDown { .. } => State::StoodDown,
            Phase::Watching { .. } if recent(self.seen) => State::Flooded,
            Phase::Watching { .. } if recent(self.answered) || recent(Some(self.began)) => State::Watching,
            Phase::Watching { .. } => State::Unanswered,
        }
    }

    /// Whether it carries.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        matches!(self.phase, Phase::Armed { .. })
    }

    /// When to step next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let burst = self.burst.and_then(|(began, next)| BURST.get(next).map(|after| began + *after));
        burst.map_or(self.next_step, |at| at.min(self.next_step))
    }

    /// The kernel tells that a flood begins.
    pub fn handle_flood(&mut self, now: Instant) {
        if self.is_armed() {
            self.burst = Some((now, 0));
        }
    }

    /// Whether the owner is said to be dead. It is asked at each step then, and what it was asked before does not count.
    pub fn doubt(&mut self, doubted: bool) {
        if doubted && !self.doubted {
            self.first_nonce = self.nonce.wrapping_add(1);
            self.asked = None;
        }
        self.doubted = doubted;
    }

    /// The owner's answer to an ask. Whether it counts.
    pub fn handle_answer(&mut self, nonce: u64, now: Instant) -> bool {
        let outstanding = self.nonce.wrapping_sub(self.first_nonce).wrapping_add(1);
        if self.nonce.wrapping_sub(nonce) >= outstanding {
            return false;
        }
        // Each number counts once.
        self.first_nonce = nonce.wrapping_add(1);
        self.answered = Some(now);
        if let Phase::Watching { answers, .. } = &mut self.phase {
            *answers += 1;
        }
        true
    }

    /// Does what is due. `reading` must be newer than every answer that was handled.
    pub fn step(&mut self, reading: Reading, now: Instant) -> Todo {
        let mut todo = Todo::default();
        let changed = reading.seen != self.reading.seen;
        self.reading = reading;
        if changed {
            self.seen = Some(now);
        }
        match self.phase {
            Phase::Watching { .. } if changed => self.watch(now),
            Phase::Watching { since, answers } => {
                if answers >= ANSWERS && now.saturating_duration_since(since) >= QUIET {
                    self.round = self.round.wrapping_add(1).max(1);
                    let until = now + LEASE;
                    self.phase = Phase::Armed { since: now };
                    todo.tell = Some(Lease { until: Some(until), round: self.round });
                }
            }
            Phase::Armed { .. } if reading.stood_down == self.round => {
                self.burst = None;
                self.phase = Phase::StoodDown { until: now + self.hold_off };
                self.hold_off = (self.hold_off * 2).min(HOLD_OFF_MAX);
                todo.tell = Some(Lease { until: None, round: self.round });
                todo.stood_down = true;
            }
            Phase::Armed { since } => {
                if now.saturating_duration_since(since) >= HOLD_OFF_MAX {
                    self.hold_off = HOLD_OFF;
                }
                todo.tell = Some(Lease { until: Some(now + LEASE), round: self.round });
            }
            Phase::StoodDown { until } if until <= now => self.watch(now),
            Phase::StoodDown { .. } => {}
        }
        self.ask(now, &mut todo);
        if self.next_step <= now {
            self.next_step = now + STEP;
        }
        todo
    }

    /// Begins to watch anew: earlier answers do not count.
    fn watch(&mut self, now: Instant) {
        self.phase = Phase::Watching { since: now, answers: 0 };
        self.first_nonce = self.nonce.wrapping_add(1);
        self.asked = None;
    }

    fn ask(&mut self, now: Instant, todo: &mut Todo) {
        let pause = match self.phase {
            Phase::Watching { .. } => STEP,
            Phase::Armed { .. } if self.doubted => STEP,
            Phase::Armed { .. } => ASK_ARMED,
            Phase::StoodDown { .. } => return,
        };
        if let Some((began, next)) = self.burst {
            let due = BURST.iter().skip(next).take_while(|after| began + **after <= now).count();
            let left = next + due < BURST.len();
            self.burst = left.then_some((began, next + due));
            todo.knock = due > 0;
        }
        let rested = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= pause);
        if todo.knock || rested {
            self.asked = Some(now);
            self.nonce = self.nonce.wrapping_add(1);
            todo.ask = Some(self.nonce);
        }
    }
}

#[cfg(test)]
mod tests;
