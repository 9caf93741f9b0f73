//! Where objects come from. A source reads them, keeps a [`crate::model::Index`], and publishes [`Snapshot`]s.

pub mod kubernetes;
pub mod manifests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use crate::model::{Desired, PoolUsage, Problem, Severity, objects::Kind};

/// What a source knows at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is desired: of every object the last good version.
    pub desired: Desired,
    /// Everything that is wrong now, sorted by where it stands.
    pub problems: Vec<Problem>,
    /// How many objects there are of each kind.
    pub objects: BTreeMap<Kind, usize>,
    /// How full the pools are, by name.
    pub pools: BTreeMap<String, PoolUsage>,
    /// Whether the source answers: for manifests, the folder could be listed.
    pub connected: bool,
    /// All of it is the API server's word of now, so that something may be written back to it; never so of manifests.
    pub current: bool,
    /// When it was read.
    pub loaded_at: SystemTime,
    /// How many readings so far, this one included, ran into which limit. Whatever is beyond a limit has a problem.
    pub limits: BTreeMap<Limit, u64>,
    /// Where the source says that nodes are; agents run there.
    pub peers: BTreeSet<IpAddr>,
}

impl Snapshot {
    /// Nothing is known.
    #[must_use]
    pub fn empty(loaded_at: SystemTime) -> Self {
        Self {
            desired: Desired::default(),
            problems: Vec::new(),
            objects: BTreeMap::new(),
            pools: BTreeMap::new(),
            connected: false,
            current: false,
            loaded_at,
            limits: BTreeMap::new(),
            peers: BTreeSet::new(),
        }
    }
}

/// Logs what is new.
fn report(before: Option<&Snapshot>, now: &Snapshot) {
    let known: BTreeSet<_> = before.iter().flat_map(|before| &before.problems).collect();
    for problem in now.problems.iter().filter(|problem| !known.contains(problem)) {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
    if before.is_none_or(|before| before.desired != now.desired) {
        tracing::info!(services = now.desired.services.len(), problems = now.problems.len(), "objects read");
    }
}

/// A bound on what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Files in the folder.
    Files,
    /// Bytes of one file.
    FileBytes,
    /// Bytes of all files together.
    FolderBytes,
    /// Objects of all files together.
    Objects,
    /// Text walked at one reading to find the lines of problems.
    LinesLookedUp,
}

impl Limit {
    /// Its name in the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Files => "manifest_files",
            Self::FileBytes => "manifest_file_bytes",
            Self::FolderBytes => "manifest_folder_bytes",
            Self::Objects => "manifest_objects",
            Self::LinesLookedUp => "manifest_lines_looked_up",
        }
    }
}
