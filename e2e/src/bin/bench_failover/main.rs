//! `make bench-failover` and `make soak`: how long a client is not served when the owner of its VIP fails, side by side
//! with keepalived in the same bed and run; 100 VIPs at once; what happens when nothing fails.
//!
//! [`system`] is what is measured, [`trial`] how once, [`side`] all trials, [`table`] what comes of them, [`vips`] and
//! [`soak`] the other scenarios. Progress goes to standard error, tables (Markdown) to standard output.
#![expect(clippy::disallowed_methods, reason = "edge: measures real time")]

mod side;
mod soak;
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
}

fn main() -> Result<()> {
    let command = Arguments::parse().command;
    println!("{}", table::machine());
    match command {
        Command::Trials(options) => side::run(&options),
        Command::Vips(options) => vips::run(&options),
        Command::Soak(options) => soak::run(&options),
    }
}
