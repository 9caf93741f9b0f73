//! Large clusters and long troubles.

use super::*;
use crate::{Claim, Facts};

const SECOND: Duration = Duration::from_secs(1);

/// A node says something that it never said before.
fn speak(sim: &mut Sim, index: usize, nth: u64) {
    let vip = [10, 0, 9, (nth % 7) as u8].into();
    let claims = BTreeMap::from([(vip, Claim { epoch: nth, since_ms: index as u64, standby: 0 })]);
    sim.command(index, Command::SetClaims(claims));
    sim.command(
        index,
        Command::SetFacts(Facts { draining: nth.is_multiple_of(2), forwarding: true, ..Facts::default() }),
    );
}

#[test]
fn a_hundred_nodes_agree_again_after_each_fault() {
    const SIZE: usize = 100;
    let mut sim = Sim::started(100, SIZE);
    for index in 0..SIZE {
        speak(&mut sim, index, 1);
    }
    println!("together in {:?}", sim.converge(20 * SECOND));

    sim.weather = FOUL;
    sim.run(2 * SECOND);
    speak(&mut sim, 17, 2);
    println!("one cell spread in foul weather in {:?}", sim.converge(10 * SECOND));
    sim.weather = FAIR;

    for index in 90..SIZE {
        sim.crash(index);
    }
    println!("ten dead known to all in {:?}", sim.converge(10 * SECOND));

    for index in 90..95 {
        sim.boot(index, config(index, 2000));
        speak(&mut sim, index, 3);
    }
    println!("five restarted in {:?}", sim.converge(10 * SECOND));

    let (left, right): (Vec<_>, Vec<_>) = sim.living().into_iter().partition(|index| index % 3 == 0);
    sim.partition(&left, &right);
    sim.run(5 * SECOND);
    speak(&mut sim, left[1], 4);
    speak(&mut sim, right[1], 4);
    sim.heal();
    println!("partition healed in {:?}", sim.converge(20 * SECOND));

    for &index in &left[1..4] {
        sim.command(index, Command::Leave);
        sim.run(Duration::from_millis(20));
        sim.crash(index);
    }
    println!("three left in {:?}", sim.converge(10 * SECOND));
}

/// All timings follow from the interval, so a slower watch tests the same with less to seal. Peers are remembered, as
/// on disk: a node that restarts while its only seed is dead could not find anybody else.
fn unhurried(index: usize, generation: u64) -> Config {
    Config {
        watch: Watch { interval: Duration::from_millis(250), misses: 3 },
        remembered: (0..12).map(address).collect(),
        ..config(index, generation)
    }
}

/// An hour of faults on twelve nodes, drawn from `seed`; then peace, and agreement.
fn hour(seed: u64) -> u64 {
    const SIZE: usize = 12;
    println!("seed {seed}");
    let mut sim = Sim::new(seed);
    for index in 0..SIZE {
        sim.boot(index, unhurried(index, 1000));
    }
    let mut dice = StdRng::seed_from_u64(seed);
    let mut lives = [1000; SIZE];
    for nth in 0.. {
        let elapsed = sim.now - sim.start;
        if elapsed >= Duration::from_secs(3600) {
            break;
        }
        let index = dice.random_range(0..SIZE);
        match dice.random_range(0..8) {
            0 => sim.crash(index),
            1 | 2 => {
                lives[index] += 1;
                sim.boot(index, unhurried(index, lives[index]));
            }
            3 => {
                let side: Vec<_> = (0..SIZE).filter(|_| dice.random()).collect();
                let other: Vec<_> = (0..SIZE).filter(|index| !side.contains(index)).collect();
                sim.partition(&side, &other);
            }
            4 => sim.cut(index, dice.random_range(0..SIZE)),
            5 => sim.weather = if dice.random() { FOUL } else { FAIR },
            _ => speak(&mut sim, index, nth),
        }
        sim.run(dice.random_range(Duration::ZERO..20 * SECOND));
        if dice.random_bool(0.3) {
            sim.heal();
        }
    }
    sim.heal();
    sim.weather = FAIR;
    println!("seed {seed}: agreed {:?} after the last fault", sim.converge(20 * SECOND));
    sim.trace()
}

#[test]
fn an_hour_of_random_faults_ends_in_agreement() {
    for seed in 1..=3 {
        hour(seed);
    }
}
