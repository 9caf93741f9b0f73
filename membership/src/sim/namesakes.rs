//! Two agents of one name in a cluster: what they do, and what the others see of it.

use super::*;
use crate::MemberState;

const SECOND: Duration = Duration::from_secs(1);
const TWINS: [usize; 2] = [2, 3];

/// Two nodes, and two agents that share a name. All have just been started.
fn with_twins(seed: u64) -> Sim {
    let mut sim = Sim::started(seed, 2);
    for (index, generation) in TWINS.into_iter().zip([1000, 2000]) {
        let mut config = config(index, generation);
        config.identity.name = name(TWINS[0]);
        sim.boot(index, config);
    }
    sim
}

/// What node 0 sees of the name, and how often that changed in so many seconds.
fn changes(sim: &mut Sim, seconds: u32) -> usize {
    let (mut changes, mut before) = (0, None);
    for _ in 0..seconds * 20 {
        sim.run(SECOND / 20);
        let now = sim.member(0, TWINS[0]).map(|member| (member.address, member.state));
        let other = sim.member(0, 1).map(|member| member.state);
        assert!(matches!(other, None | Some(MemberState::Alive | MemberState::Suspect)), "{other:?}");
        changes += usize::from(before.is_some() && before != now);
        before = now;
    }
    changes
}

#[test]
fn agents_of_one_name_take_turns_ever_more_slowly_while_the_others_see_each_other() {
    for seed in 60..63 {
        let mut sim = with_twins(seed);
        let early = changes(&mut sim, 60);
        sim.run(300 * SECOND);
        sim.wire.clear();
        let late = changes(&mut sim, 600);
        println!("seed {seed}: {early} changes in the first minute, {late} in ten minutes later");
        for twin in TWINS {
            let stats = sim.node(twin).stats();
            let sent: usize = sim.wire[&twin].iter().sum();
            println!("{twin}: {} conflicts, {} B/s, {stats:?}", stats.name_conflicts, sent / 600);
            assert!((5..60).contains(&stats.name_conflicts));
            assert!(sent / 600 < 10 * 1024, "{} B/s", sent / 600);
        }
        assert!(early <= 14 && late <= 14, "{early}, {late}");
    }
}

#[test]
fn two_agents_of_one_name_that_know_nobody_else_find_each_other_out() {
    let mut sim = Sim::new(63);
    for (index, other) in [(0, 1), (1, 0)] {
        let mut config = config(index, 1000);
        config.identity.name = name(0);
        config.seeds = vec![address(other)];
        sim.boot(index, config);
    }
    sim.run(5 * SECOND);
    for index in [0, 1] {
        let conflicts = sim.node(index).stats().name_conflicts;
        assert!((1..6).contains(&conflicts), "{conflicts}");
    }
}

#[test]
fn when_one_of_two_agents_of_one_name_is_gone_the_other_is_seen() {
    for gone in [0, 1] {
        let mut sim = with_twins(64);
        sim.run(300 * SECOND);
        sim.crash(TWINS[gone]);
        let stays = address(TWINS[1 - gone]);
        sim.run_until("the other is seen", 90 * SECOND, |sim| {
            sim.member(0, TWINS[0]).is_some_and(|member| member.address == stays && member.state == MemberState::Alive)
        });
        sim.run(120 * SECOND);
        assert_eq!(sim.member(0, TWINS[0]).map(|member| member.state), Some(MemberState::Alive));
    }
}
