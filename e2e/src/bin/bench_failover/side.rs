//! All trials, side by side: the systems take turns trial by trial, so that whatever else the machine does meets all.
//!
//! Each bed recovers from its trial (connections judged, fault undone, at rest again) while others have their turn.

use std::{collections::VecDeque, thread::JoinHandle, time::Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use e2e::keepalived;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    system::{Bed, Fault, System},
    table::{self, Row},
    trial::{self, Case, Outcome, REST},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Trials of each case.
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Which moments and orders; by default ones nobody has seen.
    #[arg(long)]
    seed: Option<u64>,
    /// Only cases whose name contains this, such as `crier`, `50 ms` or `link lost`.
    #[arg(long, default_value = "")]
    only: String,
    /// Long-lived connections in each trial.
    #[arg(long, default_value_t = 20)]
    connections: usize,
}

/// What is tried: on all systems every fault that they have, and IPv6 and pods everywhere where they tell more.
fn cases(only: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for system in System::ALL {
        let faults = [Fault::LinkDown, Fault::Cut, Fault::Kill, Fault::Hung];
        for fault in faults.into_iter().filter(|fault| system.is_crier() || *fault != Fault::Hung) {
            cases.push(Case { system, fault, ipv6: false, everywhere: false });
        }
        if system != System::Keepalived {
            cases.push(Case { system, fault: Fault::Cut, ipv6: true, everywhere: false });
        }
        if system == System::Crier {
            cases.push(Case { system, fault: Fault::LinkDown, ipv6: true, everywhere: false });
            for fault in [Fault::LinkDown, Fault::Cut] {
                cases.push(Case { system, fault, ipv6: false, everywhere: true });
            }
        }
    }
    cases.retain(|case| case.name().contains(only));
    cases
}

/// A bed at rest, prepared for the next case, and what came of the last.
struct Rested {
    bed: Box<dyn Bed>,
    owner: String,
    last: Option<(usize, Outcome)>,
}

/// The trials of one system, in order, and its bed, on its way to rest.
struct Lane {
    queue: VecDeque<usize>,
    /// How long the queue was.
    trials: usize,
    system: System,
    bed: JoinHandle<Result<Rested>>,
    /// Trials that could not be made, because the bed did not come to rest or the trial not to an end.
    void: usize,
}

/// So many void trials of a system end the run: then it is not the machine.
const MAX_VOID: usize = 5;

pub(crate) fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut random = StdRng::seed_from_u64(seed);
    let cases = cases(&options.only);
    ensure!(!cases.is_empty(), "no case contains {:?}", options.only);
    if cases.iter().any(|case| !case.system.is_crier()) {
        keepalived::installed()?;
    }
    println!("\n`--trials {} --seed {seed}`\n", options.trials);
    let mut lanes = Vec::new();
    for system in System::ALL {
        let mut own: Vec<_> = (0..cases.len()).filter(|index| cases[*index].system == system).collect();
        let mut queue = VecDeque::new();
        for _ in 0..options.trials {
            own.shuffle(&mut random);
            queue.extend(&own);
        }
        let Some(first) = queue.front().map(|index| cases[*index]) else { continue };
        lanes.push(Lane { trials: queue.len(), queue, system, bed: begin(system, first), void: 0 });
    }
    let start = Instant::now();
    let mut outcomes = vec![Vec::new(); cases.len()];
    let mut void = 0;
    let total = cases.len() * options.trials;
    let mut last = None;
    while let Some(at) = next_lane(&lanes, last) {
        let mut lane = lanes.swap_remove(at);
        last = Some(lane.system);
        let rested = joined(lane.bed);
        note(&cases, &mut outcomes, rested.as_ref().ok().and_then(|rested| rested.last.clone()));
        let Some(index) = lane.queue.front().copied() else {
            void += lane.void + usize::from(rested.is_err());
            continue;
        };
        let case = cases[index];
        let next = lane.queue.get(1).map_or(case, |next| cases[*next]);
        let bed = rested.and_then(|rested| turn(rested, (index, case), next, options.connections, &mut random));
        lane.bed = match bed {
            Ok(bed) => {
                lane.queue.pop_front();
                bed
            }
            Err(error) => {
                lane.void += 1;
                eprintln!("  void: {error:#}");
                ensure!(lane.void <= MAX_VOID, "{}: too many void trials, the last: {error:#}", case.name());
                begin(lane.system, case)
            }
        };
        lanes.push(lane);
        let done: usize = outcomes.iter().map(Vec::len).sum();
        eprintln!("{done} of {total} trials after {:.0} s; {}", start.elapsed().as_secs_f64(), table::load());
    }
    let rows: Vec<_> = cases.iter().zip(&outcomes).map(|(case, outcomes)| Row::new(*case, outcomes)).collect();
    println!("{}", table::side_by_side(&rows));
    println!("\n{void} void trials; {:.0} s; {}", start.elapsed().as_secs_f64(), table::load());
    Ok(())
}

/// Whose turn it is: the system that is furthest behind, but not twice in a row, since its bed needs time to recover.
fn next_lane(lanes: &[Lane], last: Option<System>) -> Option<usize> {
    let behind = |at: &usize| {
        let lane = &lanes[*at];
        (lanes.len() > 1 && Some(lane.system) == last, (lane.trials - lane.queue.len()) * 10_000 / lane.trials)
    };
    (0..lanes.len()).min_by_key(behind)
}

/// Builds a bed in the background.
fn begin(system: System, first: Case) -> JoinHandle<Result<Rested>> {
    std::thread::spawn(move || rest(system.start().with_context(|| system.name())?, first, None))
}

fn joined(bed: JoinHandle<Result<Rested>>) -> Result<Rested> {
    bed.join().map_err(|_| anyhow!("a trial panicked"))?
}

fn note(cases: &[Case], outcomes: &mut [Vec<Outcome>], done: Option<(usize, Outcome)>) {
    let Some((index, outcome)) = done else { return };
    eprintln!("  {}: {outcome}", cases[index].name());
    outcomes[index].push(outcome);
}

/// Prepares a bed and gives it time.
fn rest(mut bed: Box<dyn Bed>, next: Case, last: Option<(usize, Outcome)>) -> Result<Rested> {
    let owner = bed.prepare(next.ipv6, next.everywhere).with_context(|| format!("before {}", next.name()))?;
    std::thread::sleep(REST);
    Ok(Rested { bed, owner, last })
}

/// Runs a trial; its connections are judged and the bed recovers in the background.
fn turn(
    rested: Rested,
    (index, case): (usize, Case),
    next: Case,
    connections: usize,
    random: &mut StdRng,
) -> Result<JoinHandle<Result<Rested>>> {
    let Rested { mut bed, owner, .. } = rested;
    let open = trial::run(bed.as_mut(), case, &owner, connections, random).with_context(|| case.name())?;
    Ok(std::thread::spawn(move || {
        let outcome = open.close(bed.as_ref(), case).with_context(|| case.name())?;
        rest(bed, next, Some((index, outcome)))
    }))
}
