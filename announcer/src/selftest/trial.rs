//! The rounds of one VIP: pure.
//!
//! A round asks once, and again while nothing is heard. In calm times the first question goes to the owner alone, so that a
//! thousand VIPs do not flood the segment; each [`TO_ALL`]th goes to all, which also shows who else answers. While something
//! is amiss every question goes to all, and those beyond the first come with questions for nodes' own addresses:
//! they tell a silent announcer from a broken segment.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Outcome, assign::Job, question::ask};
use crate::wire::MacAddr;

/// Between the starts of rounds.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub const WAIT: Duration = Duration::from_millis(200);
/// Until what was heard from a second machine is looked at again: while a VIP moves two may answer for a moment.
pub const RECHECK: Duration = Duration::from_secs(1);
/// Every how many rounds the first question goes to all.
pub const TO_ALL: u32 = 12;
/// Questions in a round without an answer.
pub const TRIES: u8 = 4;
/// The same in the rounds after one that was not in order: what is lost on a bad segment must move no VIP.
pub const TRIES_IN_DOUBT: u8 = 6;
/// Machines beside the owner that are remembered.
pub const STRANGERS: usize = 4;

/// What to do now, and when to come again.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// Questions to send.
    pub frames: Vec<Vec<u8>>,
    /// The round is over.
    pub outcome: Option<Outcome>,
    /// When to call again.
    pub due: Instant,
}

/// What the latest rounds had in common, if they were not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// How they ended.
    pub outcome: Outcome,
    /// How many of them there were, one after another.
    pub rounds: u32,
}

/// A VIP under test.
#[derive(Debug)]
pub struct Trial {
    vip: IpAddr,
    /// How to test it.
    pub job: Job,
    round: u32,
    doubt: Option<Doubt>,
    started: Instant,
    /// Questions asked in this round; 0 between rounds.
    tries: u8,
    owner_answered: bool,
    strangers: BTreeSet<MacAddr>,
}

impl Trial {
    /// Its first round is the `round`th: VIPs that begin together should not ask all at once.
    #[must_use]
    pub fn new(vip: IpAddr, job: Job, round: u32, now: Instant) -> Self {
        Self { vip, job, round, doubt: None, started: now, tries: 0, owner_answered: false, strangers: BTreeSet::new() }
    }

    /// What was not in order lately.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Who else answered in this round.
    #[must_use]
    pub fn strangers(&self) -> &BTreeSet<MacAddr> {
        &self.strangers
    }

    /// Somebody on the trial's uplink says that the VIP is at `mac`.
    pub fn handle_answer(&mut self, mac: MacAddr) {
        if self.tries == 0 || mac == self.job.seat.mac {
            return;
        }
        if self.job.owner_macs.contains(&mac) {
            self.owner_answered = true;
        } else if self.strangers.len() < STRANGERS {
            self.strangers.insert(mac);
        }
    }

    /// The time for the next step has come. `heard` tells whether an address of a node has been answered for since a
    /// moment; `is_member` whether an Ethernet address is a member's.
    pub fn turn(
        &mut self,
        now: Instant,
        heard: impl Fn(IpAddr, Instant) -> bool,
        is_member: impl Fn(MacAddr) -> bool,
    ) -> Turn {
        if self.tries == 0 {
            self.started = now;
            self.owner_answered = false;
            self.strangers.clear();
            return self.ask(now);
        }
        let limit = if self.doubt.is_some() { TRIES_IN_DOUBT } else { TRIES };
        let answered = self.owner_answered || !self.strangers.is_empty();
        if !answered && self.tries < limit {
            return self.ask(now);
        }
        let host = |address: IpAddr| heard(address, self.started);
        let outcome = if self.strangers.iter().any(|mac| !is_member(*mac)) {
            Outcome::Foreign
        } else if !self.strangers.is_empty() {
            Outcome::OtherMember
        } else if self.owner_answered {
            Outcome::Answered
        } else if host(self.job.owner_host.address) {
            Outcome::Silent
        } else if self.job.witness.is_some_and(|witness| host(witness.address)) {
            Outcome::Unreachable
        } else {
            Outcome::Deaf
        };
        self.end(outcome, now)
    }

    fn ask(&mut self, now: Instant) -> Turn {
        let alone = self.tries == 0 && self.doubt.is_none() && !self.round.is_multiple_of(TO_ALL);
        let seat = &self.job.seat;
        let mut frames = Vec::from_iter(ask(seat, self.vip, alone.then_some(self.job.owner_host.mac)));
        if self.tries > 0 || self.doubt.is_some() {
            let hosts = [Some(self.job.owner_host), self.job.witness].into_iter().flatten();
            frames.extend(hosts.filter_map(|host| ask(seat, host.address, Some(host.mac))));
        }
        self.tries += 1;
        Turn { frames, outcome: None, due: now + WAIT }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) -> Turn {
        self.tries = 0;
        self.round = self.round.wrapping_add(1);
        self.doubt = match self.doubt {
            _ if outcome == Outcome::Answered => None,
            Some(doubt) if doubt.outcome == outcome => Some(Doubt { rounds: doubt.rounds.saturating_add(1), ..doubt }),
            _ => Some(Doubt { outcome, rounds: 1 }),
        };
        let soon = outcome.is_dispute() && self.doubt.is_some_and(|doubt| doubt.rounds == 1);
        let due = if soon { now + RECHECK } else { (self.started + PERIOD).max(now) };
        Turn { frames: Vec::new(), outcome: Some(outcome), due }
    }
}
