//! What is measured, as it is kept.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use e2e::bench::{FOLDER, read};
use serde::{Deserialize, Serialize};

use crate::{frame::Family, harness::Hook, table};

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A sitting begins.
    Sitting {
        /// Where and with which build, and how busy the machine was.
        machine: String,
        /// What repeats it.
        options: String,
        /// Seconds since 1970.
        unix: u64,
    },
    /// A run of one program.
    Packets(Timed),
    /// Frames that were really sent, and came back.
    Live(Live),
    /// Changes of what is wanted.
    Update(Update),
    /// One contender in a network.
    Wire(Wire),
    /// One contender's clients while another VIP is flooded.
    Flooded(Flooded),
}

/// What a packet cost in one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// What became of the packets, as the table says it.
    pub(crate) case: String,
    pub(crate) hook: Hook,
    pub(crate) family: Family,
    /// Clients that were asked for: the table's column.
    pub(crate) column: u32,
    /// Clients: less, if the flow table holds no more.
    pub(crate) flows: u32,
    /// Packets.
    pub(crate) packets: u32,
    /// Nanoseconds a packet, without the harness's own.
    pub(crate) nanos: f64,
    /// The harness's own.
    pub(crate) harness: f64,
}

/// Frames that were sent to an XDP program and came back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Live {
    /// Who sent them back.
    pub(crate) contender: String,
    pub(crate) family: Family,
    /// Clients.
    pub(crate) flows: u32,
    pub(crate) sent: u32,
    pub(crate) returned: u64,
    pub(crate) seconds: f64,
}

/// What a pod more behind one of many services cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) services: u32,
    /// To fill empty maps.
    pub(crate) first_writes: usize,
    pub(crate) first_seconds: f64,
    /// Microseconds of each change in the agent's tables alone.
    pub(crate) plan_micros: Vec<f64>,
    /// With the writes to the kernel's maps.
    pub(crate) apply_micros: Vec<f64>,
    /// How many these were.
    pub(crate) writes: Vec<usize>,
    /// What the agent's memory has grown by when it had filled the maps.
    pub(crate) resident_bytes: u64,
    /// What all maps of the program take.
    pub(crate) map_bytes: u64,
}

/// A contender among whole hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wire {
    pub(crate) contender: String,
    /// Thousands of datagrams a second that arrived: of one flow, of many.
    pub(crate) kilo_packets: Vec<f64>,
    /// Connections a second.
    pub(crate) connections: f64,
    /// The median round trip on a connection.
    pub(crate) round_trip_micros: f64,
}

/// A contender's clients while another VIP is flooded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flooded {
    pub(crate) contender: String,
    /// What comes to the other VIP.
    pub(crate) flood: String,
    /// Thousands of it a second that came to that one's pods.
    pub(crate) kilo_packets: f64,
    /// Connections a second.
    pub(crate) connections: f64,
    /// Those that failed.
    pub(crate) failed: u32,
    /// Round trips on a connection in microseconds: the median, the 99th percentile.
    pub(crate) trips: [f64; 2],
}

/// `bench_forward table`: the tables of what the files say.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Files of records; by default all in target/bench/forward.
    files: Vec<PathBuf>,
}

pub(crate) fn tabulate(options: &Options) -> Result<()> {
    let mut files = options.files.clone();
    let folder = format!("{FOLDER}/forward");
    if files.is_empty() {
        let there = fs::read_dir(&folder).with_context(|| format!("there is no {folder}"))?;
        let paths = there.flatten().map(|entry| entry.path());
        files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
        files.sort();
    }
    ensure!(!files.is_empty(), "there are no records in {folder}");
    for file in files {
        println!("{}", table::all(&read::<Record>(&file)?));
    }
    Ok(())
}
