//! `/api/v1/status` as the contract promises it to users, read independently of the agent's own types: a renamed
//! field fails here.

use std::net::IpAddr;

use serde::Deserialize;

/// What an agent says of itself and its cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// This node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// All members, this node included.
    pub members: Vec<Member>,
    /// All VIPs.
    pub vips: Vec<Vip>,
    /// All backends of all services.
    pub backends: Vec<Backend>,
    /// Where objects come from, and how that goes.
    pub source: Source,
    /// The forwarder.
    pub forwarder: Forwarder,
    /// What came of asking for others' VIPs.
    pub selftest: SelfTest,
}

/// What came of asking for others' VIPs on the wire.
#[derive(Debug, Clone, Deserialize)]
pub struct SelfTest {
    /// How many are asked for.
    pub tested: u64,
    /// How many of the node's own nobody asks for.
    pub untested: u64,
    /// What is wrong.
    pub problems: Vec<VipProblem>,
}

/// A VIP that is not answered for as it should be.
#[derive(Debug, Clone, Deserialize)]
pub struct VipProblem {
    /// The VIP.
    pub address: IpAddr,
    /// Its owner.
    pub owner: String,
    /// The kind.
    pub result: String,
    /// In words.
    pub message: String,
}

/// A member.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where its gossip is heard.
    pub address: String,
    /// `alive`, `suspect`, `restarting`, `down` or `left`.
    pub state: String,
}

/// A VIP.
#[derive(Debug, Clone, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Its service's namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// The node that owns it, as this node sees it.
    pub owner: Option<String>,
    /// The node that stands in if the owner's link is lost.
    pub standby: Option<String>,
    /// The epoch of the owner's claim.
    pub epoch: u64,
    /// Since when.
    pub since: serde_json::Value,
    /// Why the owner owns it, or why nobody does.
    pub reason: serde_json::Value,
}

/// A pod's socket behind a service.
#[derive(Debug, Clone, Deserialize)]
pub struct Backend {
    /// Its service's namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// The node it runs on.
    pub node: Option<String>,
    /// As the EndpointSlice says.
    pub ready: bool,
    /// As its prober says; `None` while it has not been probed.
    pub healthy: Option<bool>,
    /// Why it is (not) used.
    pub reason: serde_json::Value,
}

/// Where objects come from.
#[derive(Debug, Clone, Deserialize)]
pub struct Source {
    /// It can be read.
    #[serde(default)]
    pub connected: bool,
    /// What is wrong with them.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// A mistake in the objects.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// The file, with the line where known.
    pub file: Option<String>,
    /// Kind, namespace and name.
    pub object: Option<String>,
    /// The field's path.
    pub field: Option<String>,
    /// What is wrong with it and what to do.
    pub message: String,
}

/// The forwarder.
#[derive(Debug, Clone, Deserialize)]
pub struct Forwarder {
    /// `tc`, `xdp` or `off`.
    pub mode: String,
    /// Where its hooks are.
    pub interfaces: Vec<serde_json::Value>,
}

impl Status {
    /// The owner of a VIP as this node sees it.
    #[must_use]
    pub fn owner(&self, vip: IpAddr) -> Option<&str> {
        self.vips.iter().find(|entry| entry.address == vip)?.owner.as_deref()
    }

    /// The names of the members that are up, sorted.
    #[must_use]
    pub fn up(&self) -> Vec<&str> {
        let up = self.members.iter().filter(|member| matches!(member.state.as_str(), "alive" | "suspect"));
        let mut names: Vec<_> = up.map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Whether a problem names all of `words`, anywhere in it.
    #[must_use]
    pub fn complains_of(&self, words: &[&str]) -> bool {
        let texts = self.source.problems.iter().map(|problem| format!("{problem:?}"));
        texts.into_iter().any(|text| words.iter().all(|word| text.contains(word)))
    }
}
