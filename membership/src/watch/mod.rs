//! The fast watch: who has fallen silent, within a few intervals, agreed among those who listen.
//!
//! SWIM (`swim.rs`) needs seconds to be sure of a death. So each node is also watched by a few ring neighbours
//! (`ring`), whom it sends a short sealed beat every interval. Who misses its beats asks the node's other watchers, and
//! if none of them hears it either, it is down, at once, everywhere (a multi-observer cut as in Rapid, Suresh et al. 2018).
//!
//! ```text
//!    Cluster (gossip's thread)                     Watcher (a thread and a socket of its own)
//!      Lookout  ---- Plan: whom to watch, keys ---->  targets, windows, schedule  ----> beats, pings, questions
//!        ^------ Report: who is heard or silent ----     ^---- datagrams, with the kernel's arrival times
//! ```
//! [`watcher::Watcher`] is pure, like [`crate::Cluster`]; [`crate::io`] runs it on a thread that waits for nothing else.
//! `Lookout` is the cluster's side.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{config::Watch, stats::WatchStats};

mod budget;
pub(crate) mod lookout;
pub(crate) mod ring;
mod signal;
mod target;
mod watcher;

pub use watcher::{SIGNAL_DATAGRAM_MAX, Watcher};

/// How closely the watch watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From one beat to the next.
    pub interval: Duration,
    /// How many may be missed.
    pub misses: u32,
}

impl Timing {
    /// The longest interval that is believed of a sender.
    pub const LONGEST: Duration = Duration::from_secs(10);
    /// A question and its answer, on a busy machine.
    pub const ROUND_TRIP: Duration = Duration::from_millis(20);

    /// After so long a silence one is overdue: the misses, and a little for what a beat may be late.
    pub(crate) fn patience(self) -> Duration {
        self.interval * self.misses + self.interval / 10
    }
}

impl From<Watch> for Timing {
    fn from(watch: Watch) -> Self {
        Self { interval: watch.interval, misses: watch.misses }
    }
}

/// A life of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Where it is.
    pub address: SocketAddr,
    /// Its generation, as the gossip knows it.
    pub generation: u64,
    /// Its session.
    pub session: u64,
}

/// What the watcher is to do: a value, replaced whenever it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// This node's id, generation and session.
    pub me: (u64, u64, u64),
    /// The neighbourhood by id, some who are down included: whose datagrams are taken, and pings answered.
    pub contacts: BTreeMap<u64, Contact>,
    /// Who gets beats.
    pub watchers: BTreeSet<u64>,
    /// Who is watched, each with its other watchers.
    pub watched: BTreeMap<u64, BTreeSet<u64>>,
}

/// What this node's watch says of a node that it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Not heard yet since the watch began.
    Awaited,
    /// Heard.
    Heard,
    /// Overdue; its other watchers are being asked, or hear it.
    Suspect,
    /// Neither this node nor its other watchers hear it, or it says that it hears nobody: it is down.
    Silent,
}

/// What the watch sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By id of those watched: the generation, and what is seen of it.
    pub sights: BTreeMap<u64, (u64, Sight)>,
    /// When it last found one down, nobody else was heard either, nor since: its verdicts may be its own deafness.
    pub deaf: bool,
}

/// What the watch's thread hands back: the newest state, never a queue.
#[derive(Debug, Clone, Default)]
pub struct Returns {
    /// Who is heard.
    pub report: Report,
    /// Grows with each new report.
    pub version: u64,
    /// What was counted so far.
    pub stats: WatchStats,
}

/// The earliest of some times.
fn earliest(times: impl IntoIterator<Item = Instant>) -> Option<Instant> {
    times.into_iter().min()
}

#[cfg(test)]
mod tests;
