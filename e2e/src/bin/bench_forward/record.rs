//! What is measured, as it is kept.

use serde::{Deserialize, Serialize};

use crate::{frame::Family, harness::Hook};

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
