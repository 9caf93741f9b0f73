//! `make chaos`: random faults, heals, kills and restarts under traffic, and what must hold after each.
//!
//! After each fault: in every part of the network whose agents live and hear each other, each VIP has one owner, and
//! the client's part is served. After each heal: the whole cluster has one owner for each VIP and is served. The seed
//! is printed first, and repeats the sequence.
#![expect(clippy::disallowed_methods, reason = "edge: drives real agents in real time")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::{
    manifests::{service, web},
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[derive(Parser)]
#[command(about = "Breaks a cluster of real agents at random and checks what must hold; needs root.")]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Which sequence; by default one nobody has seen.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes, 3 to 8.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=8))]
    nodes: u8,
}

/// The state of the world as chaos has made it.
#[derive(Debug, Default)]
struct World {
    /// Nodes that hear nobody, with their links up.
    cut: Vec<String>,
    /// Nodes whose links are down.
    down: Vec<String>,
    /// Nodes whose agents do not run or are frozen.
    dead: Vec<String>,
    frozen: Vec<String>,
    /// Links that lose frames: nothing is promised before they heal.
    lossy: bool,
}

impl World {
    /// The parts of the network in which agents hear each other, the client's part first.
    fn parts(&self, nodes: &[String]) -> Vec<Vec<String>> {
        let gone = |node: &String| self.dead.contains(node) || self.frozen.contains(node) || self.down.contains(node);
        let living = nodes.iter().filter(|node| !gone(node)).cloned();
        let (alone, main): (Vec<_>, Vec<_>) = living.partition(|node| self.cut.contains(node));
        std::iter::once(main).chain(alone.into_iter().map(|node| vec![node])).collect()
    }

    fn is_untouched(&self, node: &String) -> bool {
        [&self.cut, &self.down, &self.dead, &self.frozen].into_iter().all(|nodes| !nodes.contains(node))
    }
}

/// Does something random to a random node that nothing has been done to yet; says what.
fn strike(cluster: &Cluster, world: &mut World, nodes: &[String], random: &mut StdRng) -> Result<String> {
    let free: Vec<_> = nodes.iter().filter(|node| world.is_untouched(node)).cloned().collect();
    let node = free.get(random.random_range(0..free.len().max(1))).context("no node is left to strike")?.clone();
    Ok(match random.random_range(0..7) {
        0 => {
            cluster.lan.cut(&node)?;
            world.cut.push(node.clone());
            format!("cut {node}")
        }
        1 => {
            cluster.lan.link_down(&node)?;
            world.down.push(node.clone());
            format!("link of {node} down")
        }
        2 => {
            cluster.agent(&node)?.kill()?;
            world.dead.push(node.clone());
            format!("agent of {node} killed")
        }
        3 => {
            cluster.agent(&node)?.terminate()?;
            world.dead.push(node.clone());
            format!("agent of {node} stopped")
        }
        4 => {
            cluster.agent(&node)?.freeze()?;
            world.frozen.push(node.clone());
            format!("agent of {node} frozen")
        }
        5 => {
            let percent = random.random_range(5..40);
            cluster.lan.loss(&node, percent)?;
            world.lossy = true;
            format!("{node} loses {percent} %")
        }
        _ => {
            let others: Vec<_> = nodes.iter().map(String::as_str).filter(|name| *name != node).chain(["c1"]).collect();
            cluster.lan.partition(&[&[node.as_str()], &others])?;
            world.cut.push(node.clone());
            format!("{node} apart")
        }
    })
}

fn heal(cluster: &Cluster, world: &mut World) -> Result<()> {
    cluster.lan.heal_all()?;
    world.frozen.iter().try_for_each(|node| cluster.agent(node)?.thaw())?;
    world.dead.iter().try_for_each(|node| cluster.agent(node)?.start())?;
    *world = World::default();
    cluster.settle()
}

/// One owner in each part, and service in the client's.
fn check(cluster: &Cluster, world: &World, nodes: &[String]) -> Result<()> {
    if world.lossy {
        return Ok(());
    }
    let parts = world.parts(nodes);
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let part: Vec<_> = part.iter().map(String::as_str).collect();
        for vip in cluster.vips() {
            eventually(SETTLE, &format!("one owner of {vip} among {part:?}"), || {
                let owner = cluster.agreed_owner(vip, &part)?;
                ensure!(part.contains(&owner.as_str()), "{owner} is not among them");
                Ok(())
            })?;
        }
    }
    if parts.first().is_some_and(|main| !main.is_empty()) {
        for vip in cluster.vips() {
            eventually(SETTLE, &format!("{vip} is served"), || cluster.get(vip).map(drop))?;
        }
    }
    Ok(())
}

fn round(cluster: &Cluster, nodes: &[String], random: &mut StdRng) -> Result<String> {
    let mut world = World::default();
    let mut said = Vec::new();
    for _ in 0..random.random_range(1..nodes.len()) {
        said.push(strike(cluster, &mut world, nodes, random)?);
        std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
        // Sometimes the next fault comes before the last has settled.
        if random.random_range(0..3) > 0 {
            check(cluster, &world, nodes).with_context(|| format!("after {said:?}"))?;
        }
    }
    heal(cluster, &mut world).with_context(|| format!("after {said:?}, healed"))?;
    Ok(said.join(", "))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("chaos: --seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::of("chaos", arguments.nodes)
        .service(web().tcp(WEB).udp(DNS).dual_stack())
        .service(service("second").tcp(WEB))
        .start()?;
    let nodes: Vec<_> = cluster.agents.iter().map(|agent| agent.name.clone()).collect();
    let load = cluster.udp_load(cluster.vip4()).per_second(200).start(&cluster.client().ns)?;
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed().as_secs_f64() < arguments.minutes * 60.0 {
        let began = Instant::now();
        let said =
            round(&cluster, &nodes, &mut random).with_context(|| format!("broken; repeat with --seed {seed}"))?;
        rounds += 1;
        println!(
            "{:5.0} s  round {rounds}: {said}: settled, {:.1} s",
            start.elapsed().as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
    }
    let report = load.stop()?;
    println!(
        "{rounds} rounds; {} of {} requests answered; longest outage {:?}",
        report.answered, report.sent, report.outage
    );
    ensure!(report.answered > report.sent / 3, "hardly anything was served");
    cluster.end_quietly();
    Ok(())
}
