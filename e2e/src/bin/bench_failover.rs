//! `make bench-failover`: how long a client is not served when the owner of its VIP fails, in four ways.
//!
//! Each trial runs a thousand UDP requests a second from 64 source ports and a dozen long-lived TCP connections, and
//! fails the owner at a random phase of its heartbeats. Requests are spread over the pods of all nodes, the failed
//! one included. The table is Markdown.
#![expect(clippy::disallowed_methods, reason = "edge: measures real time")]

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use e2e::{
    longlived::Fate,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[derive(Parser)]
#[command(about = "Measures fail-over of real agents in network namespaces; needs root.")]
struct Arguments {
    /// Trials for each kind of fault.
    #[arg(long, default_value_t = 10)]
    trials: usize,
    /// The heartbeat's interval in milliseconds.
    #[arg(long, default_value_t = 50)]
    interval: u64,
    /// Heartbeats missed before a node is suspected.
    #[arg(long, default_value_t = 3)]
    misses: u32,
    /// Only faults whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// The IPv6 VIP instead of the IPv4 one.
    #[arg(long)]
    ipv6: bool,
}

#[derive(Clone, Copy)]
enum Fault {
    LinkDown,
    Cut,
    Kill,
    Terminate,
}

impl Fault {
    const ALL: [Self; 4] = [Self::LinkDown, Self::Cut, Self::Kill, Self::Terminate];

    fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link down",
            Self::Cut => "cut off, link up",
            Self::Kill => "agent killed (SIGKILL)",
            Self::Terminate => "agent stopped (SIGTERM)",
        }
    }

    fn strike(self, cluster: &Cluster, node: &str) -> Result<()> {
        match self {
            Self::LinkDown => cluster.lan.link_down(node),
            Self::Cut => cluster.lan.cut(node),
            Self::Kill => cluster.agent(node)?.kill(),
            Self::Terminate => cluster.agent(node)?.terminate(),
        }
    }

    fn undo(self, cluster: &Cluster, node: &str) -> Result<()> {
        match self {
            Self::LinkDown | Self::Cut => cluster.lan.heal(node),
            Self::Kill | Self::Terminate => cluster.agent(node)?.start(),
        }
    }
}

struct Trial {
    outage: Duration,
    slowest: Duration,
    lost: u64,
    duplicates: u64,
    survived: usize,
    broken: usize,
}

fn trial(cluster: &Cluster, fault: Fault, arguments: &Arguments, random: &mut StdRng) -> Result<Trial> {
    let vip = if arguments.ipv6 { cluster.vip6() } else { cluster.vip4() };
    let owner = cluster.owner(vip)?;
    let connections = cluster.long_lived(vip, 12)?;
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    let answered = |count: u64| {
        let target = load.answered() + count;
        eventually(SETTLE, "requests are answered", || {
            ensure!(load.answered() >= target, "{} of {target}", load.answered());
            Ok(())
        })
    };
    answered(300)?;
    std::thread::sleep(Duration::from_micros(random.random_range(0..arguments.interval * 1000)));
    fault.strike(cluster, &owner)?;
    cluster.new_owner(vip, &owner)?;
    answered(500)?;
    let report = load.stop()?;
    fault.undo(cluster, &owner)?;
    cluster.settle()?;
    let ended = connections.finish()?;
    let elsewhere: Vec<_> = ended.iter().filter(|end| cluster.node_of(&end.pod) != owner).collect();
    let survived = elsewhere.iter().filter(|end| end.fate == Fate::Survived).count();
    Ok(Trial {
        outage: report.outage,
        slowest: report.slowest,
        lost: report.lost,
        duplicates: report.duplicates,
        survived,
        broken: elsewhere.len() - survived,
    })
}

/// Median, smallest and largest.
fn spread<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> (T, T, T) {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn row(fault: Fault, trials: &[Trial]) -> String {
    let milliseconds = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    let (median, least, most) = spread(trials.iter().map(|trial| trial.outage));
    let (lost, _, most_lost) = spread(trials.iter().map(|trial| trial.lost));
    let (slow, _, slowest) = spread(trials.iter().map(|trial| trial.slowest));
    let sum = |count: fn(&Trial) -> usize| trials.iter().map(count).sum::<usize>();
    format!(
        "| {} | {} | {} / {} / {} | {lost} / {most_lost} | {} / {} | {} | {} / {} |",
        fault.name(),
        trials.len(),
        milliseconds(median),
        milliseconds(least),
        milliseconds(most),
        milliseconds(slow),
        milliseconds(slowest),
        trials.iter().map(|trial| trial.duplicates).sum::<u64>(),
        sum(|trial| trial.broken),
        sum(|trial| trial.survived),
    )
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut random = StdRng::seed_from_u64(1);
    let mut table = vec![
        format!("Heartbeats each {} ms, {} missed.\n", arguments.interval, arguments.misses),
        "| fault on the owner | trials | outage ms (median / min / max) | requests lost (median / max) | slowest answer ms (median / max) | duplicates \
         | long-lived connections to pods elsewhere (broken / survived) |"
            .to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for fault in Fault::ALL.into_iter().filter(|fault| fault.name().contains(&arguments.only)) {
        let cluster = Cluster::three("bench-failover")
            .service(web().tcp(WEB).udp(DNS).dual_stack())
            .watch(Duration::from_millis(arguments.interval), arguments.misses)
            .quiet()
            .start()?;
        let mut trials = Vec::new();
        for number in 1..=arguments.trials {
            let result = trial(&cluster, fault, &arguments, &mut random)?;
            eprintln!("{} {number}/{}: {:?}, {} lost", fault.name(), arguments.trials, result.outage, result.lost);
            trials.push(result);
        }
        table.push(row(fault, &trials));
    }
    println!("{}", table.join("\n"));
    Ok(())
}
