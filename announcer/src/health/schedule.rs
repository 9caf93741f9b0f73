//! When each target is probed, and what has become of it: the prober's pure core.
//!
//! Driven by [`super::io::run`]: [`Schedule::replace`] takes a new plan, [`Schedule::poll_start`] yields the probes to
//! start at a time, [`Schedule::handle_answer`] takes what came of them, [`Schedule::poll_verdicts`] yields the verdicts when
//! they changed, and [`Schedule::poll_timeout`] and [`Schedule::poll_step`] tell when to look again for either.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use membership::{Target, Verdict};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    plan::Plan,
    slow_start::SlowStart,
    state::{Answer, Effect, TargetState, Verdicts},
};
use crate::model::Check;

/// A target new to the plan is probed for the first time within this, or within its interval if that is shorter. The
/// place in it is given by a hash of the target, so that a hundred pods that appear together are not asked together.
pub const FIRST_WITHIN: Duration = Duration::from_millis(500);

/// No target is probed more often than this, whatever its check says.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Starts of two probes of a target are this fraction of the interval apart, chosen at random each time, so that
/// probes of many targets do not fall into step. Never more than 1: longer pauses would break the promise on timing.
const PAUSE: std::ops::Range<f64> = 0.9..1.0;

/// A probe to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Whom to ask.
    pub target: Target,
    /// How.
    pub check: Arc<Check>,
    /// To be handed back with the answer; tells it from answers to probes of an earlier plan.
    pub token: u64,
}

/// All targets of the plan, with their states and next probes.
#[derive(Debug)]
pub struct Schedule {
    entries: BTreeMap<Target, Entry>,
    /// The targets without a probe under way, by the time of their next one.
    queue: BTreeSet<(Instant, Target)>,
    /// The targets in their slow start, by the end of the step they are in.
    steps: BTreeSet<(Instant, Target)>,
    /// There has been a plan: what is new from now on has just come, and this agent has not.
    begun: bool,
    rng: StdRng,
    next_token: u64,
    /// The verdicts differ from those last polled.
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    check: Arc<Check>,
    state: TargetState,
    /// When the next probe is to start.
    next: Instant,
    /// The probe under way.
    running: Option<u64>,
    slow_start: Option<SlowStart>,
}

impl Schedule {
    /// An empty schedule whose pauses are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            queue: BTreeSet::new(),
            steps: BTreeSet::new(),
            begun: false,
            rng: StdRng::seed_from_u64(seed),
            next_token: 0,
            changed: false,
        }
    }

    /// Takes a new plan. Targets that are in the old one too keep their verdict and their next probe. Others start
    /// slowly, if their check says so and their pod's socket is new as well; not those of the first plan, for then it is
    /// this agent that has just started.
    pub fn replace(&mut self, plan: &Plan, now: Instant) {
        let sockets: BTreeSet<_> = self.entries.keys().map(|target| (target.address, target.port)).collect();
        let gone: Vec<Target> =
            self.entries.keys().filter(|target| !plan.targets.contains_key(target)).copied().collect();
        for target in gone {
            if let Some(entry) = self.entries.remove(&target) {
                self.queue.remove(&(entry.next, target));
                self.steps.retain(|(_, other)| *other != target);
                self.changed |= entry.state.judgement().is_some() || entry.slow_start.is_some();
            }
        }
        for (target, check) in &plan.targets {
            if self.entries.contains_key(target) {
                continue;
            }
            let next = now + phase(target, FIRST_WITHIN.min(interval(check)));
            let (check, state) = (Arc::new(check.clone()), TargetState::default());
            let slow_start = None;
            self.queue.insert((next, *target));
            self.entries.insert(*target, Entry { check, state, next, running: None, slow_start });
            if self.begun && !sockets.contains(&(target.address, target.port)) {
                self.start_slowly(*target, now);
            }
        }
        self.begun = true;
    }

    /// When the next step of a slow start is due: the time to ask for verdicts.
    #[must_use]
    pub fn poll_step(&self) -> Option<Instant> {
        self.steps.first().map(|(until, _)| *until)
    }

    fn start_slowly(&mut self, target: Target, now: Instant) {
        let Some(entry) = self.entries.get_mut(&target) else { return };
        entry.slow_start = SlowStart::begin(entry.check.slow_start, now);
        if let Some((_, until)) = entry.slow_start.and_then(|slow_start| slow_start.step(now)) {
            self.steps.insert((until, target));
            self.changed = true;
        }
    }

    /// Takes the steps that are due.
    fn step(&mut self, now: Instant) {
        while let Some((until, target)) = self.steps.first().copied().filter(|(until, _)| *until <= now) {
            self.steps.remove(&(until, target));
            self.changed = true;
            let Some(entry) = self.entries.get_mut(&target) else { continue };
            match entry.slow_start.and_then(|slow_start| slow_start.step(now)) {
                Some((_, until)) => drop(self.steps.insert((until, target))),
                None => entry.slow_start = None,
            }
        }
    }

    /// When the next probe is due; `None`: nothing to do until an answer or a new plan.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.first().map(|(next, _)| *next)
    }

    /// A probe that is due, the one waiting longest first; call until `None`. The caller owes an answer to each, within
    /// the check's timeout.
    pub fn poll_start(&mut self, now: Instant) -> Option<Start> {
        let (next, target) = *self.queue.first()?;
        if next > now {
            return None;
        }
        self.queue.pop_first();
        let entry = self.entries.get_mut(&target)?;
        let token = self.next_token;
        self.next_token += 1;
        entry.running = Some(token);
        entry.next = now + interval(&entry.check).mul_f64(self.rng.random_range(PAUSE));
        Some(Start { target, check: Arc::clone(&entry.check), token })
    }

    /// Takes what came of a probe. Answers to probes of targets that have left the plan since are ignored.
    pub fn handle_answer(
        &mut self,
        target: &Target,
        token: u64,
        answer: Answer,
        now: Instant,
        wall: SystemTime,
    ) -> Effect {
        let Some(entry) = self.entries.get_mut(target).filter(|entry| entry.running == Some(token)) else {
            return Effect::None;
        };
        entry.running = None;
        entry.next = entry.next.max(now);
        self.queue.insert((entry.next, *target));
        let judged_before = entry.state.judgement().is_some();
        let effect = entry.state.observe(answer, entry.check.rise, entry.check.fall, wall);
        self.changed |= effect != Effect::None;
        match effect {
            Effect::Turned(Verdict::Unhealthy) => {
                entry.slow_start = None;
                self.steps.retain(|(_, other)| other != target);
            }
            // Its first answer decides nothing: if it is new, it has begun.
            Effect::Turned(_) if judged_before => self.start_slowly(*target, now),
            Effect::Turned(_) | Effect::Reworded | Effect::None => {}
        }
        effect
    }

    /// All verdicts, if they differ from those of the last call.
    pub fn poll_verdicts(&mut self, now: Instant) -> Option<Verdicts> {
        self.step(now);
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let warming = |(target, entry): (&Target, &Entry)| Some((*target, entry.slow_start?.step(now)?.0));
        let judged =
            |(target, entry): (&Target, &Entry)| entry.state.judgement().map(|judgement| (*target, judgement.clone()));
        Some(Verdicts {
            targets: self.entries.iter().filter_map(judged).collect(),
            warming: self.entries.iter().filter_map(warming).collect(),
        })
    }
}

fn interval(check: &Check) -> Duration {
    check.interval.max(MIN_INTERVAL)
}

/// A point within `span` that depends on the target alone.
fn phase(target: &Target, span: Duration) -> Duration {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    target.hash(&mut hasher);
    let fraction = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    span.mul_f64(fraction)
}

#[cfg(test)]
mod tests;
