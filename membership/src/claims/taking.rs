//! How VIPs come to this node: because it is elected, or because what it claimed in a minority counts in full again.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use super::{Action, Held, Ownership, Reason, Survey, rebalance, silence, standby, wire::Doubtful};
use crate::{Claim, election::elect};

impl Ownership {
    /// Makes full claims of what was claimed in a minority and is still this node's.
    pub(super) fn confirm(&mut self, now: Instant) -> Vec<Action> {
        if !self.quorum.has() || self.held_up.is_some() {
            return Vec::new();
        }
        let mut announcements = Vec::new();
        for (vip, held) in self.held.iter_mut().filter(|(_, held)| held.claim.epoch == 0) {
            held.claim.epoch = self.epochs.highest(*vip).saturating_add(1);
            held.taken = now;
            self.epochs.learn(*vip, held.claim.epoch);
            announcements.push(Action::Announce { vip: *vip, epoch: held.claim.epoch, reason: held.reason });
        }
        announcements
    }

    /// Claims what this node is elected for and nobody who may own it claims.
    pub(super) fn take_elected(&mut self, survey: &Survey, now: Instant, unix_ms: u64) -> Vec<Action> {
        if self.held_up.is_some() {
            return Vec::new();
        }
        let elected = self.elected(survey);
        self.wire.ask_only(&elected, now);
        let mut announcements = Vec::new();
        for vip in elected {
            // Of what is claimed by who may not own it, and is up, there is no doubt: it is handed over.
            let standing = self.quorum.standing();
            if survey.winner(vip).is_none()
                && self.wire.doubtful(vip, &self.me, standing, &self.view, now) == Doubtful::Yes
            {
                continue;
            }
            self.wire.taken(vip);
            let reason = self.cause(vip, survey);
            announcements.push(self.claim(vip, reason, survey, now, unix_ms));
        }
        announcements
    }

    /// The VIPs that are to come here. In a minority only those that this node can serve by itself.
    fn elected(&self, survey: &Survey) -> BTreeSet<IpAddr> {
        if self.draining || !self.startup.is_candidate() {
            return BTreeSet::new();
        }
        // The others that start at the same time need not be waited for by a VIP that somebody owned until now.
        let awake = self.startup.is_awake();
        let current = rebalance::owners(survey);
        elect(&silence::trusted(&self.vips, &current, &self.view), &current)
            .into_iter()
            .filter(|(vip, node)| *node == self.me && current.get(vip) != Some(node))
            .map(|(vip, _)| vip)
            .filter(|vip| awake || self.epochs.highest(*vip) > 0)
            .filter(|vip| self.quorum.has() || self.serving.contains(vip))
            .collect()
    }

    /// Claims a VIP, in full or as a minority may.
    pub(super) fn claim(&mut self, vip: IpAddr, reason: Reason, survey: &Survey, now: Instant, unix_ms: u64) -> Action {
        let epoch = if self.quorum.has() { self.epochs.highest(vip).saturating_add(1) } else { 0 };
        let claim = Claim { epoch, since_ms: unix_ms, standby: 0 };
        let rivals = survey.claimants(vip).filter(|node| **node != self.me).cloned().collect();
        self.epochs.learn(vip, epoch);
        self.held.insert(vip, Held { claim, reason, taken: now, rivals, echo: None, defended: None });
        Action::Announce { vip, epoch, reason }
    }

    /// Names in each claim who stands in for this node.
    pub(super) fn name_standbys(&mut self, survey: &Survey) {
        let chosen = standby::choose(&self.me, &self.claims(), &rebalance::owners(survey), &self.vips, &self.view);
        for (vip, held) in &mut self.held {
            held.claim.standby = chosen.get(vip).map_or(0, standby::id);
        }
    }

    /// Whether this node claims anything of its own accord.
    pub(super) fn may_take(&self) -> bool {
        self.startup.is_awake() && !self.draining
    }
}
