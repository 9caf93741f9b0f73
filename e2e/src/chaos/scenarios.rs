//! What the scenarios do, in the world's actions; [`super::scenario::ALL`] is the list.

pub(super) mod agents;
pub(super) mod disks;
pub(super) mod mass;
pub(super) mod network;
pub(super) mod planned;
