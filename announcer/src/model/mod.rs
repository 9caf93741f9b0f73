//! What is desired, resolved: the result of reading all objects, the same on every node.
//!
//! A [`Desired`] is a value, built from Kubernetes objects by this module's siblings whichever source they came
//! from. Ownership, forwarder and prober are functions of it (and of the membership's view), never of raw objects.
//!
//! Reading order: [`parse`] (text to [`objects`]), [`index`] (all objects by key, the last good version of each),
//! then `resolve`, which asks `service`, `pool`, `endpoints` and `health` what the objects mean.

mod endpoints;
mod health;
pub mod index;
mod node;
pub mod objects;
pub mod parse;
mod pool;
pub mod problem;
mod resolve;
mod selector;
mod service;
mod weight;

pub use crate::ipam::PoolUsage;
pub use endpoints::SERVICE_LABEL;
pub use index::Index;
pub use problem::{Problem, Severity};
pub use resolve::Resolved;
pub use service::{is_ours, wants_conditions};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::Hash,
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use membership::NodeName;
use serde::{Deserialize, Serialize};

/// A Service's name with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that is desired at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The services that are ours and complete enough to serve, by name. No two share a VIP, port and protocol.
    pub services: BTreeMap<ServiceName, Service>,
    /// The nodes that should own no VIP, and why.
    pub leaving: BTreeMap<NodeName, &'static str>,
    /// The services whose pods become ready only when their probes succeed: they are probed before they are ready.
    pub gated: BTreeSet<ServiceName>,
}

/// A load-balanced service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its addresses: at least one; two if dual-stack.
    pub vips: Vec<Vip>,
    /// Its ports, each with its backends.
    pub ports: Vec<ServicePort>,
    /// Whether only the owner's own pods may serve.
    pub traffic_policy: TrafficPolicy,
    /// The node that should own its addresses while it can.
    pub preferred: Option<NodeName>,
    /// `sessionAffinity: ClientIP`: for so long after its last new connection a client gets the same pod.
    pub affinity: Option<Duration>,
    /// `loadBalancerSourceRanges`: the clients that are let in; empty: all.
    pub sources: BTreeSet<IpNet>,
}

/// An address of a service, and where it may be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The pool it comes from.
    pub pool: String,
    /// Which nodes may announce it, and on which of their interfaces. Empty: no L2Advertisement covers it.
    pub advertise: Vec<Advertise>,
}

/// One L2Advertisement as far as it concerns a VIP. Several are a union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// The nodes its selectors match; `None`: every node.
    pub nodes: Option<BTreeSet<NodeName>>,
    /// Interface names; empty: every uplink whose prefixes contain the VIP.
    pub interfaces: BTreeSet<String>,
}

/// `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any pod may serve.
    #[default]
    Cluster,
    /// Only a node with a usable pod of the service may own the VIP, and only its own pods are used.
    Local,
}

/// A transport protocol that is load-balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name in the Service; may be empty.
    pub name: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on the VIP.
    pub port: u16,
    /// The pods behind it, of both families, sorted by address and port.
    pub backends: Vec<Backend>,
    /// How its pods are probed; `None`: not at all, readiness decides.
    pub check: Option<Check>,
}

/// A pod's socket behind a service port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// The node it runs on; `None`: not on a node we know, so not usable by the agent there.
    pub node: Option<NodeName>,
    /// May get new connections as far as the objects tell (`ready`, or `publishNotReadyAddresses`).
    pub ready: bool,
    /// Shutting down: keeps what it has, and gets something new only while nobody else is there.
    pub terminating: bool,
    /// Answers, ready or not (`serving`, or `publishNotReadyAddresses`): matters while it is terminating.
    pub serving: bool,
    /// Its share of new connections beside the others', 0 to 256; 0: none.
    pub weight: u16,
}

impl Backend {
    /// The weight of a pod of which nobody says otherwise.
    pub const WEIGHT: u16 = 1;
}

/// How a pod is probed. Equal checks have equal [`Check::id`]s on every node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is asked and what must be answered.
    pub kind: CheckKind,
    /// The port to probe, if not the backend's own.
    pub port: Option<u16>,
    /// From the start of one probe to the next.
    pub interval: Duration,
    /// How long an answer may take; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy pod healthy; at least 1.
    pub rise: u32,
    /// Failures in a row that make a healthy pod unhealthy; at least 1.
    pub fall: u32,
    /// For how long a pod that has become healthy gets less than its share; zero: not at all.
    pub slow_start: Duration,
}

/// What is asked and what must be answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// A TCP connection must be accepted.
    Tcp,
    /// An HTTP GET must be answered with an expected status.
    Http(HttpCheck),
}

/// The parameters of an HTTP check.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// Over TLS; the certificate is not verified, as with kubelet's probes.
    pub tls: bool,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// The `Host` header (and TLS server name); `None`: the pod's address.
    pub host: Option<String>,
    /// Accepted status codes, inclusive ranges, sorted; by default 200 to 399.
    pub expect: Vec<(u16, u16)>,
}

impl Check {
    /// A hash of all parameters: what [`membership::Target::check`] holds for verdicts by this check.
    #[must_use]
    pub fn id(&self) -> u32 {
        let Self { kind, port, interval, timeout, rise, fall, slow_start } = self;
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        (kind, port, interval, timeout, rise, fall).hash(&mut hasher);
        // Left out where there is none, so that agents that know no slow start say the same.
        if !slow_start.is_zero() {
            slow_start.hash(&mut hasher);
        }
        let digest = hasher.digest().to_le_bytes();
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}
