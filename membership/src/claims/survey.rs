//! All claims that count at one moment, by VIP, the winner first.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    Claim, NodeName, View,
    election::{Candidates, outranks},
};

/// The claims of members that are up on VIPs that are desired.
#[derive(Debug, Default)]
pub(super) struct Survey {
    claims: BTreeMap<IpAddr, Vec<(NodeName, Claim)>>,
}

impl Survey {
    /// `own` are this node's claims; the view's copy of its own document lags behind them and is left out.
    pub(super) fn new(me: &NodeName, own: &BTreeMap<IpAddr, Claim>, view: &View, vips: &Candidates) -> Self {
        let others = view.up().filter(|(name, _)| *name != me).map(|(name, member)| (name, &member.document.claims));
        let mut claims: BTreeMap<IpAddr, Vec<(NodeName, Claim)>> = BTreeMap::new();
        for (name, made) in others.chain([(me, own)]) {
            for (vip, claim) in made.iter().filter(|(vip, _)| vips.contains_key(vip)) {
                claims.entry(*vip).or_default().push((name.clone(), *claim));
            }
        }
        for (vip, made) in &mut claims {
            let may = |node: &NodeName| vips.get(vip).is_some_and(|nodes| nodes.contains(node));
            made.sort_by(|(a, x), (b, y)| {
                may(b)
                    .cmp(&may(a))
                    .then(y.epoch.cmp(&x.epoch))
                    .then_with(|| outranks(*vip, b, a).cmp(&outranks(*vip, a, b)))
            });
        }
        Self { claims }
    }

    /// The claim that wins: of those who may own it before those who may not (who only hold it until somebody takes
    /// it over, be it a minority with its epoch 0), the highest epoch, then the highest rank.
    pub(super) fn winner(&self, vip: IpAddr) -> Option<&(NodeName, Claim)> {
        self.claims.get(&vip)?.first()
    }

    /// All winners by VIP.
    pub(super) fn winners(&self) -> impl Iterator<Item = (IpAddr, &NodeName, Claim)> {
        self.claims.iter().filter_map(|(vip, made)| made.first().map(|(node, claim)| (*vip, node, *claim)))
    }

    /// Who claims the VIP.
    pub(super) fn claimants(&self, vip: IpAddr) -> impl Iterator<Item = &NodeName> {
        self.claims.get(&vip).into_iter().flatten().map(|(node, _)| node)
    }

    /// Whether any VIP is on its way from one node to another, or disputed.
    pub(super) fn is_contested(&self) -> bool {
        self.claims.values().any(|made| made.len() > 1)
    }
}
