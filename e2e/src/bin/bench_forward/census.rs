//! What it costs the agent to count the connections that the kernel program remembers.

use std::time::{Duration, Instant};

use announcer::forward::{Mode, Phase};
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    bed::{Bed, Behind},
    frame::{Family, Segment},
    harness::{Harness, Hook, Packets},
};

/// How many connections there are.
const COLUMNS: [u32; 4] = [0, 1 << 16, 1 << 19, 1 << 20];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often they are counted.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut harness = Harness::load()?;
    let bed = Bed::new(Mode::Tc, Behind::Pods(100))?;
    println!("| connections in use | counted in ms |\n|---|---|");
    for flows in COLUMNS {
        for segment in [Segment::Syn, Segment::Ack] {
            let shape = Bed::to_vip(Family::V4, segment);
            if flows > 0 {
                let packets = Packets { shape: &shape, flows, first: 0, count: flows };
                bed.run(&mut harness, Hook::TcIn, bed.program(Hook::TcIn)?, packets)?;
            }
        }
        let table = bed.flow_table().context("no flow table")?;
        let mut times = Vec::new();
        for _ in 0..options.rounds.max(1) {
            let start = Instant::now();
            let tally = table.tally()?;
            times.push(start.elapsed());
            let found = tally.phases.get(&Phase::Established).copied().unwrap_or_default();
            ensure!(found.abs_diff(flows.into()) <= u64::from(flows / 1000), "{found} of {flows} connections");
        }
        times.sort_unstable();
        let ms = |at: usize| times.get(at).map(Duration::as_secs_f64).unwrap_or_default() * 1e3;
        println!("| {flows} | {:.1} ({:.1}..{:.1}) |", ms(times.len() / 2), ms(0), ms(times.len() - 1));
    }
    Ok(())
}
