//! Properties of the election.

use proptest::{collection, prelude::*};

use super::*;

fn node(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

/// Addresses of both families, so that neither has a special rule.
fn vip(n: u8) -> IpAddr {
    if n.is_multiple_of(2) {
        IpAddr::from([10, 0, 0, n])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
    }
}

fn uniform(vips: u8, nodes: &BTreeSet<NodeName>) -> Candidates {
    let nodes = Arc::new(nodes.clone());
    (0..vips).map(|n| (vip(n), Arc::clone(&nodes))).collect()
}

fn nodes(count: u8) -> BTreeSet<NodeName> {
    (0..count).map(node).collect()
}

fn loads(owners: &BTreeMap<IpAddr, NodeName>) -> BTreeMap<&NodeName, usize> {
    let mut loads = BTreeMap::new();
    for owner in owners.values() {
        *loads.entry(owner).or_default() += 1;
    }
    loads
}

/// Any VIPs with any candidates, and any owners, sensible or not.
fn situations() -> impl Strategy<Value = (Candidates, BTreeMap<IpAddr, NodeName>)> {
    let candidates = collection::btree_map(0u8..40, collection::btree_set(0u8..8, 0..6), 0..30);
    let current = collection::btree_map(0u8..45, 0u8..10, 0..30);
    (candidates, current).prop_map(|(candidates, current)| {
        let set = |nodes: BTreeSet<u8>| Arc::new(nodes.into_iter().map(node).collect());
        let candidates = candidates.into_iter().map(|(v, nodes)| (vip(v), set(nodes))).collect();
        (candidates, current.into_iter().map(|(v, n)| (vip(v), node(n))).collect())
    })
}

proptest! {
    #[test]
    fn a_vip_has_an_owner_exactly_if_it_has_candidates_and_it_is_one_of_them((vips, current) in situations()) {
        let owners = elect(&vips, &current);
        for (vip, candidates) in &vips {
            match owners.get(vip) {
                Some(owner) => prop_assert!(candidates.contains(owner)),
                None => prop_assert!(candidates.is_empty()),
            }
        }
        prop_assert!(owners.keys().all(|vip| vips.contains_key(vip)));
    }

    #[test]
    fn views_built_in_any_order_agree((vips, current) in situations()) {
        let rebuilt: Candidates = vips
            .iter()
            .rev()
            .map(|(vip, nodes)| (*vip, Arc::new(nodes.iter().rev().map(|n| n.as_str().parse().unwrap()).collect())))
            .collect();
        let reversed = current.iter().rev().map(|(vip, n)| (*vip, n.clone())).collect();
        prop_assert_eq!(elect(&vips, &current), elect(&rebuilt, &reversed));
    }

    #[test]
    fn the_result_is_stable((vips, current) in situations()) {
        let owners = elect(&vips, &current);
        prop_assert_eq!(elect(&vips, &owners), owners);
    }

    #[test]
    fn a_leaving_node_moves_only_its_own_vips((vips, current) in situations(), gone in 0u8..8) {
        let before = elect(&vips, &current);
        let without = |nodes: &BTreeSet<NodeName>| Arc::new(nodes.iter().filter(|n| **n != node(gone)).cloned().collect());
        let after = elect(&vips.iter().map(|(vip, nodes)| (*vip, without(nodes))).collect(), &before);
        for (vip, owner) in before.iter().filter(|(_, owner)| **owner != node(gone)) {
            prop_assert_eq!(after.get(vip), Some(owner));
        }
    }

    #[test]
    fn a_joining_node_moves_nothing((vips, current) in situations()) {
        let before = elect(&vips, &current);
        let with = |nodes: &BTreeSet<NodeName>| Arc::new(nodes.iter().cloned().chain([node(99)]).collect());
        let after = elect(&vips.iter().map(|(vip, nodes)| (*vip, with(nodes))).collect(), &before);
        for (vip, owner) in &before {
            prop_assert_eq!(after.get(vip), Some(owner));
        }
    }

    #[test]
    fn the_spread_keeps_the_bound_from_nothing_and_through_any_leaves(
        vips in 0u8..60, count in 1u8..9, leaves in collection::vec(any::<prop::sample::Index>(), 0..8)
    ) {
        let mut up = nodes(count);
        let mut owners = elect(&uniform(vips, &up), &BTreeMap::new());
        let within = |owners: &BTreeMap<IpAddr, NodeName>, up: &BTreeSet<NodeName>| {
            let bound = usize::from(vips).div_ceil(up.len());
            loads(owners).values().all(|load| *load <= bound)
        };
        prop_assert!(within(&owners, &up));
        for leave in leaves.into_iter().take(usize::from(count) - 1) {
            let gone = leave.get(&up.iter().cloned().collect::<Vec<_>>()).clone();
            up.remove(&gone);
            owners = elect(&uniform(vips, &up), &owners);
            prop_assert!(within(&owners, &up), "{:?}", loads(&owners));
        }
    }

    /// What makes a cold start agree: claims arrive one after the other, and whoever has seen only some of them still
    /// expects the same owners for the rest.
    #[test]
    fn a_partly_claimed_result_completes_to_the_same_result(
        vips in 0u8..40, count in 1u8..9, seen in collection::vec(any::<bool>(), 40)
    ) {
        let candidates = uniform(vips, &nodes(count));
        let whole = elect(&candidates, &BTreeMap::new());
        let part = whole.iter().zip(&seen).filter(|(_, seen)| **seen).map(|((v, n), _)| (*v, n.clone())).collect();
        prop_assert_eq!(elect(&candidates, &part), whole);
    }
}

#[test]
fn where_all_candidates_are_at_the_bound_the_least_loaded_takes_it() {
    let owned: BTreeMap<_, _> = (0..6).map(|n| (vip(n), node(u8::from(n >= 4)))).collect();
    let mut vips = uniform(7, &nodes(2));
    // Nodes that carry nothing make the bound 2, below what both candidates have.
    vips.insert(vip(50), Arc::new(nodes(4).into_iter().skip(2).collect()));
    let owners = elect(&vips, &owned);
    assert_eq!(owners.get(&vip(6)), Some(&node(1)), "n0 carries 4, n1 carries 2");
}

#[test]
fn ranks_do_not_change_between_builds() {
    // All nodes of a cluster must agree, whichever build they run: changing this number splits a rolling upgrade.
    assert_eq!(rank(IpAddr::from([10, 77, 0, 100]), &node(1)), xxhash_rust::xxh3::xxh3_64(b"\x0a\x4d\x00\x64n1"));
}
