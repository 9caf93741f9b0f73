//! The types of `/api/v1/status`, written by the agent and read by `crierctl`.
//!
//! A contract: fields are added, never renamed or removed. Readers must accept fields they do not know. Times are
//! RFC 3339 in UTC, to the millisecond.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use membership::{MemberState, NodeName};
use serde::{Deserialize, Serialize};

/// What one agent knows, at the moment of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node whose agent answers.
    pub node: NodeName,
    /// The agent's version.
    pub version: String,
    /// When the agent started.
    #[serde(with = "timestamp")]
    pub started: SystemTime,
    /// The agent's clock at the moment of the answer, against which other times are to be read.
    #[serde(with = "timestamp")]
    pub now: SystemTime,
    /// What `/readyz` says.
    pub ready: bool,
    /// What is awaited until `ready`.
    pub awaiting: Vec<String>,
    /// The node has been asked to be rid of its VIPs.
    pub draining: bool,
    /// All members of the cluster, by name, this node and the dead that are not forgotten included.
    pub members: Vec<Member>,
    /// All VIPs, by address, once for each service that has it.
    pub vips: Vec<Vip>,
    /// All backends, by service, address and port.
    pub backends: Vec<Backend>,
    /// Where the objects come from.
    pub source: Source,
    /// What carries the traffic.
    pub forwarder: Forwarder,
    /// What came of asking for other nodes' VIPs on the wire.
    #[serde(default)]
    pub selftest: SelfTest,
    /// Machines outside the cluster that were heard to use VIPs of this node, the latest last; at most 32.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
}

/// A machine outside the cluster that uses a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The VIP.
    pub vip: IpAddr,
    /// The uplink on which the machine was heard.
    pub interface: String,
    /// Its MAC address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// When it was heard first.
    #[serde(with = "timestamp")]
    pub first: SystemTime,
    /// When it was heard last.
    #[serde(with = "timestamp")]
    pub last: SystemTime,
    /// How often it was heard, counting once a second at most.
    pub times: u64,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Where its gossip is heard.
    pub address: SocketAddr,
    /// `alive`, `suspect`, `restarting`, `down` or `left`.
    pub state: MemberState,
    /// It has been asked to be rid of its VIPs.
    #[serde(default)]
    pub draining: bool,
}

/// A VIP of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The node that answers for it; `None`: nobody does, and `reason` says why.
    pub owner: Option<NodeName>,
    /// The node that carries its traffic if the owner's link is lost, until another owner answers for it.
    #[serde(default)]
    pub standby: Option<NodeName>,
    /// Grows by one with each takeover; 0 if nobody owns it, or its owner sees only a minority of the cluster.
    pub epoch: u64,
    /// Since when the owner has it, by the owner's clock.
    #[serde(with = "timestamp::option")]
    pub since: Option<SystemTime>,
    /// Why that node owns it, or why nobody does.
    pub reason: String,
}

/// A pod's socket behind a service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// The node it runs on, if known.
    pub node: Option<NodeName>,
    /// What the objects say.
    pub ready: bool,
    /// What the probes on its node say; `None`: not probed, or not yet.
    pub healthy: Option<bool>,
    /// What the last probe found, or why it gets no connections.
    pub reason: String,
}

/// Where the objects come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `manifests` or `kubernetes`.
    pub kind: String,
    /// The folder, for manifests.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// How many objects were read.
    pub objects: usize,
    /// It can be read; if not, the last good state is served.
    pub connected: bool,
    /// Mistakes in objects.
    pub problems: Vec<Problem>,
}

/// A mistake in an object, or in reading one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, if the object comes from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// Kind, namespace and name, if it could be read that far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<String>,
    /// The path of the field in the object.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in [&self.file, &self.object, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What carries the traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarder {
    /// `tc`, `xdp` or `off`: what is in use, not what was configured.
    pub mode: String,
    /// The uplinks it is attached to.
    pub interfaces: Vec<String>,
    /// By uplink: `xdp`, or `tc` and why it has no XDP.
    #[serde(default)]
    pub ways: BTreeMap<String, String>,
}

/// What came of asking for other nodes' VIPs on the wire, as clients do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// How many VIPs this node asks for.
    pub tested: usize,
    /// How many VIPs this node owns that no peer can ask for, as in a cluster of one node.
    pub untested: usize,
    /// The VIPs that are not answered for as they should be.
    pub problems: Vec<VipProblem>,
}

/// A VIP that is not answered for as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipProblem {
    /// The VIP.
    pub address: IpAddr,
    /// Who should answer.
    pub owner: NodeName,
    /// `silent`, `unreachable`, `deaf`, `other_member` or `foreign`.
    pub result: String,
    /// The same in words.
    pub message: String,
}

impl std::fmt::Display for VipProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VIP {}: {}", self.address, self.message)
    }
}

/// Times as RFC 3339; finer than a millisecond would only suggest that clocks agree better than they do.
mod timestamp {
    use std::time::SystemTime;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        humantime_serde::deserialize(deserializer)
    }

    /// The same for a time that may be missing.
    pub(super) mod option {
        use super::{Deserializer, Serializer, SystemTime};

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            humantime_serde::deserialize(deserializer)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
