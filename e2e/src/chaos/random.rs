//! Random mode: compositions of faults that nobody thought of, for as long as one likes.
//!
//! After each fault, or after several in a row, the invariants of what is then in force must hold; after each heal, those
//! of a whole cluster. No bounds on outages: nothing is promised for three faults at once, but that it ends well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, rngs::StdRng};

use super::{invariants, run::generator, scenario::Bed, stage::Stage, world::World};

/// Does something random to a node that nothing has been done to yet.
fn strike(world: &mut World) -> Result<()> {
    let node = world.any()?;
    match world.random.random_range(0..9) {
        0 => world.cut(&node),
        1 => world.link_down(&node),
        2 => world.kill(&node),
        3 => world.terminate(&node),
        4 => world.freeze(&node),
        5 => {
            let percent = world.random.random_range(5..40);
            world.lose(&node, percent)
        }
        6 => world.mute(&node),
        7 => world.deafen(&node),
        _ => world.set_apart(&node, true),
    }
}

fn round(stage: &Stage, random: StdRng) -> Result<String> {
    let cluster = &stage.cluster;
    let mut world = World::new(cluster, random, cluster.vip4());
    let strikes = world.random.random_range(1..cluster.agents.len());
    let mut outcome = Ok(());
    for _ in 0..strikes {
        outcome = outcome.and_then(|()| strike(&mut world));
        world.pass(0..1500);
        // Sometimes the next fault comes before the last has settled.
        if world.random.random_range(0..3) > 0 {
            outcome = outcome.and_then(|()| invariants::in_force(&world));
        }
    }
    let said: Vec<_> = world.events().iter().map(|(_, what)| what.clone()).collect();
    let said = said.join(", ");
    outcome
        .and(world.heal())
        .and_then(|()| invariants::settle(cluster))
        .and_then(|owners| invariants::on_the_wire(cluster, &owners))
        .with_context(|| format!("after {said}"))?;
    Ok(said)
}

/// Plays random rounds for `time`, under load.
///
/// # Errors
/// At the first round after which something does not hold: with what was done.
pub fn play(seed: u64, time: Duration, say: impl Fn(&str)) -> Result<()> {
    let mut stage = Stage::build(Bed::Three)?;
    let cluster = &stage.cluster;
    let load = cluster.udp_load(cluster.vip4()).per_second(200).start(&cluster.client().ns)?;
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < time {
        rounds += 1;
        let began = Instant::now();
        let said = round(&stage, generator(seed, "random", rounds))?;
        let complaints = stage.complaints(&[]);
        ensure!(complaints.is_empty(), "after {said}: {complaints:#?}");
        stage.ledger.note(&stage.cluster)?;
        let (at, took) = (start.elapsed().as_secs_f64(), began.elapsed().as_secs_f64());
        say(&format!("{at:5.0} s  round {rounds}: {said}: settled, {took:.1} s"));
    }
    let leaks = stage.ledger.leaks();
    ensure!(leaks.is_empty(), "{leaks:#?}");
    let report = load.stop()?;
    say(&format!(
        "{rounds} rounds; {} of {} requests answered; longest outage {:?}",
        report.answered, report.sent, report.outage
    ));
    // Faults that leave the client without a healthy node, or a lone node in doubt, take most of the time of a bad seed.
    ensure!(report.answered > report.sent / 10, "hardly anything was served");
    Ok(())
}
