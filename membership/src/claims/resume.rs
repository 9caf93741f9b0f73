//! The return of an agent that announced its restart: it takes up the claims it had, without a new epoch, because its
//! peers have left its VIPs to it meanwhile.
//!
//! It listens first, as every fresh agent, and takes up its claims in the moment in which its listening ends: peers look at
//! what it left behind until then, and find the same in its new document. What somebody else has claimed meanwhile
//! stays there, and so does everything if the grace is over.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::{Action, Held, Ownership, Reason, Survey};
use crate::Claim;

/// What there is to take up.
#[derive(Debug, Default)]
pub(super) struct Resume {
    claims: BTreeMap<IpAddr, Claim>,
    /// The end of the grace that was announced.
    until: Option<Instant>,
}

impl Ownership {
    /// This agent's life before owned these VIPs and announced a restart that ends at `until` at the latest. To be called
    /// before anything else.
    pub fn resume(&mut self, claims: BTreeMap<IpAddr, Claim>, until: Instant) {
        self.resume = Resume { claims, until: Some(until) };
    }

    /// Takes up what is still this node's, once it is a candidate. VIPs that are not desired (yet) stay for later.
    pub(super) fn take_up(&mut self, now: Instant) -> Vec<Action> {
        let over = self.resume.until.is_none_or(|until| until <= now) || self.draining;
        if over || self.resume.claims.is_empty() {
            self.resume = Resume::default();
            return Vec::new();
        }
        if !self.startup.is_candidate() || self.held_up.is_some() {
            return Vec::new();
        }
        let survey = Survey::new(&self.me, &self.claims(), &self.view, &self.vips);
        let mut announcements = Vec::new();
        let (known, later) =
            std::mem::take(&mut self.resume.claims).into_iter().partition(|(vip, _)| self.vips.contains_key(vip));
        self.resume.claims = later;
        for (vip, claim) in known {
            let others = survey.winner(vip).is_some_and(|(_, other)| other.epoch >= claim.epoch);
            if others || claim.epoch == 0 || self.held.contains_key(&vip) || self.wire.holder(vip).is_some() {
                continue;
            }
            let reason = Reason::Resumed;
            let rivals = survey.claimants(vip).filter(|node| **node != self.me).cloned().collect();
            self.epochs.learn(vip, claim.epoch);
            self.held.insert(vip, Held { claim, reason, taken: now, rivals, echo: None, defended: None });
            announcements.push(Action::Announce { vip, epoch: claim.epoch, reason });
        }
        announcements
    }

    /// Candidates come from the view, in which this node's listening that has just ended may go on.
    pub(super) fn has_just_ended_listening(&self) -> bool {
        let shown = self.view.members.get(&self.me).is_some_and(|member| member.document.facts.listening);
        shown && self.startup.is_candidate()
    }
}
