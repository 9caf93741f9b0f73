//! What the kernel program counted, with the names people know.

use std::collections::BTreeMap;

use forwarder_ebpf::{Direction, DropReason, Eviction, Message, ShadowEvent};

use crate::model::{Protocol, ServiceName};

/// What traffic is counted by. A dual-stack service's addresses are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    /// The service.
    pub service: ServiceName,
    /// The port on its VIPs.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What went by, since the agent started or the service came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets as on the wire.
    pub packets: u64,
    /// Bytes with link-layer headers.
    pub bytes: u64,
    /// Connections begun; [`Direction::Inbound`] only.
    pub flows: u64,
}

/// Everything that is counted at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// By service port and direction; all three directions of every service port are there.
    pub traffic: BTreeMap<(Labels, Direction), Traffic>,
    /// Packets dropped, by reason; all reasons are there.
    pub drops: BTreeMap<DropReason, u64>,
    /// Mid-flow packets passed on to the node their slot belonged to before.
    pub second_hops: u64,
    /// What became of frames that were flooded here for MACs that this node shadows.
    pub shadow: BTreeMap<ShadowEvent, u64>,
    /// What was said about VIPs and their connections.
    pub messages: BTreeMap<Message, u64>,
    /// Flows that made room for new ones though they were not over, by what they were.
    pub evictions: BTreeMap<Eviction, u64>,
}
