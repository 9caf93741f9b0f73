//! What a node says about itself: facts, claims and the health of its pods.
//!
//! Only the node itself writes its document; all others hold copies that gossip keeps fresh. A copy may be
//! late, never wrong about its version, so every reader must be content with an older truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::NodeName;

/// A MAC address, in wire order.
pub type Mac = [u8; 6];

/// An uplink of a node: an interface on which VIPs may be announced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// The kernel's name for it, such as `eth0`.
    pub name: String,
    /// Its hardware address: where peers on the segment hand over frames.
    pub mac: Mac,
    /// The on-link prefixes with the node's own address in them (`10.0.0.11/24`), sorted.
    pub prefixes: Vec<IpNet>,
}

/// What a node is, as far as elections and forwarding need it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The uplinks that are up and have carrier, sorted by name.
    pub interfaces: Vec<Interface>,
    /// The node wants to be rid of its VIPs; it takes no new ones.
    pub draining: bool,
    /// The node has just started and is still listening; it must not be elected yet.
    pub listening: bool,
    /// The node's forwarder carries traffic. False on announce-only nodes and when eBPF failed: no steering to it.
    pub forwarding: bool,
    /// The node has lost most of its cluster, or has only just found it again: it hesitates to take what others could.
    pub isolated: bool,
    /// The node knows what the API server says at present, so that it may write there. It serves without.
    pub informed: bool,
    /// What the node found when it asked for other nodes' VIPs on the wire.
    pub findings: Findings,
}

/// What a node tells the others of how owners answer for their VIPs. Whoever writes it keeps it small, since all facts
/// have to fit a datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The nodes that this node has replaced as owners within the last minute because they did not answer.
    pub silent: BTreeSet<NodeName>,
    /// VIPs for which not only their owner answers, at the latest look.
    pub disputed: BTreeSet<IpAddr>,
}

/// A node's word that it owns a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// Grows by one with each takeover. Of two claims the higher epoch wins. 0: claimed by a node that saw only a
    /// minority of its cluster; every other claim wins over it.
    pub epoch: u64,
    /// When the claim was made, milliseconds since the Unix epoch by the claimant's clock; for display only.
    pub since_ms: u64,
    /// The node that carries the VIP's frames if the claimant's link is lost, until somebody claims it: its
    /// [`crate::claims::standby::id`]. 0: nobody. Named by the claimant, so that two nodes never stand in for one VIP.
    pub standby: u64,
}

/// A pod's socket as a prober sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port (the target port, not the service's).
    pub port: u16,
    /// A hash of the check's parameters: two services may judge one socket by different checks.
    pub check: u32,
}

/// What a node's prober says of one of its own pods. A target without a verdict has not been probed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Answers as its check demands.
    Healthy,
    /// Failed its check often enough (`fall`).
    Unhealthy,
    /// Healthy, or new and not probed yet, and not for long: so many eighths of its share of new connections, 1 to 7.
    Warming(u8),
}

impl Verdict {
    /// The eighths of its share that a pod gets of new connections which gets all of it.
    pub const FULL: u8 = 8;

    /// The eighths of its share that the pod gets of new connections if any; of what another node wrote, too.
    #[must_use]
    pub fn eighths(self) -> u8 {
        match self {
            Self::Healthy | Self::Unhealthy => Self::FULL,
            Self::Warming(eighths) => eighths.clamp(1, Self::FULL),
        }
    }
}

/// A node's whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDocument {
    /// What the node is.
    pub facts: Facts,
    /// The VIPs the node owns.
    pub claims: BTreeMap<IpAddr, Claim>,
    /// The verdicts on the node's own pods.
    pub health: BTreeMap<Target, Verdict>,
}
