//! Nothing fails: who sees a failure all the same, and what does it cost? At rest, or with all processors loaded.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use e2e::{
    longlived::{Fate, LongLived},
    pods::received,
    scenario::{Cluster, WEB},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{system::crier, table};

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
}

/// stress-ng, until it is dropped.
struct Stress(Child);

impl Stress {
    fn start(workers: usize, time: Duration) -> Result<Option<Self>> {
        if workers == 0 {
            return Ok(None);
        }
        // Should this process be killed, it ends by itself.
        let timeout = format!("{}s", time.as_secs() + 60);
        let mut command = Command::new("stress-ng");
        command.args(["--quiet", "--cpu", &workers.to_string(), "--timeout", &timeout]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Some(Self(child.context("stress-ng is not installed: `apt-get install stress-ng`, or --stress 0")?)))
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// What the agents have counted until now.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    takeovers: f64,
    downs: f64,
}

impl Counted {
    fn by(cluster: &Cluster) -> Result<Self> {
        let mut all = Self::default();
        for agent in &cluster.agents {
            let metrics = agent.metrics()?;
            all.takeovers += metrics.metric("crier_vip_transitions_total").sum();
            all.downs += metrics.metric("crier_member_transitions_total").label("to", "down").sum();
        }
        Ok(all)
    }
}

fn soak(name: &str, interval: u64, options: &Options, workers: usize) -> Result<String> {
    let cluster = crier("bench-soak", interval)?;
    let vip = cluster.vip4();
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let before = Counted::by(&cluster)?;
    let stress = Stress::start(workers, time)?;
    let connections = LongLived::open(&cluster.client().ns, (vip, WEB).into(), options.connections)?;
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_secs(20).min(time.saturating_sub(start.elapsed())));
        eprintln!("  {name}: {:.0} s, {} answered, {}", start.elapsed().as_secs_f64(), load.answered(), table::load());
    }
    let report = load.stop()?;
    let busy = table::load();
    drop(stress);
    let ended = connections.finish()?;
    let after = Counted::by(&cluster)?;
    let duplicates = received(&cluster.pods, report.run).duplicates.max(report.duplicates);
    let survived = ended.iter().filter(|end| end.fate == Fate::Survived).count();
    let (takeovers, downs) = (after.takeovers - before.takeovers, after.downs - before.downs);
    eprintln!("  {name}: {report:?}");
    if options.check {
        ensure!(takeovers == 0.0 || name == "fast", "{takeovers} takeovers though nothing failed");
        ensure!((report.lost, duplicates) == (0, 0), "{} lost, {duplicates} duplicates", report.lost);
        ensure!(survived == ended.len(), "{} of {} connections broke", ended.len() - survived, ended.len());
    }
    Ok(format!(
        "| {name} ({interval} ms x 3) | {workers} | {:.1} | {} | {} | {duplicates} | {} | {} | {takeovers} | {downs} | {survived} / {} | {busy} |",
        time.as_secs_f64() / 60.0,
        report.sent,
        report.lost,
        table::ms(report.outage),
        table::ms(report.stalled),
        ended.len(),
    ))
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workers = options.stress.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let settings = [("default", 50, Timers::Default), ("fast", 10, Timers::Fast)];
    let wanted = settings.into_iter().filter(|setting| [setting.2, Timers::Both].contains(&options.timers));
    let mut rows = Vec::new();
    for (name, interval, _) in wanted {
        rows.push(soak(name, interval, options, workers)?);
    }
    println!(
        "\n| timers | stress-ng workers | minutes | requests | lost | duplicates | longest gap ms | prober stalled ms (max) \
         | takeovers | members said down | connections survived | load |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n{}",
        rows.join("\n")
    );
    Ok(())
}
