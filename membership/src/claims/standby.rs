//! Who stands in for a VIP's owner from the moment its link is lost until somebody claims the VIP: the node that would
//! be elected if the owner went, or who was named before, as long as it can. To arm takes a standby more than two
//! seconds, in which nobody stands in; so a node that joins or returns does not take another's place.
//!
//! The owner names it in its claim. If each node computed it, two whose views differ for a moment could both stand in,
//! and every packet would arrive twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::silence::trusted;
use crate::{
    Claim, NodeName, View,
    election::{Candidates, elect},
    identity::node_id,
};

/// How a claim names a node; never 0.
#[must_use]
pub fn id(node: &NodeName) -> u64 {
    node_id(node).max(1)
}

/// The member that a claim names, if it is known.
#[must_use]
pub fn named<'a>(claim: &Claim, view: &'a View) -> Option<&'a NodeName> {
    view.members.keys().find(|node| id(node) == claim.standby)
}

/// Who stands in for node `me` for each of its VIPs. `owners` are the present owners of all VIPs; nodes that forward
/// nothing cannot stand in, so a VIP may be absent from the result.
#[must_use]
pub(super) fn choose(
    me: &NodeName,
    mine: &BTreeMap<IpAddr, Claim>,
    owners: &BTreeMap<IpAddr, NodeName>,
    vips: &Candidates,
    view: &View,
) -> BTreeMap<IpAddr, NodeName> {
    if mine.is_empty() {
        return BTreeMap::new();
    }
    let able = |node: &NodeName| {
        node != me
            && view.members.get(node).is_some_and(|member| member.state.is_up() && member.document.facts.forwarding)
    };
    let left = owners.iter().filter(|(vip, node)| *node != me && !mine.contains_key(*vip));
    let left = left.map(|(vip, node)| (*vip, node.clone())).collect();
    let able = without(vips, able);
    let able = trusted(&able, &left, view);
    let mut chosen = elect(&able, &left);
    chosen.retain(|vip, _| mine.contains_key(vip));
    let nodes: BTreeMap<u64, &NodeName> = view.members.keys().map(|node| (id(node), node)).collect();
    for (vip, node) in &mut chosen {
        let before = mine.get(vip).and_then(|claim| nodes.get(&claim.standby).copied());
        if let Some(before) = before.filter(|before| able.get(vip).is_some_and(|able| able.contains(*before))) {
            node.clone_from(before);
        }
    }
    chosen
}

/// The candidates that pass; equal sets are looked at once and stay shared.
fn without(vips: &Candidates, able: impl Fn(&NodeName) -> bool) -> Candidates {
    let pass = |all: &BTreeSet<NodeName>| Arc::new(all.iter().filter(|node| able(node)).cloned().collect());
    let (mut seen, mut passing): (_, Arc<BTreeSet<NodeName>>) = (None, Arc::default());
    let mut result = Candidates::new();
    for (vip, all) in vips {
        if !seen.is_some_and(|seen| Arc::ptr_eq(seen, all)) {
            (seen, passing) = (Some(all), pass(all));
        }
        result.insert(*vip, Arc::clone(&passing));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Member, MemberState, NodeDocument};

    fn name(n: u8) -> NodeName {
        format!("n{n}").parse().unwrap()
    }

    fn vip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn view(nodes: u8, forwarding: impl Fn(u8) -> bool) -> View {
        let member = |n| Member {
            address: ([10, 0, 1, n], 9651).into(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument {
                facts: Facts { forwarding: forwarding(n), ..Facts::default() },
                ..NodeDocument::default()
            },
        };
        View { members: (1..=nodes).map(|n| (name(n), member(n))).collect(), caught_up: true }
    }

    fn candidates(vips: u8, nodes: u8) -> Candidates {
        let all = Arc::new((1..=nodes).map(name).collect::<BTreeSet<_>>());
        (1..=vips).map(|n| (vip(n), Arc::clone(&all))).collect()
    }

    fn claims(vips: impl IntoIterator<Item = IpAddr>) -> BTreeMap<IpAddr, Claim> {
        vips.into_iter().map(|vip| (vip, Claim { epoch: 1, since_ms: 0, standby: 0 })).collect()
    }

    #[test]
    fn the_standby_is_who_is_elected_when_the_owner_is_gone() {
        for nodes in 2..6 {
            let vips = candidates(30, nodes);
            let owners = elect(&vips, &BTreeMap::new());
            let gone = without(&vips, |node| *node != name(1));
            let left = owners.iter().filter(|(_, node)| **node != name(1)).map(|(v, n)| (*v, n.clone())).collect();
            let next = elect(&gone, &left);
            let mine = claims(owners.iter().filter(|(_, node)| **node == name(1)).map(|(vip, _)| *vip));
            let chosen = choose(&name(1), &mine, &owners, &vips, &view(nodes, |_| true));
            assert!(chosen.keys().eq(mine.keys()), "{nodes} nodes: {chosen:?}");
            assert!(chosen.iter().all(|(vip, node)| next[vip] == *node), "{nodes} nodes");
        }
    }

    #[test]
    fn who_is_named_stays_so_while_it_can_whoever_ranks_before_it_now() {
        let vips = candidates(30, 4);
        let owners: BTreeMap<_, _> = vips.keys().map(|vip| (*vip, name(1))).collect();
        let named_all = |n| vips.keys().map(|v| (*v, Claim { epoch: 1, since_ms: 0, standby: id(&name(n)) })).collect();
        let stays = choose(&name(1), &named_all(4), &owners, &vips, &view(4, |_| true));
        assert_eq!(stays.len(), 30);
        assert!(stays.values().all(|node| *node == name(4)), "{stays:?}");
        let moves = choose(&name(1), &named_all(4), &owners, &vips, &view(4, |n| n != 4));
        assert!(moves.len() == 30 && moves.values().all(|node| *node != name(4)), "{moves:?}");
        let own = choose(&name(1), &named_all(1), &owners, &vips, &view(4, |_| true));
        assert!(own.values().all(|node| *node != name(1)), "an owner does not stand in for itself: {own:?}");
    }

    #[test]
    fn who_forwards_nothing_or_is_not_up_stands_in_for_nobody() {
        let (vips, mine) = (candidates(1, 3), claims([vip(1)]));
        let owners = BTreeMap::from([(vip(1), name(1))]);
        let mut view = view(3, |n| n != 2);
        let choose = |view: &View| choose(&name(1), &mine, &owners, &vips, view).get(&vip(1)).cloned();
        assert_eq!(choose(&view), Some(name(3)));
        view.members.get_mut(&name(3)).unwrap().state = MemberState::Down;
        assert_eq!(choose(&view), None);
    }

    #[test]
    fn a_claim_names_its_standby_by_an_id_that_finds_it_again() {
        let view = view(9, |_| true);
        let claim = Claim { epoch: 1, since_ms: 0, standby: id(&name(7)) };
        assert_eq!(named(&claim, &view), Some(&name(7)));
        assert_eq!(named(&Claim { standby: 0, ..claim }, &view), None);
    }
}
