//! What holds for a whole cluster of [`Ownership`] machines, whatever happens to it: runs from random seeds in the toy
//! [`world`].

use std::time::Duration;

use proptest::prelude::*;
use rand::RngExt;

use world::World;

mod world;

/// A cluster that has started cold and settled.
fn settled(seed: u64, nodes: usize, vips: u8) -> World {
    settle(World::new(seed, nodes, vips))
}

/// The same, with nodes that even out an uneven spread.
fn rebalancing(seed: u64, nodes: usize, vips: u8) -> World {
    let mut world = World::new(seed, nodes, vips);
    world.rebalance = true;
    settle(world)
}

fn settle(mut world: World) -> World {
    let nodes = world.nodes.len();
    for n in 0..nodes {
        world.start(n);
        let pause = world.rng.random_range(Duration::ZERO..Duration::from_millis(200));
        world.run(pause);
    }
    world.run(Duration::from_secs(4));
    world.check_settled();
    world
}

/// The same world after the first node has died and the others have taken over.
fn bereft(mut world: World) -> World {
    world.crash(0);
    world.run(Duration::from_secs(2));
    world
}

const SETTLE: Duration = Duration::from_secs(14);

fn random_fault(world: &mut World) {
    let n = world.rng.random_range(0..world.nodes.len());
    match world.rng.random_range(0..10u8) {
        0 | 1 => {
            let parts = world.rng.random_range(2..=3u8);
            let sides = (0..world.nodes.len()).map(|_| world.rng.random_range(0..parts)).collect();
            world.partition(sides);
        }
        2 | 3 => world.heal(),
        4 => world.crash(n),
        5 | 6 => world.start(n),
        7 => world.drain(n),
        8 => world.leave(n),
        _ => {
            let up = world.rng.random_bool(0.6);
            world.uplink(n, up);
        }
    }
    let pause = world.rng.random_range(Duration::ZERO..Duration::from_secs(3));
    world.run(pause);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    /// The seed of a failing run is in proptest's "minimal failing input".
    #[test]
    fn after_any_faults_each_side_settles_on_one_owner_that_its_clients_know(
        seed: u64, nodes in 2usize..7, vips in 1u8..9, faults in 1usize..12, even: bool
    ) {
        let mut world = if even { rebalancing(seed, nodes, vips) } else { settled(seed, nodes, vips) };
        for _ in 0..faults {
            random_fault(&mut world);
        }
        world.run(SETTLE);
        world.check_settled();
        world.heal();
        world.run(SETTLE);
        world.check_settled();
    }

    #[test]
    fn a_split_gossip_leaves_one_owner_on_the_wire(
        seed: u64, nodes in 2usize..7, vips in 1u8..9
    ) {
        let mut world = settled(seed, nodes, vips);
        let sides = (0..nodes).map(|_| world.rng.random_range(0..=1u8)).collect();
        world.split_gossip(sides);
        world.run(SETTLE * 2);
        world.check_wire();
        world.split_gossip(vec![0; nodes]);
        world.run(SETTLE);
        world.check_settled();
    }

    /// Whoever wakes while others still listen may take more than its share; that is evened out.
    #[test]
    fn a_cold_cluster_spreads_its_vips_within_the_bound(seed: u64, nodes in 1usize..7, vips in 1u8..20) {
        let mut world = rebalancing(seed, nodes, vips);
        world.run(SETTLE);
        let bound = usize::from(vips).div_ceil(nodes);
        for node in &world.nodes {
            let held = node.ownership.as_ref().unwrap().claims();
            prop_assert!(held.len() <= bound, "{} holds {} of {vips}", node.name, held.len());
        }
        world.check_settled();
    }

    #[test]
    fn a_returning_node_does_not_take_its_vips_back(seed: u64, nodes in 2usize..6, vips in 1u8..9) {
        let mut world = bereft(settled(seed, nodes, vips));
        let before = world.everything_held();
        world.start(0);
        world.run(SETTLE);
        prop_assert_eq!(world.everything_held(), before);
        world.check_settled();
    }

    #[test]
    fn a_single_vip_never_moves_back_even_where_nodes_even_out(seed: u64, nodes in 2usize..6) {
        let mut world = bereft(rebalancing(seed, nodes, 1));
        let before = world.everything_held();
        world.start(0);
        world.run(SETTLE);
        prop_assert_eq!(world.everything_held(), before);
    }

    #[test]
    fn after_a_return_vips_move_one_at_a_time_until_the_spread_is_even(seed: u64, nodes in 2usize..6, vips in 2u8..20) {
        let mut world = bereft(rebalancing(seed, nodes, vips));
        world.start(0);
        let held = |world: &World| world.nodes[0].ownership.as_ref().unwrap().claims().len();
        world.run(Duration::from_secs(5));
        prop_assert_eq!(held(&world), 0, "a newcomer waits");
        for _ in 0..(10 * 50) {
            world.tick();
            let now = world.everything_held();
            prop_assert!(now.values().all(|holders| !holders.is_empty()), "nobody answers during a move: {now:?}");
            let moving = now.values().filter(|holders| holders.len() > 1).count();
            prop_assert!(moving <= 1, "{moving} VIPs move at once");
        }
        world.check_settled();
        let bound = usize::from(vips).div_ceil(nodes);
        for node in &world.nodes {
            let held = node.ownership.as_ref().unwrap().claims().len();
            prop_assert!(held <= bound, "{} holds {held} of {vips}", node.name);
        }
    }

    #[test]
    fn whoever_dies_in_the_middle_of_a_move_leaves_one_owner(seed: u64, nodes in 3usize..6, vips in 4u8..16, after in 5000u64..7500, taker: bool, owner: bool) {
        let mut world = bereft(rebalancing(seed, nodes, vips));
        world.start(0);
        world.run(Duration::from_millis(after));
        if taker {
            world.crash(0);
        }
        if owner {
            world.crash(1);
        }
        world.run(SETTLE);
        world.check_settled();
    }

    #[test]
    fn a_node_that_comes_and_goes_moves_nothing(seed: u64, nodes in 3usize..6, vips in 2u8..12) {
        let mut world = bereft(rebalancing(seed, nodes, vips));
        let before = world.everything_held();
        for _ in 0..4 {
            world.start(0);
            let pause = world.rng.random_range(Duration::from_secs(1)..Duration::from_secs(5));
            world.run(pause);
            prop_assert_eq!(world.everything_held(), before.clone());
            world.crash(0);
            world.run(Duration::from_secs(1));
        }
    }

    #[test]
    fn a_drain_hands_everything_over_before_it_is_released(seed: u64, nodes in 2usize..6, vips in 1u8..9) {
        let mut world = settled(seed, nodes, vips);
        world.drain(0);
        let mut ticks = 0;
        while !world.nodes[0].ownership.as_ref().unwrap().is_released() {
            world.tick();
            for (vip, holders) in world.everything_held() {
                prop_assert!(!holders.is_empty(), "nobody answers for {vip} during the hand-over");
            }
            ticks += 1;
            prop_assert!(ticks < 200, "not released after {ticks} ticks");
        }
        prop_assert!(world.nodes[0].ownership.as_ref().unwrap().claims().is_empty());
        world.leave(0);
        world.run(Duration::from_secs(2));
        world.check_settled();
    }

    #[test]
    fn each_side_of_a_partition_has_an_owner_and_one_remains_when_it_heals(seed: u64, vips in 1u8..9) {
        let mut world = settled(seed, 5, vips);
        world.partition(vec![0, 0, 1, 1, 1]);
        world.run(Duration::from_secs(8));
        world.check_settled();
        world.heal();
        world.run(Duration::from_secs(3));
        world.check_settled();
    }
}
