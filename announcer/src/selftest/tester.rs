//! The self-test's pure core: what this node has to test, what it hears and the time in; questions, reports and verdicts out.
//!
//! [`Tester::handle_assignment`] and [`Tester::handle_frame`] feed it, [`Tester::handle_timeout`] is called at
//! [`Tester::poll_timeout`], and after each call [`Tester::poll_action`] is drained. What it has found is state
//! ([`Tester::verdicts`], [`Tester::results`]). Memory: a trial for each VIP to be tested, whatever comes in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use membership::{Findings, NodeName};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Controls, Outcome, Results, Silence, Trouble, Verdicts,
    assign::Assignment,
    question::answer,
    trial::{PERIOD, TO_ALL, Trial},
    vigil::Vigils,
};

/// A new owner is given this long before it is first asked.
const SETTLE: Duration = Duration::from_secs(1);
/// Rounds of silence after which an owner is replaced.
const PATIENCE: u32 = 2;
/// How long a node that was replaced is named to the others.
pub const AVOID: Duration = Duration::from_secs(60);
/// Nodes named at most: all facts must fit a datagram. Whoever has replaced so many has a problem of its own.
const MAX_SILENT: usize = 8;
/// VIPs in dispute named at most.
const MAX_DISPUTED: usize = 16;
/// Trials that move on in one go, and the rest after a full one: questions are to go out one by one.
const BATCH: usize = 8;
const PACE: Duration = Duration::from_millis(10);

/// What the edge does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the frame.
    Send {
        /// On the uplink of this name.
        interface: String,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// Tell people: a VIP has come into trouble, or another one.
    Report {
        /// The VIP.
        vip: IpAddr,
        /// What is wrong.
        trouble: Trouble,
    },
    /// Tell people: the VIP's owner alone answers for it again.
    Recovered {
        /// The VIP.
        vip: IpAddr,
    },
    /// Tell people: the VIP is to be taken from its owner.
    Replace {
        /// The VIP.
        vip: IpAddr,
        /// The owner.
        owner: NodeName,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tester {
    trials: BTreeMap<IpAddr, Trial>,
    due: BTreeSet<(Instant, IpAddr)>,
    due_of: BTreeMap<IpAddr, Instant>,
    rest_until: Option<Instant>,
    assignment: Assignment,
    controls: Controls,
    vigils: Vigils,
    /// When each of the controls was last answered for.
    heard: BTreeMap<IpAddr, Instant>,
    /// Whom this node has replaced, and until when that is told.
    silent: BTreeMap<NodeName, Instant>,
    replace: BTreeMap<IpAddr, Silence>,
    results: Results,
    actions: VecDeque<Action>,
}

impl Tester {
    /// Tests exactly this from now on. A VIP with a new owner, or a new claim, is tested from the beginning.
    pub fn handle_assignment(&mut self, assignment: Assignment, now: Instant) {
        let gone: Vec<IpAddr> = self
            .trials
            .iter()
            .filter(|(vip, trial)| {
                let job = assignment.jobs.get(vip);
                job.is_none_or(|job| (&job.owner, job.epoch) != (&trial.job.owner, trial.job.epoch))
            })
            .map(|(vip, _)| *vip)
            .collect();
        for vip in gone {
            self.forget(vip);
        }
        for (vip, job) in &assignment.jobs {
            if let Some(trial) = self.trials.get_mut(vip) {
                trial.job.clone_from(job);
            } else {
                let (delay, round) = spread(*vip);
                self.trials.insert(*vip, Trial::new(*vip, job.clone(), round, now));
                self.schedule(*vip, now + SETTLE + delay);
            }
        }
        self.vigils.handle_posts(&assignment.posts, now);
        self.controls = assignment.controls();
        self.heard.retain(|address, _| self.controls.contains_key(address));
        self.results.tested = assignment.jobs.len();
        self.results.untested = assignment.untested;
        self.assignment = assignment;
    }

    /// A frame came in.
    pub fn handle_frame(&mut self, interface: &str, frame: &[u8], now: Instant) {
        let Some((address, mac)) = answer(frame) else { return };
        self.vigils.handle_answer(interface, address, mac);
        if let Some(trial) = self.trials.get_mut(&address).filter(|trial| trial.job.seat.interface == interface) {
            trial.handle_answer(mac);
        }
        if self.controls.get(&address).is_some_and(|macs| macs.contains(&mac)) {
            self.heard.insert(address, now);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let step = self.due.first().map(|(due, _)| self.rest_until.map_or(*due, |rest| rest.max(*due)));
        step.into_iter().chain(self.silent.values().copied()).chain(self.vigils.poll_timeout()).min()
    }

    /// Takes the steps that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.silent.retain(|_, until| *until > now);
        let questions = self.vigils.handle_timeout(now);
        self.actions.extend(questions.into_iter().map(|(interface, frame)| Action::Send { interface, frame }));
        if self.rest_until.is_some_and(|rest| rest > now) {
            return;
        }
        self.rest_until = None;
        for taken in 0.. {
            let Some((_, vip)) = self.due.first().copied().filter(|(due, _)| *due <= now) else { break };
            if taken == BATCH {
                self.rest_until = Some(now + PACE);
                break;
            }
            self.step(vip, now);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What ownership has to know.
    #[must_use]
    pub fn verdicts(&self) -> Verdicts {
        let disputed = self.results.troubles.iter().filter(|(_, trouble)| trouble.outcome.is_dispute());
        let findings = Findings {
            silent: self.silent.keys().cloned().collect(),
            disputed: disputed.map(|(vip, _)| *vip).take(MAX_DISPUTED).collect(),
        };
        Verdicts { replace: self.replace.clone(), gone: self.vigils.gone(), findings }
    }

    /// What people may want to know.
    #[must_use]
    pub fn results(&self) -> &Results {
        &self.results
    }

    fn step(&mut self, vip: IpAddr, now: Instant) {
        let (heard, members) = (&self.heard, &self.assignment.members);
        let Some(trial) = self.trials.get_mut(&vip) else {
            self.unschedule(vip);
            return;
        };
        let turn = trial.turn(
            now,
            |address, since| heard.get(&address).is_some_and(|at| *at >= since),
            |mac| members.contains_key(&mac),
        );
        let interface = &trial.job.seat.interface;
        self.actions.extend(turn.frames.into_iter().map(|frame| Action::Send { interface: interface.clone(), frame }));
        self.schedule(vip, turn.due);
        if let Some(outcome) = turn.outcome {
            self.judge(vip, outcome, now);
        }
    }

    /// A round is over.
    fn judge(&mut self, vip: IpAddr, outcome: Outcome, now: Instant) {
        let Some(trial) = self.trials.get(&vip) else { return };
        let rounds = trial.doubt().map_or(0, |doubt| doubt.rounds);
        if outcome.is_dispute() && rounds < 2 {
            return;
        }
        *self.results.rounds.entry(outcome).or_default() += 1;
        self.replace.remove(&vip);
        if outcome == Outcome::Answered {
            if self.results.troubles.remove(&vip).is_some() {
                self.actions.push_back(Action::Recovered { vip });
            }
            return;
        }
        let job = &trial.job;
        let members = &self.assignment.members;
        let others = trial.strangers().iter().map(|mac| (*mac, members.get(mac).cloned())).collect();
        let (owner, interface) = (job.owner.clone(), job.seat.interface.clone());
        let trouble = Trouble { owner: owner.clone(), interface, outcome, others };
        if outcome == Outcome::Silent && rounds >= PATIENCE && job.may_replace {
            let silence = Silence { owner: owner.clone(), epoch: job.epoch, rounds };
            self.replace.insert(vip, silence);
            if self.silent.len() < MAX_SILENT || self.silent.contains_key(&owner) {
                self.silent.insert(owner.clone(), now + AVOID);
            } else {
                *self.results.limits.entry("silent_nodes").or_default() += 1;
            }
            self.actions.push_back(Action::Replace { vip, owner });
        }
        if self.results.troubles.get(&vip) != Some(&trouble) {
            self.actions.push_back(Action::Report { vip, trouble: trouble.clone() });
        }
        self.results.troubles.insert(vip, trouble);
        if outcome.is_dispute() {
            let disputes = self.results.troubles.values().filter(|trouble| trouble.outcome.is_dispute());
            let more = disputes.count() > MAX_DISPUTED;
            *self.results.limits.entry("disputed_vips").or_default() += u64::from(more);
        }
    }

    fn forget(&mut self, vip: IpAddr) {
        self.trials.remove(&vip);
        self.replace.remove(&vip);
        self.results.troubles.remove(&vip);
        self.unschedule(vip);
    }

    fn schedule(&mut self, vip: IpAddr, due: Instant) {
        self.unschedule(vip);
        self.due.insert((due, vip));
        self.due_of.insert(vip, due);
    }

    fn unschedule(&mut self, vip: IpAddr) {
        if let Some(due) = self.due_of.remove(&vip) {
            self.due.remove(&(due, vip));
        }
    }
}

/// When in a period a VIP is asked for, and with which round it begins.
fn spread(vip: IpAddr) -> (Duration, u32) {
    let hash = xxh3_64(vip.to_string().as_bytes());
    let [.., a, b, c, d] = hash.to_be_bytes();
    let part = PERIOD.mul_f64(f64::from(u16::from_be_bytes([a, b])) / 65_536.0);
    (part, u32::from(u16::from_be_bytes([c, d])) % TO_ALL)
}

#[cfg(test)]
mod tests;
