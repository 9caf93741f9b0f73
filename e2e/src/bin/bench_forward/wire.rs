//! Whole hosts: a client, a node that balances, and two nodes that serve, on one switch.
//!
//! ```text
//!   c1 -> switch -> n1 -> switch -> n2 or n3
//! ```
//! Everything that sends is on the first CPU, with all that the kernel does for it in between; the servers are on the
//! last. Contenders take turns in each round. [`flood`] has clients of one VIP beside a flood of another.

mod blast;
mod connections;
pub(crate) mod flood;
mod side;

use anyhow::{Context, Result};
use clap::Args;
use e2e::bench::{Book, Output, load};

use self::{
    blast::{Blast, arrived},
    connections::Server,
    side::{Contender, Side},
};
use crate::{
    record::{Record, Wire},
    sitting, table,
};

/// From how many ports datagrams are sent.
pub(crate) const FLOWS: [u32; 2] = [1, 1 << 16];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only contenders in whose names this is.
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

/// One contender, once.
fn measure(side: &mut Side, contender: Contender, seconds: f64) -> Result<Wire> {
    side.put(contender)?;
    let servers = side.servers().map(|host| Server::start(&host.ns)).collect::<Result<Vec<_>>>()?;
    let (client, target) = (side.client(), side.target(contender));
    connections::one(&client.ns, target.tcp[0]).context("one connection")?;
    let mut kilo_packets = Vec::new();
    for flows in FLOWS {
        let before = side.servers().map(|host| arrived(&host.ns)).sum::<Result<u64>>()?;
        let blast = Blast { from: client, through: side.balancer().mac, targets: &target.udp, flows };
        let spent = blast.run(seconds)?;
        let after = side.servers().map(|host| arrived(&host.ns)).sum::<Result<u64>>()?;
        kilo_packets.push((after - before) as f64 / spent / 1e3);
    }
    let connections = connections::many(&client.ns, &target.tcp, seconds)?;
    let round_trip_micros = connections::round_trip(&client.ns, target.tcp[0])?;
    drop(servers);
    Ok(Wire { contender: contender.name().to_owned(), kilo_packets, connections, round_trip_micros })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut book = Book::open(&options.output, "forward/wire")?;
    book.write(sitting(&format!("wire --rounds {} --seconds {}", options.rounds, options.seconds)))?;
    let mut sides = Side::all(&options.only)?;
    for round in 1..=options.rounds {
        for side in &mut sides {
            for contender in side.contenders(&options.only) {
                let wire = measure(side, contender, options.seconds).with_context(|| contender.name().to_owned())?;
                book.write(Record::Wire(wire))?;
            }
        }
        eprintln!("  round {round} of {}; {}", options.rounds, load());
    }
    println!("{}", table::all(&book.records));
    Ok(())
}
