//! Nothing fails: who sees a failure all the same, and what does it cost? At rest, or with all processors loaded.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use e2e::{
    bench::{self, Output},
    longlived::{Fate, LongLived},
    pods::received,
    scenario::{Cluster, WEB},
};
use serde::{Deserialize, Serialize};

use crate::{
    record::{self, Record},
    stress::Stress,
    system::crier,
    table,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Timers {
    Default,
    Fast,
    Both,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long, for each setting of the timers.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// 50 ms x 3, 10 ms x 3, or one after the other.
    #[arg(long, value_enum, default_value_t = Timers::Both)]
    timers: Timers,
    /// Workers of `stress-ng --cpu`; by default one for each processor, 0: at rest.
    #[arg(long)]
    stress: Option<usize>,
    /// Long-lived connections.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// Fail on a takeover at default timers, and at any on a lost request, a duplicate or a broken connection.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: Output,
}

/// What came of a soak.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Soaked {
    /// `default` or `fast`.
    pub(crate) timers: String,
    /// The heartbeat's interval in milliseconds.
    pub(crate) interval: u64,
    /// Workers of `stress-ng --cpu`.
    pub(crate) workers: usize,
    /// How many processors they had, on average.
    pub(crate) stressed: f64,
    pub(crate) minutes: f64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Requests that reached pods twice.
    pub(crate) duplicates: u64,
    /// The longest gap between requests served.
    #[serde(rename = "outage_us", with = "crate::micros")]
    pub(crate) outage: Duration,
    #[serde(rename = "stalled_us", with = "crate::micros")]
    pub(crate) stalled: Duration,
    pub(crate) counted: Counted,
    pub(crate) survived: usize,
    pub(crate) connections: usize,
    /// The machine's, at the end.
    pub(crate) load: String,
}

/// What the agents have counted, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Changes of the VIPs' owners, as each agent saw them.
    pub(crate) takeovers: f64,
    /// Members said to be down, likewise.
    pub(crate) downs: f64,
    /// Members in doubt that were heard after all.
    pub(crate) alarms: f64,
}

impl Counted {
    fn by(cluster: &Cluster) -> Result<Self> {
        let mut all = Self::default();
        for agent in &cluster.agents {
            let metrics = agent.metrics()?;
            all.takeovers += metrics.metric("crier_vip_transitions_total").sum();
            all.downs += metrics.metric("crier_member_transitions_total").label("to", "down").sum();
            all.alarms += metrics.metric("crier_watch_false_alarms_total").sum();
        }
        Ok(all)
    }

    fn since(self, before: Self) -> Self {
        Self {
            takeovers: self.takeovers - before.takeovers,
            downs: self.downs - before.downs,
            alarms: self.alarms - before.alarms,
        }
    }
}

impl Soaked {
    fn check(&self) -> Result<()> {
        let Counted { takeovers, .. } = self.counted;
        ensure!(takeovers == 0.0 || self.timers == "fast", "{takeovers} takeovers though nothing failed");
        ensure!((self.lost, self.duplicates) == (0, 0), "{} lost, {} duplicates", self.lost, self.duplicates);
        let broken = self.connections - self.survived;
        ensure!(broken == 0, "{broken} of {} connections broke", self.connections);
        Ok(())
    }
}

/// How often progress is told.
const TELL: Duration = Duration::from_secs(20);

fn soak(timers: &str, interval: u64, options: &Options, workers: usize) -> Result<Soaked> {
    let cluster = crier("bench-soak", interval)?;
    let vip = cluster.vip4();
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let before = Counted::by(&cluster)?;
    let mut stress = Stress::start(workers, time)?;
    let connections = LongLived::open(&cluster.client().ns, (vip, WEB).into(), options.connections)?;
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(TELL.min(time.saturating_sub(start.elapsed())));
        let Counted { takeovers, downs, alarms } = Counted::by(&cluster)?.since(before);
        // Of those that are not answered most are on their way, or not read yet.
        let (sent, answered) = (load.sent(), load.answered());
        eprintln!(
            "  {timers}: {:.0} of {:.0} s; {sent} requests, {} unanswered, {} duplicates; {alarms} false alarms, {downs} \
             downs, {takeovers} takeovers; {}{}",
            start.elapsed().as_secs_f64(),
            time.as_secs_f64(),
            sent.saturating_sub(answered),
            received(&cluster.pods, load.run()).duplicates,
            stress.as_mut().map(Stress::told).transpose()?.unwrap_or_default(),
            bench::load()
        );
    }
    let report = load.stop()?;
    let busy = bench::load();
    let stressed = stress.as_mut().map(Stress::processors).transpose()?.unwrap_or_default();
    drop(stress);
    let ended = connections.finish()?;
    let counted = Counted::by(&cluster)?.since(before);
    Ok(Soaked {
        timers: timers.to_owned(),
        interval,
        workers,
        stressed,
        minutes: time.as_secs_f64() / 60.0,
        sent: report.sent,
        lost: report.lost,
        duplicates: received(&cluster.pods, report.run).duplicates.max(report.duplicates),
        outage: report.outage,
        stalled: report.stalled,
        counted,
        survived: ended.iter().filter(|end| end.fate == Fate::Survived).count(),
        connections: ended.len(),
        load: busy,
    })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workers = options.stress.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let text = format!("--minutes {} --stress {workers}", options.minutes);
    let mut book = record::open(&options.output, "soak", &text)?;
    let settings = [("default", 50, Timers::Default), ("fast", 10, Timers::Fast)];
    let wanted = settings.into_iter().filter(|setting| [setting.2, Timers::Both].contains(&options.timers));
    let mut failed = Vec::new();
    for (name, interval, _) in wanted {
        let soaked = soak(name, interval, options, workers)?;
        if let Err(error) = soaked.check() {
            failed.push(format!("{name}: {error:#}"));
        }
        book.write(Record::Soak(soaked))?;
    }
    println!("{}", table::all(&book.records));
    ensure!(!options.check || failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
