//! All trials, side by side: the systems take turns trial by trial, so that whatever else the machine does meets all.
//!
//! Each system has one bed, which recovers from its trial (connections judged, fault undone, at rest again) while others
//! have their turn. A trial that tells nothing is *void*: it is written down, its bed is built anew, and it is repeated.

use std::{collections::VecDeque, thread::JoinHandle, time::Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use e2e::{
    bench::{Output, load},
    keepalived,
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    case::Case,
    record::{self, Book, Record},
    system::{Bed, System},
    table,
    trial::{self, Outcome},
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
    #[command(flatten)]
    output: Output,
}

/// A bed at rest, prepared for its next case.
struct Ready {
    bed: Box<dyn Bed>,
    owner: String,
}

/// What came of a turn.
struct Recovered {
    /// The trial, by the number of its case.
    last: Option<(usize, Result<Outcome>)>,
    bed: Result<Ready>,
}

/// The trials of one system, in order, and its bed, on its way to rest.
struct Lane {
    queue: VecDeque<usize>,
    /// How long the queue was.
    trials: usize,
    system: System,
    bed: JoinHandle<Recovered>,
    /// The trial whose connections are being judged meanwhile.
    underway: Option<usize>,
    void: usize,
}

/// So many void trials of a system end its part, or a quarter of its trials if that is more: then it is not chance.
const MAX_VOID: usize = 10;

/// How many void trials of so many are too many.
fn bound(trials: usize) -> usize {
    MAX_VOID.max(trials / 4)
}

/// All that is there to do, and what has come of it.
struct Run {
    cases: Vec<Case>,
    book: Book,
    random: StdRng,
    connections: usize,
    given_up: Vec<&'static str>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut cases = Case::all();
    cases.retain(|case| case.name().contains(&options.only));
    ensure!(!cases.is_empty(), "no case contains {:?}", options.only);
    if cases.iter().any(|case| !case.system.is_crier()) {
        keepalived::installed()?;
    }
    let only = if options.only.is_empty() { String::new() } else { format!(" --only '{}'", options.only) };
    let book = record::open(&options.output, "trials", &format!("--trials {} --seed {seed}{only}", options.trials))?;
    let random = StdRng::seed_from_u64(seed);
    let mut run = Run { cases, book, random, connections: options.connections, given_up: Vec::new() };
    let lanes = run.lanes(options.trials);
    run.play(lanes)?;
    println!("{}", table::all(&run.book.records));
    ensure!(run.given_up.is_empty(), "too many void trials: {}", run.given_up.join(", "));
    Ok(())
}

impl Run {
    /// What is still to be done, each system's trials in an order of chance.
    fn lanes(&mut self, trials: usize) -> Vec<Lane> {
        let is_of =
            |index: usize, record: &Record| matches!(record, Record::Trial { case, .. } if *case == self.cases[index]);
        let done: Vec<_> = (0..self.cases.len())
            .map(|index| self.book.records.iter().filter(|record| is_of(index, record)).count())
            .collect();
        let mut lanes = Vec::new();
        for system in System::ALL {
            let mut queue = VecDeque::new();
            for round in 0..trials {
                let left = |index: &usize| self.cases[*index].system == system && done[*index] + round < trials;
                let mut own: Vec<_> = (0..self.cases.len()).filter(left).collect();
                own.shuffle(&mut self.random);
                queue.extend(own);
            }
            let Some(first) = queue.front().map(|index| self.cases[*index]) else { continue };
            lanes.push(Lane { trials: queue.len(), queue, system, bed: begin(system, first), underway: None, void: 0 });
        }
        lanes
    }

    fn play(&mut self, mut lanes: Vec<Lane>) -> Result<()> {
        let (start, mut done) = (Instant::now(), 0);
        let total: usize = lanes.iter().map(|lane| lane.trials).sum();
        let mut last = None;
        while let Some(at) = next_lane(&lanes, last) {
            let mut lane = lanes.swap_remove(at);
            last = Some(lane.system);
            let recovered = joined(lane.bed, lane.underway.take());
            match recovered.last {
                Some((index, Ok(outcome))) => {
                    done += 1;
                    self.note(index, outcome)?;
                }
                Some((index, Err(error))) => {
                    lane.queue.push_back(index);
                    lane.void += 1;
                    self.void(index, &error)?;
                }
                None => {}
            }
            let Some(index) = lane.queue.front().copied() else { continue };
            let bed = recovered.bed.and_then(|ready| {
                // On a busy machine all probers stall; then a figure beside its stall is better than none.
                let strict = lane.void < bound(lane.trials) / 2;
                self.turn(ready, index, lane.queue.get(1).copied(), strict)
            });
            lane.bed = match bed {
                Ok(bed) => {
                    lane.underway = lane.queue.pop_front();
                    bed
                }
                Err(error) => {
                    lane.void += 1;
                    self.void(index, &error)?;
                    begin(lane.system, self.cases[index])
                }
            };
            if lane.void > bound(lane.trials) {
                eprintln!("  {}: too many void trials, the rest is left out", lane.system.name());
                self.given_up.push(lane.system.name());
                let _ = joined(lane.bed, None);
                continue;
            }
            lanes.push(lane);
            eprintln!("{done} of {total} trials after {:.0} s; {}", start.elapsed().as_secs_f64(), load());
        }
        Ok(())
    }

    fn note(&mut self, index: usize, outcome: Outcome) -> Result<()> {
        eprintln!("  {}: {outcome}", self.cases[index].name());
        self.book.write(Record::Trial { case: self.cases[index], outcome })
    }

    fn void(&mut self, index: usize, error: &anyhow::Error) -> Result<()> {
        eprintln!("  {}: void, is repeated: {error:#}", self.cases[index].name());
        self.book.write(Record::Void { case: self.cases[index], reason: format!("{error:#}") })
    }

    /// Runs a trial; its connections are judged and the bed recovers in the background.
    fn turn(&mut self, ready: Ready, index: usize, next: Option<usize>, strict: bool) -> Result<JoinHandle<Recovered>> {
        let Ready { mut bed, owner } = ready;
        let (case, next) = (self.cases[index], self.cases[next.unwrap_or(index)]);
        let open =
            trial::run(bed.as_mut(), case, &owner, self.connections, &mut self.random).with_context(|| case.name())?;
        Ok(std::thread::spawn(move || {
            let outcome = open.close(bed.as_ref(), case, strict).with_context(|| case.name());
            Recovered { last: Some((index, outcome)), bed: rest(bed, next) }
        }))
    }
}

/// Whose turn it is: of the systems whose beds are at rest the one that is furthest behind, rather not twice in a row.
fn next_lane(lanes: &[Lane], last: Option<System>) -> Option<usize> {
    let behind = |at: &usize| {
        let lane = &lanes[*at];
        let ready = lane.bed.is_finished();
        let progress = (lane.trials - lane.queue.len().min(lane.trials)) * 10_000 / lane.trials;
        (!ready, lanes.len() > 1 && Some(lane.system) == last, progress)
    };
    (0..lanes.len()).min_by_key(behind)
}

/// Builds a bed in the background.
fn begin(system: System, first: Case) -> JoinHandle<Recovered> {
    std::thread::spawn(move || {
        let bed = system.start().with_context(|| system.name());
        Recovered { last: None, bed: bed.and_then(|bed| rest(bed, first)) }
    })
}

fn joined(bed: JoinHandle<Recovered>, underway: Option<usize>) -> Recovered {
    let panicked = || anyhow!("a trial panicked");
    let lost = |_| Recovered { last: underway.map(|index| (index, Err(panicked()))), bed: Err(panicked()) };
    bed.join().unwrap_or_else(lost)
}

/// Prepares a bed and gives it time.
fn rest(mut bed: Box<dyn Bed>, next: Case) -> Result<Ready> {
    let owner = bed.prepare(next.ipv6, next.everywhere).with_context(|| format!("before {}", next.name()))?;
    std::thread::sleep(trial::REST);
    Ok(Ready { bed, owner })
}
