//! `make bench-failover` and `make soak`: how long a client is not served when the owner of its VIP fails, side by side
//! with keepalived in the same bed and run; 100 VIPs at once; what happens when nothing fails.
//!
//! [`system`] is what is measured, [`case`] what is done to it, [`trial`] how once, [`side`] all trials, [`vips`] and
//! [`soak`] the other scenarios. What comes of it is kept in files of [`record`]s, of which [`table`] makes Markdown.
//! Progress goes to standard error, tables to standard output.
#![expect(clippy::disallowed_methods, reason = "edge: measures real time")]

mod case;
mod micros;
mod record;
mod side;
mod soak;
mod stress;
mod system;
mod table;
mod trial;
mod vips;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures fail-over of real agents, and of keepalived, in network namespaces; needs root.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fails owners, of Crier and of keepalived in turn, and tells the client's outage.
    Trials(side::Options),
    /// Cuts the owner of a hundred VIPs: when the first and when the last is served again.
    Vips(vips::Options),
    /// Nothing fails: requests lost and duplicated at rest, or with all processors loaded.
    Soak(soak::Options),
    /// Prints the tables of what was measured before, also of a run that was interrupted.
    Table(record::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Trials(options) => side::run(&options),
        Command::Vips(options) => vips::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Table(options) => record::tabulate(&options),
    }
}
