//! Owners that are up, and do not answer for a VIP on the wire: how they are replaced, and that they are not elected
//! again at once.
//!
//! The agent finds them out (it asks for VIPs as clients do); here is only what follows. The node that found one claims
//! with a higher epoch, by which the old owner yields as to every such claim, and names it in its facts for a while.
//! Whoever is named is elected for a VIP only if nobody else can have it: a node that is silent on one VIP is no better
//! choice for another. What it holds otherwise it keeps.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use super::{Action, Ownership, Reason, Survey};
use crate::{NodeName, View, election::Candidates};

/// The nodes that some member has lately replaced for their silence. Members that have died since are believed too:
/// who takes over from them must not go back to whom they replaced.
#[must_use]
pub fn avoided(view: &View) -> BTreeSet<&NodeName> {
    view.members.values().flat_map(|member| &member.document.facts.findings.silent).collect()
}

/// The candidates to elect from: without those to be avoided and those that would hesitate, unless they own the VIP already
/// or are all there is.
pub(super) fn trusted<'a>(
    vips: &'a Candidates,
    current: &BTreeMap<IpAddr, NodeName>,
    view: &View,
) -> Cow<'a, Candidates> {
    let mut avoided = avoided(view);
    avoided.extend(view.up().filter(|(_, member)| member.document.facts.isolated).map(|(name, _)| name));
    if avoided.is_empty() {
        return Cow::Borrowed(vips);
    }
    let choose = |(vip, nodes): (&IpAddr, &Arc<BTreeSet<NodeName>>)| {
        let may = |node: &&NodeName| !avoided.contains(*node) || current.get(vip) == Some(*node);
        let chosen: BTreeSet<NodeName> = nodes.iter().filter(may).cloned().collect();
        let same = chosen.is_empty() || chosen.len() == nodes.len();
        (*vip, if same { Arc::clone(nodes) } else { Arc::new(chosen) })
    };
    Cow::Owned(vips.iter().map(choose).collect())
}

impl Ownership {
    /// Takes a VIP from an owner that does not answer for it on the wire. Does nothing if ownership has changed since
    /// that was found out (`owner` by its claim of `epoch`), or if this node may not own the VIP, or sees only a minority,
    /// whose word counts for less than the owner's. Returns whether the VIP was taken.
    pub fn replace_silent(&mut self, vip: IpAddr, owner: &NodeName, epoch: u64, now: Instant, unix_ms: u64) -> bool {
        let before = self.claims();
        let survey = Survey::new(&self.me, &before, &self.view, &self.vips);
        let is_still = survey.winner(vip).is_some_and(|(node, claim)| node == owner && claim.epoch == epoch);
        let may = self.may_take() && self.held_up.is_none() && self.quorum.has() && self.may_own(vip);
        if *owner == self.me || !is_still || !may {
            return false;
        }
        let announce = self.claim(vip, Reason::Silent, &survey, now, unix_ms);
        self.note_owners(&survey);
        self.actions.push_back(Action::Publish(self.claims()));
        self.actions.push_back(announce);
        true
    }
}
