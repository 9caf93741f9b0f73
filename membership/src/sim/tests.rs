//! Whole clusters: do they find each other, agree, and agree again after each fault?

use std::net::IpAddr;

use super::*;
use crate::{Claim, Facts, MemberState, RejectReason, Target, Verdict};

const SECOND: Duration = Duration::from_secs(1);

fn facts(mark: u8) -> Facts {
    let interface = crate::Interface { name: format!("eth{mark}"), mac: [mark; 6], prefixes: Vec::new() };
    Facts { interfaces: vec![interface], forwarding: true, ..Facts::default() }
}

fn claims(vips: impl Iterator<Item = u8>, epoch: u64) -> BTreeMap<IpAddr, Claim> {
    vips.map(|vip| (IpAddr::from([10, 0, 9, vip]), Claim { epoch, since_ms: 1, standby: 0 })).collect()
}

fn health(pods: u16) -> BTreeMap<Target, Verdict> {
    let target = |pod: u16| Target { address: [10, 1, 1, 1].into(), port: pod, check: 7 };
    (0..pods).map(|pod| (target(pod), if pod % 3 == 0 { Verdict::Unhealthy } else { Verdict::Healthy })).collect()
}

/// A cluster in which each node has said something about itself.
fn settled(seed: u64, size: usize) -> Sim {
    let mut sim = Sim::started(seed, size);
    for index in 0..size {
        sim.command(index, Command::SetFacts(facts(index as u8)));
        sim.command(index, Command::SetClaims(claims(0..(index % 5) as u8, index as u64)));
    }
    sim.converge(10 * SECOND);
    sim
}

fn state(sim: &mut Sim, viewer: usize, of: usize) -> Option<MemberState> {
    sim.member(viewer, of).map(|member| member.state)
}

fn rejected(sim: &Sim, node: usize, reason: RejectReason) -> u64 {
    sim.node(node).stats().rejected.get(&reason).copied().unwrap_or(0)
}

#[test]
fn three_nodes_meet_by_one_seed_and_catch_up() {
    let mut sim = settled(1, 3);
    sim.run_until("all caught up", SECOND, |sim| (0..3).all(|node| sim.view(node).caught_up));
    assert_eq!(rejected(&sim, 0, RejectReason::WrongSession), 0);
}

#[test]
fn a_newcomer_catches_up_with_all_claims() {
    let mut sim = settled(2, 3);
    sim.command(1, Command::SetHealth(health(2000)));
    sim.run(5 * SECOND);
    sim.boot(3, config(3, 1000));
    sim.run_until("caught up", SECOND, |sim| sim.view(3).caught_up);
    assert_eq!(sim.disagreement(), None, "caught up means knowing everything");
}

#[test]
fn a_newcomer_learns_what_the_dead_claimed() {
    let mut sim = settled(4, 3);
    let claim = Claim { epoch: 8, since_ms: 0, standby: 0 };
    sim.command(2, Command::SetClaims([([10, 0, 0, 1].into(), claim)].into()));
    sim.run(5 * SECOND);
    sim.crash(2);
    sim.run_until("down", SECOND, |sim| state(sim, 0, 2) == Some(MemberState::Down));
    sim.boot(3, config(3, 1000));
    sim.run_until("caught up", SECOND, |sim| sim.view(3).caught_up);
    sim.run(SECOND);
    let claims = sim.member(3, 2).map(|member| (member.state, member.document.claims.len()));
    assert_eq!(claims, Some((MemberState::Down, 1)));
}

#[test]
fn a_lone_node_is_never_caught_up() {
    let mut sim = Sim::started(3, 1);
    sim.run(60 * SECOND);
    assert!(!sim.view(0).caught_up);
    assert_eq!(sim.view(0).members.len(), 1, "its own document is always included");
}

#[test]
fn a_vanished_node_is_down_within_half_a_second() {
    let mut times: Vec<Duration> = (0..20)
        .map(|seed| {
            let mut sim = settled(seed, 3);
            sim.run(Duration::from_millis(1000 + seed * 13));
            sim.crash(2);
            let down = |sim: &mut Sim| (0..2).all(|node| state(sim, node, 2) == Some(MemberState::Down));
            sim.run_until("down at all others", SECOND, down)
        })
        .collect();
    times.sort();
    println!("detection: median {:?}, worst {:?}", times[10], times[19]);
    assert!(times[10] <= Duration::from_millis(400), "{times:?}");
    assert!(times[19] <= Duration::from_millis(550), "{times:?}");
}

#[test]
fn nobody_is_declared_dead_in_foul_weather() {
    for seed in 30..38 {
        let mut sim = settled(seed, 5);
        sim.weather = FOUL;
        sim.run(30 * SECOND);
        let suspected: u64 =
            (0..5).filter_map(|node| sim.node(node).stats().transitions.get(&MemberState::Suspect)).sum();
        println!("seed {seed}: {suspected} suspicions");
        for node in 0..5 {
            assert_eq!(sim.node(node).stats().renewals, 0, "seed {seed}, n{node}");
        }
    }
}

#[test]
fn a_goodbye_shows_at_once() {
    let mut sim = settled(6, 5);
    sim.command(4, Command::Leave);
    sim.run(Duration::from_millis(5));
    for node in 0..4 {
        assert_eq!(state(&mut sim, node, 4), Some(MemberState::Left), "n{node}");
    }
    assert_eq!(state(&mut sim, 4, 4), Some(MemberState::Left));
    sim.run(5 * SECOND);
    for node in 0..4 {
        assert_eq!(state(&mut sim, node, 4), Some(MemberState::Left), "n{node}, later");
    }
    sim.crash(4);
    sim.boot(4, config(4, 1001));
    sim.converge(2 * SECOND);
}

#[test]
fn the_dead_are_forgotten_after_a_while() {
    let mut sim = settled(7, 3);
    sim.crash(2);
    sim.run(30 * SECOND);
    let dead = sim.member(0, 2).unwrap();
    assert_eq!((dead.state, dead.document.facts), (MemberState::Down, facts(2)), "its document is kept with it");
    sim.run(60 * SECOND);
    assert_eq!(sim.member(0, 2), None);
}

#[test]
fn a_healed_partition_reunites_within_two_seconds() {
    for (seed, apart) in [(8, 5), (9, 100)] {
        let mut sim = settled(seed, 6);
        sim.partition(&[0, 1, 2], &[3, 4, 5]);
        sim.command(4, Command::SetClaims(claims(10..20, 7)));
        sim.run(apart * SECOND);
        assert_ne!(state(&mut sim, 0, 4), Some(MemberState::Alive));
        sim.command(1, Command::SetClaims(claims(10..20, 8)));
        sim.heal();
        let took = sim.converge(3 * SECOND);
        println!("apart for {apart} s, reunited in {took:?}");
    }
}

#[test]
fn a_one_way_cut_heals_too() {
    let mut sim = settled(10, 4);
    for other in 0..3 {
        sim.cut(3, other);
    }
    sim.run(10 * SECOND);
    assert_eq!(state(&mut sim, 0, 3), Some(MemberState::Down));
    sim.heal();
    sim.converge(3 * SECOND);
}

#[test]
fn a_node_that_comes_back_says_what_it_is_before_it_hears_everybody() {
    let mut sim = settled(31, 3);
    sim.partition(&[0], &[1, 2]);
    sim.run(3 * SECOND);
    let isolated = Facts { isolated: true, ..facts(0) };
    sim.command(0, Command::SetFacts(isolated.clone()));
    sim.run(3 * SECOND);
    sim.heal();
    // It hears the one, and is heard by both.
    sim.cut(1, 0);
    let up = |sim: &mut Sim| state(sim, 1, 0).is_some_and(MemberState::is_up);
    sim.run_until("it is back", 2 * SECOND, up);
    sim.run(Duration::from_millis(10));
    assert_eq!(sim.member(1, 0).map(|member| member.document.facts), Some(isolated));
}

#[test]
fn a_restarted_node_comes_back_with_a_fresh_document() {
    let mut sim = settled(11, 3);
    sim.crash(1);
    sim.boot(1, config(1, 1001));
    sim.run(Duration::from_millis(100));
    sim.command(1, Command::SetFacts(facts(99)));
    sim.converge(2 * SECOND);
    let member = sim.member(0, 1).unwrap();
    assert_eq!((member.generation, member.document.facts), (1001, facts(99)));
    assert!(member.document.claims.is_empty(), "what it claimed in its earlier life is void");
}

#[test]
fn a_node_that_lost_its_state_and_clock_comes_back() {
    for other_seed in [0, 1] {
        let mut sim = settled(12 + other_seed, 3);
        sim.crash(2);
        sim.boot(2, config(2, 5));
        sim.command(2, Command::SetFacts(facts(77)));
        sim.converge(3 * SECOND);
        assert!(sim.node(2).identity().generation > 1000);
        assert_eq!(sim.node(2).stats().name_conflicts, 0, "its own former life is nobody else");
        assert!(
            rejected(&sim, 0, RejectReason::StaleGeneration) + rejected(&sim, 1, RejectReason::StaleGeneration) == 0
        );
    }
}

#[test]
fn another_key_changes_nothing_and_is_counted() {
    let mut sim = settled(14, 2);
    let mut stranger = config(2, 1000);
    stranger.keys = KeyRing::parse(OTHER_KEY).unwrap();
    sim.boot(2, stranger);
    sim.run(5 * SECOND);
    assert!(rejected(&sim, 0, RejectReason::WrongKey) > 0);
    assert_eq!(sim.view(0).members.len(), 2);
    assert_eq!(sim.view(2).members.len(), 1);
}

#[test]
fn keys_rotate_without_a_suspicion() {
    let ring = |text: &str| KeyRing::parse(text).unwrap();
    let mut sim = settled(15, 3);
    for keys in [format!("{KEY}\n{OTHER_KEY}"), format!("{OTHER_KEY}\n{KEY}"), OTHER_KEY.to_owned()] {
        for node in 0..3 {
            sim.command(node, Command::SetKeys(ring(&keys)));
            sim.run(SECOND);
        }
    }
    for node in 0..3 {
        let stats = sim.node(node).stats();
        assert_eq!((stats.rejected.len(), stats.renewals), (0, 0), "n{node}: {stats:?}");
        assert!(!stats.transitions.contains_key(&MemberState::Suspect), "n{node}: {stats:?}");
    }
}

#[test]
fn recorded_datagrams_open_nowhere() {
    let mut sim = settled(16, 3);
    sim.recording = Some(Vec::new());
    sim.command(2, Command::SetClaims(claims(50..60, 9)));
    sim.run(SECOND);
    let recorded = sim.recording.take().unwrap();
    sim.command(2, Command::SetClaims(claims(50..51, 10)));
    sim.converge(SECOND);
    let replay = |sim: &mut Sim, at: usize| {
        let before = sim.refused(at);
        let view = sim.view(at);
        for (from, _, bytes) in recorded.iter().filter(|(from, _, _)| *from != at) {
            sim.inject(at, *from, bytes);
        }
        assert_eq!(sim.view(at).members, view.members, "nothing changed at n{at}");
        assert_eq!(sim.refused(at) - before, recorded.iter().filter(|(from, _, _)| *from != at).count() as u64);
    };
    // Each node gets what was meant for it and what was meant for others.
    replay(&mut sim, 0);
    replay(&mut sim, 1);
    // The receiver restarts.
    sim.crash(0);
    sim.boot(0, config(0, 1001));
    sim.converge(2 * SECOND);
    replay(&mut sim, 0);
    // The sender restarts.
    sim.crash(2);
    sim.boot(2, config(2, 1001));
    sim.converge(2 * SECOND);
    replay(&mut sim, 1);
    sim.converge(SECOND);
}

#[test]
fn garbage_changes_nothing_and_is_counted() {
    let mut sim = settled(17, 2);
    let view = sim.view(0);
    let mut rng = StdRng::seed_from_u64(17);
    for len in 0..1400 {
        let mut bytes = vec![0; len];
        rand::Rng::fill_bytes(&mut rng, &mut bytes);
        if let Some(version) = bytes.first_mut().filter(|_| len % 2 == 0) {
            *version = 1;
        }
        sim.inject(0, 1, &bytes);
    }
    assert_eq!(sim.refused(0), 1400);
    assert_eq!(sim.view(0), view);
}

#[test]
fn a_lost_cell_is_repaired() {
    let mut sim = settled(18, 3);
    sim.weather.loss = 1.0;
    sim.command(0, Command::SetClaims(claims(0..40, 3)));
    sim.weather.loss = 0.0;
    sim.converge(SECOND);
    assert_eq!(sim.member(2, 0).unwrap().document.claims.len(), 40);
}

#[test]
fn what_does_not_fit_its_cell_is_counted_not_gossiped() {
    let mut sim = settled(19, 2);
    let crowd: Vec<_> = (0..100)
        .map(|n| crate::Interface { name: format!("ethernet{n}"), mac: [1; 6], prefixes: Vec::new() })
        .collect();
    sim.command(0, Command::SetFacts(Facts { interfaces: crowd, ..Facts::default() }));
    assert!(sim.node(0).stats().limits[&crate::Limit::CellFull] > 0);
    sim.converge(SECOND);
    let interfaces = sim.member(1, 0).unwrap().document.facts.interfaces.len();
    assert!((30..100).contains(&interfaces), "{interfaces}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut sim = settled(seed, 5);
        sim.weather = FOUL;
        sim.crash(3);
        sim.run(3 * SECOND);
        sim.trace()
    };
    assert_eq!(run(20), run(20));
    assert_ne!(run(20), run(21));
}

#[test]
fn a_newcomer_to_a_large_cluster_has_soon_learned_what_is_known_there() {
    let mut sim = Sim::started(77, 200);
    sim.converge(20 * SECOND);
    sim.run(4 * SECOND);
    sim.boot(200, config(200, 1000));
    // It hears of all members first, and then asks one peer for five pages.
    sim.run_until("the newcomer has caught up", 3 * SECOND, |sim| sim.view(200).caught_up);
}
