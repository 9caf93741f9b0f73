//! The types of `/api/v1/flows`, written by the agent and read by `crierctl`: the connections of the node's own pods.
//!
//! A contract as the status's. On the unix socket alone: it names clients.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The most that are told in one answer.
pub const MOST: usize = 100_000;
/// As many are told unless others are asked for.
pub const USUAL: usize = 1_000;

/// Which are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct FlowQuery {
    /// Those of a service, as `NAMESPACE/NAME`; all, if none is named.
    #[serde(default)]
    pub service: Option<String>,
    /// As many at most; [`USUAL`], if nothing is said, and [`MOST`] whatever is.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Connections, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The connections.
    pub flows: Vec<Flow>,
    /// There are more than these.
    pub more: bool,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: IpAddr,
    /// The port on it.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The service's namespace; none: the service is gone.
    pub namespace: Option<String>,
    /// The service's name.
    pub service: Option<String>,
    /// The pod.
    pub pod: Option<SocketAddr>,
    /// `half_open`, `established` or `closing`.
    pub state: String,
    /// Seconds since the client was last heard.
    pub idle: u64,
}
