//! Evens out an uneven spread of VIPs after a node has come, one VIP at a time: pure.
//!
//! It is the node that carries too little that acts. It claims a VIP of one that carries too much with the next epoch and
//! announces it; the old owner falls silent when it sees that claim, as before any other that is higher. So a move is
//! make-before-break, needs nobody's consent, and whoever dies in the middle of it leaves an ordinary owner or an
//! ordinary dead one behind.
//!
//! A VIP moves only if its owner carries more than its candidates do on average, rounded up, *and* at least two more than
//! the taker: so every move makes the spread more even, moves end, and a single VIP never moves.
//!
//! Nothing moves until the nodes that may own VIPs have been the same for [`CALM`], so a node that comes and goes causes
//! no storm, nor while a VIP has two claimants; and between two moves there is a [`PACE`]. Of several nodes that carry
//! too little the least loaded goes first; the others wait a pace each, since it may have been told not to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Action, Ownership, Reason, survey::Survey};
use crate::{
    NodeName,
    election::{Candidates, nodes, rank},
};

/// For how long the candidates must have been the same.
const CALM: Duration = Duration::from_secs(5);
/// From one change of owners to the next move.
const PACE: Duration = Duration::from_millis(250);
/// After so many nodes that should go first, this one goes.
const MOST_AHEAD: u32 = 16;

/// Who owns what.
pub(super) type Owners = BTreeMap<IpAddr, NodeName>;

/// One node's part in it.
#[derive(Debug, Default)]
pub(super) struct Rebalance {
    on: bool,
    /// Somebody has asked for it: until the spread is even, without waiting for calm.
    asked: bool,
    /// The candidates, and since when they are these.
    nodes: BTreeSet<NodeName>,
    calm: Option<Instant>,
    owners: Owners,
    moved: Option<Instant>,
    due: Option<Instant>,
}

impl Rebalance {
    /// Whether this node evens out by itself.
    pub(super) fn set(&mut self, on: bool) {
        self.on = on;
    }

    /// Do it now. Returns how many VIPs are going to move to `me`.
    pub(super) fn ask(&mut self, me: &NodeName, vips: &Candidates, survey: &Survey) -> usize {
        let mut owners = owners(survey);
        let mut moves = 0;
        // Each move makes the spread more even, so this ends.
        while let Some(taking) = best(me, vips, &owners) {
            owners.insert(taking.vip, me.clone());
            moves += 1;
        }
        self.asked = moves > 0;
        moves
    }

    /// Looks at what is claimed; the VIP that `me` should take over now, if any.
    pub(super) fn step(&mut self, me: &NodeName, vips: &Candidates, survey: &Survey, now: Instant) -> Option<IpAddr> {
        self.due = None;
        if !self.on && !self.asked {
            self.calm = None;
            return None;
        }
        let nodes = nodes(vips).into_iter().cloned().collect();
        if self.calm.is_none() || nodes != self.nodes {
            (self.nodes, self.calm) = (nodes, Some(now));
        }
        let owners = owners(survey);
        if owners != self.owners {
            (self.owners, self.moved) = (owners, Some(now));
        }
        let Some(taking) = best(me, vips, &self.owners) else {
            self.asked = false;
            return None;
        };
        if survey.is_contested() {
            return None;
        }
        let calm = self.calm.filter(|_| !self.asked).map(|since| since + CALM);
        let paced = self.moved.map(|at| at + PACE);
        let due = calm.into_iter().chain(paced).max().unwrap_or(now) + PACE * taking.ahead;
        if due <= now {
            return Some(taking.vip);
        }
        self.due = Some(due);
        None
    }

    /// This node may not take anything for now.
    pub(super) fn rest(&mut self) {
        (self.due, self.calm, self.asked) = (None, None, false);
    }

    /// When to step again without news.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Ownership {
    /// Whether this node takes VIPs over from nodes that carry too many of them; off at first.
    pub fn set_rebalance(&mut self, on: bool) {
        self.rebalance.set(on);
    }

    /// Take this node's share over now, one VIP after the other, even if [`Self::set_rebalance`] is off. Returns how
    /// many VIPs come here; 0: the spread is even, or this node may not take any.
    pub fn rebalance(&mut self, now: Instant, unix_ms: u64) -> usize {
        if !self.may_take() {
            return 0;
        }
        let survey = Survey::new(&self.me, &self.claims(), &self.view, &self.vips);
        let coming = self.rebalance.ask(&self.me, &self.vips, &survey);
        self.evaluate(now, unix_ms);
        coming
    }

    /// Claims the next VIP that this node should take over from one that carries too many.
    pub(super) fn take_share(&mut self, survey: &Survey, now: Instant, unix_ms: u64) -> Option<Action> {
        let avoided = super::avoided(&self.view).contains(&self.me);
        if !self.may_take() || avoided || self.held_up.is_some() || !self.quorum.has() {
            self.rebalance.rest();
            return None;
        }
        let vip = self.rebalance.step(&self.me, &self.vips, survey, now)?;
        Some(self.claim(vip, Reason::Rebalance, survey, now, unix_ms))
    }

    /// Why a VIP goes from a node that could keep it to another one with a higher claim.
    pub(super) fn overtaken(&self, from: &NodeName, to: &NodeName) -> Reason {
        let before = self.owners.values().map(|owner| &owner.node);
        if explains(before, from, to) { Reason::Rebalance } else { Reason::Superseded }
    }
}

/// A VIP to take.
struct Taking {
    vip: IpAddr,
    /// How many other nodes carry less than this one.
    ahead: u32,
}

/// The VIP that `me` should take: of the owner that carries most, the one for which `me` ranks highest.
fn best(me: &NodeName, vips: &Candidates, owners: &Owners) -> Option<Taking> {
    let load = loads(owners);
    let carries = |node: &NodeName| load.get(node).copied().unwrap_or(0);
    let mine = carries(me);
    let mut group: Option<(&Arc<BTreeSet<NodeName>>, usize)> = None;
    let mut found: Option<((usize, &NodeName, u64), IpAddr)> = None;
    for (vip, owner) in owners {
        let Some(candidates) = vips.get(vip) else { continue };
        if mine + 2 > carries(owner) || !candidates.contains(me) || !candidates.contains(owner) {
            continue;
        }
        let average = match group {
            Some((seen, average)) if Arc::ptr_eq(seen, candidates) => average,
            _ => candidates.iter().map(carries).sum::<usize>().div_ceil(candidates.len().max(1)),
        };
        group = Some((candidates, average));
        let order = (carries(owner), owner, rank(*vip, me));
        if carries(owner) > average && found.is_none_or(|(before, _)| order > before) {
            found = Some((order, *vip));
        }
    }
    let (_, vip) = found?;
    let ahead = vips.get(&vip)?.iter().filter(|node| (carries(node), *node) < (mine, me)).count();
    Some(Taking { vip, ahead: u32::try_from(ahead).unwrap_or(MOST_AHEAD).min(MOST_AHEAD) })
}

/// Whether a VIP that went from one node to another may have done so to even out what was there `before`.
fn explains<'a>(before: impl Iterator<Item = &'a NodeName>, from: &NodeName, to: &NodeName) -> bool {
    let (mut giver, mut taker) = (0, 0);
    for owner in before {
        giver += usize::from(owner == from);
        taker += usize::from(owner == to);
    }
    giver >= taker + 2
}

pub(super) fn owners(survey: &Survey) -> Owners {
    survey.winners().map(|(vip, node, _)| (vip, node.clone())).collect()
}

fn loads(owners: &Owners) -> BTreeMap<&NodeName, usize> {
    let mut loads = BTreeMap::new();
    for owner in owners.values() {
        *loads.entry(owner).or_default() += 1;
    }
    loads
}

#[cfg(test)]
mod tests;
