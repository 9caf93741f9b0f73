//! `make chaos`: scenarios under traffic, what must hold after each, and a report with plots.
//!
//! The seed is printed first, and repeats the run, or one scenario of it. Exit code 1 if anything did not hold; the other
//! scenarios are played all the same, unless told otherwise.
#![expect(clippy::disallowed_methods, reason = "edge: drives real agents in real time")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{ArgAction, Parser};
use e2e::chaos::{
    random,
    report::{Run, machine},
    run::round,
    scenario::{ALL, Bed, Scenario},
    stage::Stage,
};

#[derive(Parser)]
#[command(about = "Breaks clusters of real agents and checks what must hold; needs root.")]
struct Arguments {
    /// What chance draws from; by default a number nobody has seen.
    #[arg(long)]
    seed: Option<u64>,
    /// Only scenarios with these names, comma-separated.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only the short set.
    #[arg(long)]
    short: bool,
    /// Rounds of each scenario.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Stretches the bounds, for machines on which everything takes longer.
    #[arg(long, default_value_t = 1.0)]
    slack: f64,
    /// After a failure, go on with the other scenarios.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    keep_going: bool,
    /// Where the report goes.
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// Instead of the scenarios, random compositions for so many minutes.
    #[arg(long)]
    random: Option<f64>,
    /// Prints the names of the scenarios.
    #[arg(long)]
    list: bool,
}

impl Arguments {
    fn scenarios(&self) -> Result<Vec<&'static Scenario>> {
        for name in &self.only {
            ensure!(ALL.iter().any(|scenario| scenario.name == name), "there is no scenario {name}: try --list");
        }
        let wanted = |scenario: &&Scenario| {
            (self.only.is_empty() || self.only.iter().any(|name| name == scenario.name))
                && (!self.short || scenario.short)
        };
        Ok(ALL.iter().filter(wanted).collect())
    }
}

/// The stage that plays on, and what is known so far.
struct Director<'a> {
    arguments: &'a Arguments,
    run: Run,
    stage: Option<(Bed, Stage)>,
    start: Instant,
}

impl Director<'_> {
    /// The stage with this bed; a new one if there is none, or another.
    fn stage(&mut self, bed: Bed) -> Result<&mut Stage> {
        if self.stage.as_ref().is_none_or(|(present, _)| *present != bed) {
            self.strike_stage();
            self.stage = Some((bed, Stage::build(bed)?));
        }
        let stage = self.stage.as_mut().map(|(_, stage)| stage);
        stage.ok_or_else(|| anyhow::anyhow!("no stage"))
    }

    /// Takes the stage down, and the account of what its agents held.
    fn strike_stage(&mut self) {
        if let Some((_, stage)) = self.stage.take() {
            self.run.holdings.extend(stage.ledger.lines());
            self.run.failures.extend(stage.ledger.leaks());
        }
    }

    /// Plays a round; whether all held.
    fn play(&mut self, scenario: &Scenario, number: u32) -> bool {
        let (seed, slack) = (self.run.seed, self.arguments.slack);
        let played = self.stage(scenario.bed).and_then(|stage| round(stage, scenario, number, seed, slack));
        let at = self.start.elapsed().as_secs_f64();
        let failed = match played {
            Ok(outcome) => {
                let verdict = if outcome.failures.is_empty() { "holds" } else { "FAILED" };
                let spread = outcome.spread.map_or(String::new(), |spread| format!(", spread {spread:.0} ms"));
                println!(
                    "{at:5.0} s  {:20} {number}: {verdict}; outage {:.0} ms{spread}, {} of {} lost, settled in {:.1} s",
                    scenario.name, outcome.outage, outcome.lost, outcome.sent, outcome.settling
                );
                outcome.failures.iter().for_each(|failure| println!("         {failure}"));
                let failed = !outcome.failures.is_empty();
                self.run.outcomes.push(outcome);
                failed
            }
            Err(error) => {
                let failure =
                    format!("{}, round {number} (SEED={seed}): could not be played: {error:#}", scenario.name);
                println!("{at:5.0} s  {failure}");
                self.run.failures.push(failure);
                true
            }
        };
        if failed {
            self.keep_logs(scenario.name, number);
            // The next round is not to suffer from this one.
            self.strike_stage();
        }
        !failed
    }

    fn keep_logs(&self, scenario: &str, number: u32) {
        let Some((_, stage)) = &self.stage else { return };
        let folder = self.arguments.out.join("logs");
        match stage.keep_logs(&folder, &format!("{scenario}-{number}")) {
            Ok(()) => println!("         logs: {}/{scenario}-{number}-*.log", folder.display()),
            Err(error) => println!("         logs could not be kept: {error:#}"),
        }
    }

    fn play_all(&mut self) -> Result<()> {
        for scenario in self.arguments.scenarios()? {
            if let Err(why) = (scenario.needs)() {
                println!("         {} is skipped: {why:#}", scenario.name);
                self.run.skipped.push((scenario.name.to_owned(), format!("{why:#}")));
                continue;
            }
            for number in 1..=self.arguments.rounds {
                if !self.play(scenario, number) && !self.arguments.keep_going {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn tell(run: &Run, out: &Path) -> Result<ExitCode> {
    run.write(out)?;
    println!("\n{}\nReport: {}", run.table(), out.join("report.html").display());
    let failures = run.all_failures();
    failures.iter().for_each(|failure| println!("BROKEN {failure}"));
    if !failures.is_empty() {
        println!("Repeat with SEED={}; logs of the agents: {}", run.seed, out.join("logs").display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        ALL.iter().for_each(|scenario| println!("{:20} {}", scenario.name, scenario.what));
        return Ok(ExitCode::SUCCESS);
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("chaos: SEED={seed}");
    if let Some(minutes) = arguments.random {
        let played = random::play(seed, Duration::from_secs_f64(minutes * 60.0), |line| println!("{line}"));
        return Ok(played.map_or_else(
            |error| {
                println!("BROKEN (SEED={seed}): {error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        ));
    }
    let run = Run { seed, slack: arguments.slack, machine: machine(), ..Run::default() };
    let mut director = Director { arguments: &arguments, run, stage: None, start: Instant::now() };
    director.play_all()?;
    director.strike_stage();
    tell(&director.run, &arguments.out)
}
