//! One node's part in owning VIPs: a pure state machine from (view, desired VIPs, time) to the claims it publishes and
//! the VIPs it answers for. "Ownership" in `docs/architecture.md` has the rules.
//!
//! The caller feeds [`Ownership::handle_input`] with every new view or set of VIPs, calls
//! [`Ownership::handle_timeout`] when [`Ownership::poll_timeout`] has come, and after each call drains
//! [`Ownership::poll_action`]. The instants it passes must not go backwards.
//!
//! What is heard of VIPs by ARP and NDP comes in by [`Ownership::handle_wire`], and what is to be asked there goes out as
//! state ([`Ownership::questions`]), as does how a VIP is announced ([`Ownership::voice`]).
//!
//! Files: `types` (actions, reasons), `startup` (listen before claim), `quorum` (what a minority may claim), `wire` (what is
//! heard by ARP and NDP), `taking` (how VIPs come here), `isolation` (what follows from both), `rebalance` (what a newcomer takes over), `silence` (owners
//! that do not answer), `resume` (after an announced restart), `standby` (who stands in), `survey` (which claim wins), `epochs` (memory).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Claim, MemberState, NodeName, View, election::Candidates};

mod epochs;
mod isolation;
mod quorum;
mod rebalance;
mod resume;
mod silence;
pub mod standby;
mod startup;
mod survey;
mod taking;
mod types;
mod wire;

pub use quorum::Standing;
pub use silence::avoided;
pub use startup::Listen;
pub use types::{Action, Owner, Reason};
pub use wire::Voice;

use epochs::Epochs;
use quorum::Quorum;
use rebalance::Rebalance;
use resume::Resume;
use startup::Startup;
use survey::Survey;
use wire::Wire;

/// After a conflict the winner announces at once and again after this long: a rival that had not heard of the winner
/// yet may have announced in between.
const ECHO: Duration = Duration::from_secs(1);
/// A peer that comes back may have owned VIPs on its own, so they are announced again; but not before its claims had
/// time to arrive, since it may as well be this node that was away and has lost them.
const HEARSAY: Duration = Duration::from_millis(250);
/// A peer that is cut off takes VIPs before it notices, so the others announce theirs once more when they lose one. In
/// larger clusters that would be too many announcements.
const FEW_MEMBERS: usize = 32;

/// A VIP this node owns.
#[derive(Debug)]
struct Held {
    claim: Claim,
    reason: Reason,
    taken: Instant,
    /// Who else claims it. Whoever leaves this set may have announced the VIP last.
    rivals: BTreeSet<NodeName>,
    /// When to announce once more after a conflict.
    echo: Option<Instant>,
    /// When it was last defended against a member that had been lost.
    defended: Option<Instant>,
}

/// The state machine of one node.
#[derive(Debug)]
pub struct Ownership {
    me: NodeName,
    startup: Startup,
    quorum: Quorum,
    rebalance: Rebalance,
    resume: Resume,
    wire: Wire,
    /// The VIPs that this node can serve from pods of its own.
    serving: BTreeSet<IpAddr>,
    /// Until when this node, which was held up, claims nothing.
    held_up: Option<Instant>,
    draining: bool,
    view: Arc<View>,
    vips: Candidates,
    epochs: Epochs,
    held: BTreeMap<IpAddr, Held>,
    owners: BTreeMap<IpAddr, Owner>,
    /// The peers that were up, with known facts, when last looked at; whoever comes to it may have owned VIPs on the
    /// far side of a partition until then.
    present: BTreeSet<NodeName>,
    actions: VecDeque<Action>,
}

impl Ownership {
    /// A fresh agent, listening. Its first action says so.
    #[must_use]
    pub fn new(me: NodeName, listen: Listen, now: Instant) -> Self {
        Self {
            me,
            startup: Startup::new(listen, now),
            quorum: Quorum::default(),
            rebalance: Rebalance::default(),
            resume: Resume::default(),
            wire: Wire::default(),
            serving: BTreeSet::new(),
            held_up: None,
            draining: false,
            view: Arc::default(),
            vips: Candidates::new(),
            epochs: Epochs::default(),
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            present: BTreeSet::new(),
            actions: VecDeque::from([Action::Listening(true)]),
        }
    }

    /// A new view, or new VIPs or candidates. `vips` must be derived from this same view. `unix_ms` is the wall clock,
    /// put into new claims for people to read.
    pub fn handle_input(&mut self, view: &Arc<View>, vips: &Candidates, now: Instant, unix_ms: u64) {
        self.view = Arc::clone(view);
        self.vips.clone_from(vips);
        self.evaluate(now, unix_ms);
    }

    /// The instant returned by [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, unix_ms: u64) {
        self.evaluate(now, unix_ms);
    }

    /// When to call [`Self::handle_timeout`], if no input comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let wire = self.wire.deadline(&self.me, self.quorum.standing(), &self.view);
        self.held
            .values()
            .filter_map(|held| held.echo)
            .chain(self.startup.deadline())
            .chain(self.quorum.deadline())
            .chain(self.rebalance.deadline())
            .chain(wire.map(|at| self.held_up.map_or(at, |until| until.max(at))))
            .chain(self.held_up)
            .min()
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Hand everything over and take nothing more, until [`Self::undrain`]. The caller gossips `facts.draining` too, by which the
    /// others know that they have to take over; each VIP is answered for until its successor's claim is here.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.evaluate(now, 0);
    }

    /// End a drain: this node may own VIPs again. What it handed over stays where it is.
    pub fn undrain(&mut self, now: Instant) {
        self.draining = false;
        self.evaluate(now, 0);
    }

    /// Whether this node wants to be rid of its VIPs; belongs into `facts.draining`.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether stopping costs nobody anything: this node owns nothing, or only what no other node could take.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.held.keys().all(|vip| !self.others_can_own(*vip))
    }

    /// Give up at once whatever is still owned, and take nothing more: the agent stops.
    pub fn shutdown(&mut self) {
        self.draining = true;
        if self.held.is_empty() {
            return;
        }
        for vip in self.held.keys().copied().collect::<Vec<_>>() {
            self.withdraw(vip, Reason::Shutdown);
        }
        self.owners.retain(|_, owner| owner.node != self.me);
        self.actions.push_back(Action::Publish(BTreeMap::new()));
    }

    /// The owner of every desired VIP that has one, as this node sees it.
    #[must_use]
    pub fn owners(&self) -> &BTreeMap<IpAddr, Owner> {
        &self.owners
    }

    /// This node's claims.
    #[must_use]
    pub fn claims(&self) -> BTreeMap<IpAddr, Claim> {
        self.held.iter().map(|(vip, held)| (*vip, held.claim)).collect()
    }

    /// How many VIPs' epochs were forgotten before their time because too many VIPs came and went.
    #[must_use]
    pub fn forgotten_early(&self) -> u64 {
        self.epochs.forgotten_early()
    }

    /// Decides anew from what is known. Withdrawals come first, then the claims to publish, then announcements.
    fn evaluate(&mut self, now: Instant, unix_ms: u64) {
        if let Some(listening) = self.startup.step(&self.me, &self.view, now) {
            self.actions.push_back(Action::Listening(listening));
        }
        self.quorum.step(&self.view, now);
        self.held_up = self.held_up.filter(|until| *until > now);
        let before = self.claims();
        self.learn_epochs(now);
        let resumed = self.take_up(now);
        self.give_back(now);
        let survey = Survey::new(&self.me, &self.claims(), &self.view, &self.vips);
        self.wire.step(&survey, &self.vips, now);
        let returned = self.note_returned();

        self.yield_lost(&survey);
        let mut announcements = self.defend(&survey, returned, now);
        announcements.extend(resumed);
        announcements.extend(self.confirm(now));
        announcements.extend(self.take_elected(&survey, now, unix_ms));
        announcements.extend(self.take_share(&survey, now, unix_ms));
        self.name_standbys(&survey);
        self.note_owners(&survey);

        let claims = self.claims();
        if claims != before {
            self.actions.push_back(Action::Publish(claims));
        }
        self.actions.extend(announcements);
    }

    /// Learns from all documents, those of the dead and this node's own earlier ones included.
    fn learn_epochs(&mut self, now: Instant) {
        self.epochs.desire(&self.vips, now);
        for member in self.view.members.values() {
            for (vip, claim) in &member.document.claims {
                self.epochs.learn(*vip, claim.epoch);
            }
        }
    }

    /// Whether a peer has come (back) that may have answered for any VIP until now, on the far side of a partition. Its
    /// claims need not be seen: it may have given them up before its document arrives here. One that listens has
    /// owned nothing since it started.
    fn note_returned(&mut self) -> bool {
        let peers = || self.view.up().filter(|(name, member)| **name != self.me && startup::is_known(member));
        let returned = peers().any(|(name, member)| !member.document.facts.listening && !self.present.contains(name));
        self.present = peers().map(|(name, _)| name.clone()).collect();
        returned
    }

    /// Falls silent on what another node's claim has won, what is not desired, and what neither this node nor any
    /// other may own.
    fn yield_lost(&mut self, survey: &Survey) {
        let mut lost = Vec::new();
        for (vip, held) in &self.held {
            let reason = match survey.winner(*vip) {
                _ if !self.vips.contains_key(vip) => Some(Reason::Removed),
                Some((node, _)) if *node != self.me && !self.may_own(*vip) => Some(Reason::Handover),
                Some((node, claim)) if *node != self.me && claim.epoch == held.claim.epoch => {
                    Some(Reason::ConflictLost)
                }
                Some((node, _)) if *node != self.me => Some(self.overtaken(&self.me, node)),
                _ if self.may_own(*vip) || self.others_can_own(*vip) => None,
                _ if !self.is_or_was_draining() && !self.has_just_ended_listening() => Some(Reason::Ineligible),
                _ => None,
            };
            lost.extend(reason.map(|reason| (*vip, reason)));
        }
        for (vip, reason) in lost {
            self.withdraw(vip, reason);
        }
    }

    /// Announces again what another node may have announced meanwhile: the last gratuitous ARP on the wire wins.
    fn defend(&mut self, survey: &Survey, returned: bool, now: Instant) -> Vec<Action> {
        let mut announcements = Vec::new();
        let whole = self.quorum.standing() == Standing::Whole;
        let regained = self.quorum.has_regained();
        // Of what it is to keep quiet about a node reminds nobody before it sees most of its cluster again.
        let voiced: BTreeSet<IpAddr> =
            self.held.keys().filter(|vip| self.voice(**vip) == Voice::Full).copied().collect();
        let lost_one = whole && self.quorum.up() <= FEW_MEMBERS && self.quorum.lost_one_at(now);
        for (vip, held) in &mut self.held {
            let candidates = self.vips.get(vip);
            let eligible = |node: &NodeName| candidates.is_some_and(|nodes| nodes.contains(node));
            let rivals: BTreeSet<NodeName> = survey.claimants(*vip).filter(|node| **node != self.me).cloned().collect();

            let planned = held.reason == Reason::Rebalance;
            let silenced = held.rivals.difference(&rivals).map(&eligible).max();
            let conflict = !rivals.is_subset(&held.rivals);
            let echo = held.echo.is_some_and(|at| at <= now);
            if conflict {
                held.echo = now.checked_add(ECHO);
            } else if returned && voiced.contains(vip) {
                held.echo = now.checked_add(HEARSAY);
            } else if echo {
                held.echo = None;
            } else if lost_one && held.echo.is_none() {
                held.echo = now.checked_add(ECHO);
            }
            held.rivals = rivals;

            let kept = regained && held.claim.epoch > 0;
            if conflict || echo || kept || silenced == Some(true) && !planned {
                announcements.push(Action::Reannounce { vip: *vip, reason: Reason::ConflictWon });
            } else if silenced.is_some() {
                announcements.push(Action::Reannounce { vip: *vip, reason: Reason::Handover });
            }
        }
        announcements
    }

    /// Brings [`Self::owners`] up to date.
    fn note_owners(&mut self, survey: &Survey) {
        let mut owners = BTreeMap::new();
        for vip in self.vips.keys() {
            let held = self.held.get(vip).map(|held| (self.me.clone(), held.claim));
            let others = || survey.winner(*vip).filter(|(node, _)| *node != self.me).cloned();
            let Some((node, claim)) = held.or_else(others) else {
                if let Some((holder, since_ms, reason)) = self.wire.holder(*vip) {
                    let (node, epoch) = (holder.clone(), self.epochs.highest(*vip));
                    owners.insert(*vip, Owner { node, epoch, since_ms, reason });
                }
                continue;
            };
            let reason = match (self.owners.get(vip), self.held.get(vip)) {
                (_, Some(held)) => held.reason,
                (Some(owner), None) if owner.node == node && owner.reason != Reason::WireClaim => owner.reason,
                (Some(old), None) if self.cause(*vip, survey) == Reason::Superseded => self.overtaken(&old.node, &node),
                (_, None) if self.epochs.last_owner(*vip).is_some() => self.cause(*vip, survey),
                (_, None) if claim.epoch > 1 => Reason::Found,
                (_, None) => Reason::FirstClaim,
            };
            owners.insert(*vip, Owner { node, epoch: claim.epoch, since_ms: claim.since_ms, reason });
        }
        for (vip, owner) in &owners {
            self.epochs.owned_by(*vip, &owner.node);
        }
        self.owners = owners;
    }

    /// Why a VIP goes from its last known owner to another node.
    fn cause(&self, vip: IpAddr, survey: &Survey) -> Reason {
        let Some(last) = self.epochs.last_owner(vip) else {
            return match survey.winner(vip) {
                Some(_) => Reason::Handover,
                None if self.epochs.highest(vip) == 0 => Reason::FirstClaim,
                None => Reason::OwnerDown,
            };
        };
        match self.view.members.get(last).map(|member| member.state) {
            Some(MemberState::Left) => Reason::OwnerLeft,
            Some(MemberState::Down) | None => Reason::OwnerDown,
            Some(MemberState::Alive | MemberState::Suspect | MemberState::Restarting) => {
                if !self.candidate(vip, last) {
                    Reason::Handover
                } else if avoided(&self.view).contains(last) {
                    Reason::Silent
                } else if survey.claimants(vip).any(|node| node == last) {
                    Reason::Superseded
                } else {
                    Reason::OwnerReleased
                }
            }
        }
    }

    fn withdraw(&mut self, vip: IpAddr, reason: Reason) {
        self.held.remove(&vip);
        self.actions.push_back(Action::Withdraw { vip, reason });
    }

    fn candidate(&self, vip: IpAddr, node: &NodeName) -> bool {
        self.vips.get(&vip).is_some_and(|nodes| nodes.contains(node))
    }

    /// Candidates come from the view, in which a drain that has just ended may go on.
    fn is_or_was_draining(&self) -> bool {
        self.draining || self.view.members.get(&self.me).is_some_and(|member| member.document.facts.draining)
    }

    fn may_own(&self, vip: IpAddr) -> bool {
        !self.draining && self.candidate(vip, &self.me)
    }

    fn others_can_own(&self, vip: IpAddr) -> bool {
        self.vips.get(&vip).is_some_and(|nodes| nodes.iter().any(|node| *node != self.me))
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
