//! The process that holds a crowd of connections; see [`e2e::crowd`].

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use clap::Parser;

/// Opens connections to a pod's server, prints the pods as JSON, and waits for a line of JSON that ends it.
#[derive(Debug, Parser)]
struct Options {
    /// Where to.
    target: SocketAddr,
    /// How many.
    count: usize,
    /// From record to record, in milliseconds.
    period: u64,
}

fn main() -> Result<()> {
    let Options { target, count, period } = Options::parse();
    e2e::crowd::hold(target, count, Duration::from_millis(period))
}
