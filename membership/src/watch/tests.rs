//! Whole clusters with the watch in them: who is found dead, how soon, and who is not.

use std::collections::BTreeMap;

use super::*;
use crate::{
    Command, MemberState, RejectReason, Watch,
    header::{HEADER_LEN, WATCH_VERSION},
    sim::{FAIR, Sim, Weather, config},
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn started(seed: u64, size: usize, watch: Watch) -> Sim {
    let mut sim = Sim::new(seed);
    for index in 0..size {
        sim.boot(index, crate::Config { watch, ..config(index, 1000) });
    }
    sim.converge(20 * SECOND);
    sim.run(2 * SECOND);
    sim
}

fn state(sim: &mut Sim, viewer: usize, of: usize) -> Option<MemberState> {
    sim.member(viewer, of).map(|member| member.state)
}

/// Runs until all `viewers` take all of `dead` for down; returns how long that took.
fn found(sim: &mut Sim, dead: &[usize], viewers: &[usize], limit: Duration) -> Duration {
    let began = sim.now;
    loop {
        let known =
            viewers.iter().all(|viewer| dead.iter().all(|dead| state(sim, *viewer, *dead) == Some(MemberState::Down)));
        if known {
            return sim.now - began;
        }
        assert!(sim.now - began < limit, "{dead:?} not found dead by {viewers:?} within {limit:?}");
        sim.run(MS);
    }
}

/// How often members were shown as down, over all nodes.
fn deaths(sim: &Sim) -> u64 {
    let of = |index| sim.node(index).stats().transitions.get(&MemberState::Down).copied().unwrap_or(0);
    sim.living().into_iter().map(of).sum()
}

#[test]
fn a_vanished_node_is_down_within_the_promised_time() {
    for (watch, least, most) in [(Watch::default(), 104, 158), (Watch::FAST, 20, 34)] {
        let mut times: Vec<Duration> = (0..40)
            .map(|seed| {
                let mut sim = started(seed, 3, watch);
                sim.run(MS * (seed as u32 * 13));
                sim.crash(2);
                found(&mut sim, &[2], &[0, 1], SECOND)
            })
            .collect();
        times.sort();
        println!("{watch:?}: {:?} to {:?}, median {:?}", times[0], times[39], times[20]);
        assert!(times[0] >= MS * least && times[39] <= MS * most, "{times:?}");
    }
}

#[test]
fn loss_is_not_taken_for_death() {
    for loss in [0.01, 0.05, 0.2] {
        let mut sim = started(7, 4, Watch::default());
        sim.weather = Weather { loss, ..FAIR };
        sim.run(60 * SECOND);
        let alarms: u64 = (0..4).map(|node| sim.watcher(node).stats().false_alarms).sum();
        println!("loss {loss}: {alarms} false alarms");
        assert_eq!(deaths(&sim), 0, "loss {loss}");
    }
}

#[test]
fn who_is_heard_by_anybody_is_not_down() {
    let mut sim = started(8, 3, Watch::default());
    sim.cut(2, 0);
    sim.run(10 * SECOND);
    assert_eq!(state(&mut sim, 0, 2), Some(MemberState::Suspect), "n0 does not hear it, but n1 does");
    assert_eq!(state(&mut sim, 1, 2), Some(MemberState::Alive));
    assert_eq!(deaths(&sim), 0);
    sim.crash(2);
    found(&mut sim, &[2], &[0, 1], MS * 260);
}

#[test]
fn two_nodes_decide_alone() {
    let mut sim = started(9, 2, Watch::default());
    sim.crash(1);
    let took = found(&mut sim, &[1], &[0], SECOND);
    assert!(took <= MS * 158, "{took:?}");
}

#[test]
fn two_of_three_that_die_at_once_are_found_an_interval_later_at_most() {
    for seed in 10..20 {
        let mut sim = started(seed, 3, Watch::default());
        sim.run(MS * (seed as u32 * 7));
        sim.crash(1);
        sim.crash(2);
        let took = found(&mut sim, &[1, 2], &[0], SECOND);
        assert!(took <= MS * 210, "{took:?}");
    }
}

#[test]
fn a_node_that_is_cut_off_finds_all_dead_at_once_and_slanders_nobody_on_its_return() {
    for (seed, size) in [(21, 3), (22, 5), (23, 9)] {
        let mut sim = started(seed, size, Watch::default());
        let others: Vec<_> = (1..size).collect();
        sim.partition(&[0], &others);
        found(&mut sim, &[0], &others, MS * 215);
        found(&mut sim, &others, &[0], SECOND);
        sim.run(5 * SECOND);
        let before = deaths(&sim);
        sim.heal();
        let took = sim.converge(3 * SECOND);
        println!("{size} nodes together again after {took:?}");
        sim.run(2 * SECOND);
        assert_eq!(deaths(&sim), before, "nobody believes what it says of the others");
    }
}

#[test]
fn a_node_that_hears_nobody_is_down_when_it_knows_that_itself() {
    for (seed, size) in [(60, 2), (61, 3), (62, 3), (63, 4), (64, 9)] {
        let mut sim = started(seed, size, Watch::default());
        let others: Vec<_> = (1..size).collect();
        sim.run(MS * (seed as u32 * 7 % 50));
        others.iter().for_each(|other| sim.cut(*other, 0));
        // In a larger cluster it asks others first, whom it does not hear either.
        let most = if size > 4 { 215 } else { 160 };
        let took = found(&mut sim, &[0], &others, SECOND);
        println!("{size} nodes: {took:?}");
        assert!(took <= MS * most, "{size} nodes: {took:?}");
        sim.run(SECOND);
        let down = |node: &usize| sim.node(*node).stats().transitions.get(&MemberState::Down).copied().unwrap_or(0);
        let downs: Vec<_> = others.iter().map(down).collect();
        assert!(downs.iter().all(|count| *count == 1), "{size} nodes: what it says of others is believed: {downs:?}");
    }
}

#[test]
fn who_was_held_up_does_not_believe_that_another_is_deaf() {
    for held in [170, 700, 5000] {
        let mut sim = started(65, 3, Watch::default());
        sim.freeze(0, MS * held);
        sim.freeze(1, MS * held);
        sim.run(MS * held + 3 * SECOND);
        let found_deaf = [0, 1].map(|node| sim.watcher(node).stats().verdicts.count);
        assert_eq!(found_deaf, [0, 0], "held up for {held} ms, they believe n2, which did not hear them");
        assert_eq!(sim.disagreement(), None);
    }
}

#[test]
fn a_watcher_that_was_held_up_blames_nobody() {
    for held in [120, 700, 5000] {
        let mut sim = started(24, 3, Watch::default());
        let before = sim.watcher(0).stats().holdups;
        sim.freeze(0, MS * held);
        sim.run(MS * held + 3 * SECOND);
        assert_eq!(sim.watcher(0).stats().holdups, before + 1, "held up once, for {held} ms");
        let down = sim.node(0).stats().transitions.get(&MemberState::Down);
        assert_eq!(down, None, "held up for {held} ms, it blames others");
        assert_eq!(sim.disagreement(), None);
    }
}

#[test]
fn a_node_whose_watchers_die_with_it_is_found_by_the_next() {
    for seed in 30..34 {
        let mut sim = started(seed, 16, Watch::default());
        let id = |index: usize| config(index, 0).identity.id();
        let ring: BTreeMap<u64, usize> = (0..16).map(|index| (id(index), index)).collect();
        let mut dead = vec![0];
        dead.extend(ring::successors(&ring, id(0), ring::WATCHERS).map(|id| ring[&id]));
        for index in &dead {
            sim.crash(*index);
        }
        let living = sim.living();
        let took = found(&mut sim, &dead, &living, 2 * SECOND);
        println!("a node and its watchers found dead in {took:?}");
        assert!(took <= MS * 600, "{took:?}");
    }
}

#[test]
fn different_intervals_raise_no_alarm() {
    let mut sim = started(40, 3, Watch::default());
    let slow = Watch { interval: SECOND, misses: 3 };
    sim.boot(2, crate::Config { watch: slow, ..config(2, 1001) });
    sim.converge(5 * SECOND);
    let before: u64 = (0..3).map(|node| sim.watcher(node).stats().suspicions).sum();
    sim.run(10 * SECOND);
    let after: u64 = (0..3).map(|node| sim.watcher(node).stats().suspicions).sum();
    assert_eq!(before, after);
}

#[test]
fn a_restart_and_a_goodbye_raise_no_alarm() {
    let mut sim = started(41, 4, Watch::default());
    sim.command(3, Command::Leave);
    sim.run(MS * 20);
    sim.crash(3);
    sim.run(SECOND);
    assert_eq!(deaths(&sim), 0);
    sim.boot(3, config(3, 1001));
    sim.converge(2 * SECOND);
    assert_eq!((0..3).map(|node| sim.watcher(node).stats().suspicions).sum::<u64>(), 0);
}

/// A beat from node 1 to node 0 with another counter, so that nothing but the keys tells that it is forged.
fn forged(sim: &mut Sim) -> Vec<u8> {
    sim.recording = Some(Vec::new());
    sim.run(SECOND);
    let recorded = sim.recording.take().unwrap();
    let is_beat = |from: usize, to: usize, bytes: &[u8]| (from, to) == (1, 0) && bytes[0] == WATCH_VERSION;
    let (_, _, mut beat) = recorded.into_iter().find(|(from, to, bytes)| is_beat(*from, *to, bytes)).unwrap();
    beat[HEADER_LEN - 6] ^= 1;
    beat
}

/// How many datagrams node 0's watch has refused for these reasons.
fn refusals(sim: &Sim, reasons: [RejectReason; 3]) -> [u64; 3] {
    reasons.map(|reason| sim.watcher(0).stats().rejected.get(&reason).copied().unwrap_or(0))
}

#[test]
fn of_forged_beats_from_strangers_so_many_a_second_are_tried_with_the_keys() {
    let mut sim = started(42, 3, Watch::default());
    let beat = forged(&mut sim);
    let reasons = [RejectReason::WrongKey, RejectReason::Throttled, RejectReason::WrongSession];
    for second in 1..=3 {
        for _ in 0..50 {
            for _ in 0..100 {
                sim.inject(0, 9, &beat);
            }
            sim.run(MS * 20);
        }
        let tried = u64::from(budget::FAILURES_PER_SECOND) * second;
        assert_eq!(refusals(&sim, reasons), [tried, 5000 * second - tried, 0]);
    }
    assert_eq!((0..3).map(|node| sim.watcher(node).stats().suspicions).sum::<u64>(), 0, "members are heard meanwhile");
}

#[test]
fn who_forges_a_members_address_does_not_silence_it() {
    let mut sim = started(43, 3, Watch::default());
    let beat = forged(&mut sim);
    for _ in 0..100 {
        for _ in 0..100 {
            sim.inject(0, 1, &beat);
        }
        sim.run(MS * 20);
    }
    assert_eq!(refusals(&sim, [RejectReason::WrongKey, RejectReason::Throttled, RejectReason::Replay]), [10_000, 0, 0]);
    assert_eq!(sim.watcher(0).stats().suspicions, 0);
}

#[test]
fn no_key_is_tried_on_what_the_clear_header_gives_away() {
    let mut sim = started(44, 3, Watch::default());
    let beat = forged(&mut sim);
    // The sender's id, its session, the recipient's; and a datagram too short to be sealed.
    for place in [1, 17, 25] {
        let mut other = beat.clone();
        other[place] ^= 1;
        sim.inject(0, 1, &other);
    }
    sim.inject(0, 1, &beat[..beat.len() - 6]);
    let reasons = [RejectReason::WrongSession, RejectReason::Malformed, RejectReason::WrongKey];
    assert_eq!(refusals(&sim, reasons), [3, 1, 0]);
}

/// Bytes a second and node that an idle cluster sends, headers included: gossip and watch.
fn idle_traffic(size: usize) -> [usize; 2] {
    // All at once: what comes in one packet is taken in at once, and joining is not what is measured.
    let mut sim = Sim::started(50, size);
    sim.converge(120 * SECOND);
    sim.run(10 * SECOND);
    sim.wire.clear();
    sim.run(5 * SECOND);
    let sum = |kind: usize| sim.wire.values().map(|bytes| bytes[kind]).sum::<usize>() / (5 * size);
    let most = sim.wire.values().map(|bytes| bytes[0] + bytes[1]).max().unwrap_or(0) / 5;
    println!("{size} nodes: gossip {} B/s, watch {} B/s a node; the busiest {most} B/s", sum(0), sum(1));
    [sum(0), sum(1)]
}

#[test]
fn idle_traffic_does_not_grow_with_the_cluster() {
    for size in [10, 60] {
        let [gossip, watch] = idle_traffic(size);
        assert!(gossip + watch <= 20 * 1024, "{gossip} + {watch}");
    }
}

/// Minutes unless optimised: `cargo test --release -p crier-membership idle_traffic_of_a_thousand -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes unless optimised"]
fn idle_traffic_of_a_thousand_nodes_is_that_of_ten() {
    let all = [10, 100, 1000].map(idle_traffic);
    assert!(all.iter().all(|[gossip, watch]| gossip + watch <= 20 * 1024), "{all:?}");
}
