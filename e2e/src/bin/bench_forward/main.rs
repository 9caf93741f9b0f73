//! `make bench-forward`: what carrying packets costs.
//!
//! [`packets`]: nanoseconds a packet of each eBPF program alone, run by a [`harness`] on a [`bed`] with [`frame`]s of
//! many clients. [`live`]: frames that XDP really sends. [`wire`]: whole hosts, side by side with the kernel's own means.
//! [`update`]: what a change costs the agent; [`census`]: what it costs to count connections. What comes of it is kept in files of [`record`]s, of which [`table`] makes
//! Markdown. Progress goes to standard error, tables to standard output.
#![expect(clippy::disallowed_methods, reason = "edge: measures real time")]

mod bed;
mod census;
mod frame;
mod harness;
mod live;
mod packets;
mod plan;
mod record;
mod table;
mod update;
mod wire;

use std::time::SystemTime;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::record::Record;

#[derive(Parser)]
#[command(about = "Measures what carrying packets costs, in network namespaces; needs root.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nanoseconds a packet of each eBPF program alone.
    Packets(packets::Options),
    /// Millions of frames a second that an XDP program sends back.
    Live(live::Options),
    /// What one pod more costs the agent.
    Update(update::Options),
    /// Packets, connections and round trips through a node, side by side with the kernel's own means.
    Wire(wire::Options),
    /// What a flood of one VIP costs the clients of another, side by side with the kernel's own means.
    Flood(wire::flood::Options),
    /// How long the agent takes to count the connections that are remembered.
    Census(census::Options),
    /// Prints the tables of what was measured before, also of a run that was interrupted.
    Table(record::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Packets(options) => packets::run(&options),
        Command::Live(options) => live::run(&options),
        Command::Update(options) => update::run(&options),
        Command::Wire(options) => wire::run(&options),
        Command::Flood(options) => wire::flood::run(&options),
        Command::Census(options) => census::run(&options),
        Command::Table(options) => record::tabulate(&options),
    }
}

/// What a sitting begins with.
fn sitting(options: &str) -> Record {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Record::Sitting { machine: e2e::bench::machine(), options: options.to_owned(), unix }
}
