//! Which VIP moves where, and when.

use proptest::prelude::*;

use super::*;
use crate::{Claim, Facts, Interface, Member, MemberState, NodeDocument, View};

fn name(n: usize) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn vip(n: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()])
}

/// VIPs that all of `nodes` may own, and who owns them.
fn spread(nodes: usize, owned: &[usize]) -> (Candidates, Owners) {
    let all: Arc<BTreeSet<_>> = Arc::new((0..nodes).map(name).collect());
    let vips = (0..owned.len()).map(|n| (vip(n), Arc::clone(&all))).collect();
    (vips, owned.iter().enumerate().map(|(n, owner)| (vip(n), name(*owner))).collect())
}

fn surveyed(vips: &Candidates, owners: &Owners) -> Survey {
    let mut view = View::default();
    for node in nodes(vips) {
        let claims = owners.iter().filter(|(_, owner)| *owner == node);
        let claims = claims.map(|(vip, _)| (*vip, Claim { epoch: 1, since_ms: 0, standby: 0 })).collect();
        let uplink = Interface { name: "eth0".into(), mac: [0; 6], prefixes: vec![] };
        let facts = Facts { interfaces: vec![uplink], ..Facts::default() };
        let document = NodeDocument { facts, claims, ..NodeDocument::default() };
        let address = "127.0.0.1:1".parse().unwrap();
        view.members.insert(node.clone(), Member { address, generation: 1, state: MemberState::Alive, document });
    }
    Survey::new(&name(99), &BTreeMap::new(), &view, vips)
}

#[expect(clippy::disallowed_methods, reason = "any instant does")]
fn start() -> Instant {
    Instant::now()
}

fn takes(me: usize, nodes: usize, owned: &[usize]) -> Option<usize> {
    let (vips, owners) = spread(nodes, owned);
    let taking = best(&name(me), &vips, &owners)?;
    Some(owned[(0..owned.len()).find(|n| vip(*n) == taking.vip).unwrap()])
}

#[test]
fn a_single_vip_and_an_even_spread_stay_where_they_are() {
    assert_eq!(takes(1, 2, &[0]), None);
    assert_eq!(takes(2, 3, &[0, 1]), None, "two nodes with one each, a third without");
    assert_eq!(takes(2, 3, &[0, 0, 1, 1]), None, "nobody carries more than 4 / 3, rounded up");
    assert_eq!(takes(1, 2, &[0, 0, 1]), None);
}

#[test]
fn who_carries_too_little_takes_from_who_carries_most() {
    assert_eq!(takes(1, 2, &[0, 0]), Some(0));
    assert_eq!(takes(2, 3, &[0, 0, 0, 1, 1, 1, 1]), Some(1));
    assert_eq!(takes(0, 3, &[0, 0, 0, 1, 1, 1, 1]), None);
}

#[test]
fn a_vip_that_the_node_may_not_own_is_not_taken() {
    let (mut vips, owners) = spread(2, &[0, 0, 0, 0]);
    let alone = Arc::new(BTreeSet::from([name(0)]));
    for n in 0..3 {
        vips.insert(vip(n), Arc::clone(&alone));
    }
    assert_eq!(best(&name(1), &vips, &owners).map(|taking| taking.vip), Some(vip(3)));
    vips.insert(vip(3), alone);
    assert!(best(&name(1), &vips, &owners).is_none());
}

#[test]
fn the_vip_that_moves_is_the_one_for_which_the_taker_ranks_highest() {
    let (vips, owners) = spread(2, &[0; 9]);
    let taken = best(&name(1), &vips, &owners).unwrap().vip;
    assert!((0..9).all(|n| rank(vip(n), &name(1)) <= rank(taken, &name(1))));
}

#[test]
fn nothing_moves_before_the_nodes_have_been_the_same_for_a_while() {
    let (vips, owners) = spread(2, &[0, 0, 0, 0]);
    let survey = surveyed(&vips, &owners);
    let (mut rebalance, t0) = (Rebalance::default(), start());
    assert_eq!(rebalance.step(&name(1), &vips, &survey, t0), None, "it is off");
    assert_eq!(rebalance.deadline(), None);
    rebalance.set(true);
    assert_eq!(rebalance.step(&name(1), &vips, &survey, t0), None);
    assert_eq!(rebalance.deadline(), Some(t0 + CALM));
    let (more, _) = spread(3, &[0, 0, 0, 0]);
    let t1 = t0 + CALM - PACE;
    assert_eq!(rebalance.step(&name(1), &more, &survey, t1), None, "a node has come");
    assert_eq!(rebalance.step(&name(1), &more, &survey, t0 + CALM), None);
    assert!(rebalance.step(&name(1), &more, &survey, t1 + CALM).is_some());
}

#[test]
fn moves_are_paced_and_wait_for_the_old_owner() {
    let (vips, mut owners) = spread(2, &[0, 0, 0, 0]);
    let (mut rebalance, t0) = (Rebalance::default(), start());
    rebalance.set(true);
    let me = name(1);
    assert_eq!(rebalance.step(&me, &vips, &surveyed(&vips, &owners), t0), None);
    let t1 = t0 + CALM;
    let taken = rebalance.step(&me, &vips, &surveyed(&vips, &owners), t1).unwrap();
    owners.insert(taken, me.clone());
    assert_eq!(rebalance.step(&me, &vips, &surveyed(&vips, &owners), t1), None);
    assert_eq!(rebalance.deadline(), Some(t1 + PACE));
    let second = rebalance.step(&me, &vips, &surveyed(&vips, &owners), t1 + PACE).unwrap();
    owners.insert(second, me.clone());
    assert_eq!(rebalance.step(&me, &vips, &surveyed(&vips, &owners), t1 + 9 * PACE), None, "it is even");
    assert_eq!(rebalance.deadline(), None);
}

#[test]
fn the_least_loaded_goes_first_and_another_after_it() {
    let (vips, owners) = spread(3, &[0; 6]);
    let survey = surveyed(&vips, &owners);
    let t0 = start();
    let due = |me: usize| {
        let mut rebalance = Rebalance::default();
        rebalance.set(true);
        rebalance.step(&name(me), &vips, &survey, t0);
        rebalance.deadline()
    };
    assert_eq!(due(1), Some(t0 + CALM));
    assert_eq!(due(2), Some(t0 + CALM + PACE));
}

#[test]
fn who_is_asked_does_not_wait_and_does_it_once() {
    let (vips, mut owners) = spread(2, &[0, 0, 0]);
    let (mut rebalance, t0) = (Rebalance::default(), start());
    let survey = surveyed(&vips, &owners);
    assert_eq!(rebalance.ask(&name(1), &vips, &survey), 1);
    assert_eq!(rebalance.step(&name(1), &vips, &survey, t0), None);
    let taken = rebalance.step(&name(1), &vips, &survey, t0 + PACE).unwrap();
    owners.insert(taken, name(1));
    rebalance.step(&name(1), &vips, &surveyed(&vips, &owners), t0 + 2 * PACE);
    let uneven = surveyed(&vips, &spread(2, &[0, 0, 0]).1);
    assert_eq!(rebalance.step(&name(1), &vips, &uneven, t0 + 100 * CALM), None, "it was asked once");
    assert_eq!(rebalance.ask(&name(0), &vips, &survey), 0, "it has the most");
}

proptest! {
    #[test]
    fn moves_end_with_nobody_above_the_bound(nodes in 1usize..8, owned in prop::collection::vec(0usize..8, 0..40)) {
        let owned: Vec<_> = owned.into_iter().map(|owner| owner % nodes).collect();
        let (vips, mut owners) = spread(nodes, &owned);
        let mut moves = 0;
        while let Some((node, taking)) = (0..nodes).find_map(|n| Some((name(n), best(&name(n), &vips, &owners)?))) {
            owners.insert(taking.vip, node);
            moves += 1;
            prop_assert!(moves <= owned.len(), "VIPs move in circles");
        }
        let bound = owned.len().div_ceil(nodes);
        let load = loads(&owners);
        prop_assert!(load.values().all(|carried| *carried <= bound), "{load:?} with a bound of {bound}");
    }
}
