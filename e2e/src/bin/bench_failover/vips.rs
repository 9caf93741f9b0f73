//! A node dies that owns many VIPs: when the client gets an answer from the first and from the last of them again.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::{
    bench::{Output, load},
    manifests::{POOL, service},
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::{Load, Transport},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    record::{self, Record},
    table::{self, ms},
    trial::REST,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Trials; each builds its cluster anew.
    #[arg(long, default_value_t = 5)]
    trials: usize,
    /// VIPs, at most 100.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    vips: u8,
    /// The heartbeat's interval in milliseconds; three may be missed.
    #[arg(long, default_value_t = 50)]
    interval: u64,
    /// Pods on all nodes, the one that dies included: then the tables of all services must change too.
    #[arg(long)]
    everywhere: bool,
    /// Which moments; by default ones nobody has seen.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    output: Output,
}

/// What came of a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) vips: u8,
    /// The heartbeat's interval in milliseconds.
    pub(crate) interval: u64,
    pub(crate) everywhere: bool,
    /// How many of the VIPs the node had that was cut.
    pub(crate) owned: usize,
    /// When the first of them was served again.
    #[serde(rename = "first_us", with = "crate::micros")]
    pub(crate) first: Duration,
    #[serde(rename = "last_us", with = "crate::micros")]
    pub(crate) last: Duration,
}

/// The VIPs' last byte begins here.
const FIRST: u8 = 128;
/// Each VIP is asked so often; all together 5,000 times a second.
const EACH: Duration = Duration::from_millis(20);

/// How long the VIPs are asked after the cut.
const WINDOW: Duration = Duration::from_secs(6);

fn cluster(options: &Options) -> Result<Cluster> {
    let mut builder = Cluster::three("bench-vips")
        .nothing_moves_by_itself()
        .watch(Duration::from_millis(options.interval), 3)
        .quiet();
    for number in 0..options.vips {
        let vip = format!("10.77.0.{}", FIRST + number);
        builder = builder.service(service(&format!("s{number}")).tcp(WEB).udp(DNS).at(&[&vip]));
    }
    let mut cluster = builder.build()?;
    for number in 0..if options.everywhere { 0 } else { options.vips } {
        cluster.edit(&format!("s{number}"), |service| service.endpoints.retain(|endpoint| endpoint.node != "n1"))?;
    }
    cluster.manifests.write("pool.yaml", &POOL.replace("10.77.0.100-10.77.0.119", "10.77.0.128-10.77.0.250"))?;
    Ok(cluster)
}

/// Those of `vips` that `node` owns as `asked` sees it.
fn owned(cluster: &Cluster, asked: &str, node: &str) -> Result<Vec<IpAddr>> {
    let status = cluster.agent(asked)?.status()?;
    Ok(status.vips.iter().filter(|vip| vip.owner.as_deref() == Some(node)).map(|vip| vip.address).collect())
}

fn trial(options: &Options, random: &mut StdRng) -> Result<Served> {
    let cluster = cluster(options)?;
    let (first, others) = cluster.agents.split_first().context("no agents")?;
    first.start()?;
    eventually(SETTLE, "the first node owns all VIPs", || {
        ensure!(owned(&cluster, &first.name, &first.name)?.len() == usize::from(options.vips));
        Ok(())
    })?;
    others.iter().try_for_each(e2e::agent::Agent::start)?;
    eventually(SETTLE, "all know all", || {
        for agent in &cluster.agents {
            let status = agent.status()?;
            ensure!(status.up().len() == cluster.agents.len(), "{} sees {:?}", agent.name, status.members);
            ensure!(owned(&cluster, &agent.name, &first.name)?.len() * 2 > usize::from(options.vips));
            agent.get("/readyz")?.ok()?;
        }
        Ok(())
    })?;
    let targets: Vec<_> = cluster.vips().into_iter().map(|vip| SocketAddr::new(vip, DNS)).collect();
    let rate = u32::try_from(targets.len())? * u32::try_from(Duration::from_secs(1).as_millis() / EACH.as_millis())?;
    let load = Load::new(Transport::Udp, targets[0]).per_second(rate).start_on(&cluster.client().ns, &targets)?;
    std::thread::sleep(REST + Duration::from_millis(random.random_range(0..options.interval)));
    let mine = owned(&cluster, &others[0].name, &first.name)?;
    load.mark();
    let fault = Instant::now();
    cluster.lan.cut(&first.name)?;
    std::thread::sleep(WINDOW);
    let report = load.stop()?;
    let mut back = Vec::new();
    for (target, gap) in targets.iter().zip(&report.by_source).filter(|(target, _)| mine.contains(&target.ip())) {
        let after = gap.end.checked_duration_since(fault).unwrap_or_default();
        ensure!(after < WINDOW - Duration::from_millis(100), "{target} was not served again");
        back.push(after);
    }
    let (first, last) = back.iter().min().zip(back.iter().max()).context("the node owned no VIP")?;
    let Options { vips, interval, everywhere, .. } = *options;
    Ok(Served { vips, interval, everywhere, owned: back.len(), first: *first, last: *last })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut random = StdRng::seed_from_u64(seed);
    let everywhere = if options.everywhere { " --everywhere" } else { "" };
    let text = format!(
        "--trials {} --vips {} --interval {}{everywhere} --seed {seed}",
        options.trials, options.vips, options.interval
    );
    let mut book = record::open(&options.output, "vips", &text)?;
    for number in 1..=options.trials {
        let served = trial(options, &mut random)?;
        eprintln!(
            "  {number}/{}: of {} VIPs the first is served after {} ms, the last after {} ms; {}",
            options.trials,
            served.owned,
            ms(served.first),
            ms(served.last),
            load()
        );
        book.write(Record::Vips(served))?;
    }
    println!("{}", table::all(&book.records));
    Ok(())
}
