//! Where objects come from. A source reads them, keeps a [`crate::model::Index`], and publishes [`Snapshot`]s.

pub mod manifests;

use std::{collections::BTreeMap, time::SystemTime};

use crate::model::{Desired, PoolUsage, Problem, objects::Kind};

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
    /// When it was read.
    pub loaded_at: SystemTime,
}
