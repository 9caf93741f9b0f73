//! The objects that are understood: Kubernetes' own by `k8s-openapi`, and Crier's.
//!
//! `IPAddressPool` and `L2Advertisement` have MetalLB's kind and field names, so that migrating is a change of
//! `apiVersion`. All of Crier's types refuse unknown fields.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde::{Deserialize, Deserializer, Serialize};

use super::ServiceName;

/// The API group and version of Crier's own kinds.
pub const API_VERSION: &str = "crier.io/v1alpha1";

/// The annotations Crier reads. Those that MetalLB has too are also read under its prefixes.
pub mod annotation {
    /// Requested addresses, comma-separated. Alias: `metallb.io/loadBalancerIPs`.
    pub const ADDRESSES: &str = "loadBalancerIPs";
    /// The pool to take addresses from. Alias: `metallb.io/address-pool`.
    pub const POOL: &str = "address-pool";
    /// Services with the same value may share an address. Alias: `metallb.io/allow-shared-ip`.
    pub const SHARE: &str = "allow-shared-ip";
    /// The short form of a `HealthCheck`.
    pub const HEALTH_CHECK: &str = "health-check";
    /// The pods, where there is no EndpointSlice: `10.1.1.2:8080@n1, [fd00::2]:8080@n2`.
    pub const BACKENDS: &str = "backends";
    /// The node that should own the VIPs.
    pub const PREFERRED_NODE: &str = "preferred-node";

    /// `true`: the pods get a condition that says what their probes find (from Kubernetes alone).
    pub const READINESS_GATE: &str = "readiness-gate";

    /// All of them.
    pub const ALL: [&str; 7] = [ADDRESSES, POOL, SHARE, HEALTH_CHECK, BACKENDS, PREFERRED_NODE, READINESS_GATE];
}

/// A kind that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the variants are the kinds' names")]
pub enum Kind {
    Namespace,
    Node,
    IPAddressPool,
    L2Advertisement,
    HealthCheck,
    Service,
    EndpointSlice,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::IPAddressPool,
        Self::L2Advertisement,
        Self::HealthCheck,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// The `apiVersion` that goes with it.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::IPAddressPool | Self::L2Advertisement | Self::HealthCheck => API_VERSION,
        }
    }

    /// Its name, as in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::IPAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::HealthCheck => "HealthCheck",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// A Service's name, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<ServiceName> {
        let of = || ServiceName { namespace: self.namespace.clone(), name: self.name.clone() };
        (self.kind == Kind::Service).then(of)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object of a kind that is understood.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the variants are the kinds' names")]
pub enum Object {
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    IPAddressPool(Box<IPAddressPool>),
    L2Advertisement(Box<L2Advertisement>),
    HealthCheck(Box<HealthCheck>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
}

impl Object {
    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::IPAddressPool(object) => &object.metadata,
            Self::L2Advertisement(object) => &object.metadata,
            Self::HealthCheck(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
        }
    }
}

/// Takes null for nothing, as an API server writes what has lost its fields.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

macro_rules! crier_object {
    ($(#[$doc:meta])* $name:ident, $spec:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            /// `crier.io/v1alpha1`.
            pub api_version: String,
            /// The kind.
            pub kind: String,
            /// Name, namespace, labels.
            pub metadata: ObjectMeta,
            /// What is wished.
            #[serde(default, deserialize_with = "or_default")]
            pub spec: $spec,
            /// What a controller wrote; not read.
            #[serde(default)]
            pub status: Option<serde_norway::Value>,
        }
    };
}

crier_object!(
    /// Addresses that may become VIPs.
    IPAddressPool, PoolSpec
);
crier_object!(
    /// Says that the VIPs of some pools are announced by ARP and NDP, and where.
    L2Advertisement, AdvertisementSpec
);
crier_object!(
    /// Says how the pods of some services are probed.
    HealthCheck, HealthCheckSpec
);

/// The spec of an [`IPAddressPool`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// CIDR prefixes and ranges `first-last`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether services that ask for no pool may get an address of it. Default: true.
    pub auto_assign: Option<bool>,
    /// Leaves out IPv4 addresses that end in .0 and .255. Default: false. (MetalLB's spelling, `avoidBuggyIPs`.)
    #[serde(rename = "avoidBuggyIPs", default)]
    pub avoid_buggy_ips: bool,
    /// Which services may get an address of it; unset: all.
    pub service_allocation: Option<ServiceAllocation>,
}

/// Which services may get an address of a pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAllocation {
    /// Lower numbers are asked first; 0 or unset last.
    #[serde(default)]
    pub priority: u32,
    /// Namespaces by name.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Namespaces by label; any of them.
    #[serde(default)]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Services by label; any of them.
    #[serde(default)]
    pub service_selectors: Vec<LabelSelector>,
}

/// The spec of an [`L2Advertisement`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdvertisementSpec {
    /// Pools by name; with no pool selector either: all pools.
    #[serde(default)]
    pub ip_address_pools: Vec<String>,
    /// Pools by label; any of them.
    #[serde(default)]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Nodes by label, any of them; empty: every node.
    #[serde(default)]
    pub node_selectors: Vec<LabelSelector>,
    /// Interfaces by name; empty: every uplink whose prefixes contain the VIP.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Services by label, any of them; empty: every service.
    #[serde(default)]
    pub service_selectors: Vec<LabelSelector>,
}

/// The spec of a [`HealthCheck`]. One of `tcp` and `http`; neither means `tcp`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// Services of its namespace by name.
    #[serde(default)]
    pub services: Vec<String>,
    /// Services of its namespace by label; names go before labels.
    pub service_selector: Option<LabelSelector>,
    /// The service port, by name or number, whose pods are probed; unset: every port.
    pub port: Option<IntOrString>,
    /// A connection must be accepted.
    pub tcp: Option<TcpCheckSpec>,
    /// A GET must be answered.
    pub http: Option<HttpCheckSpec>,
    /// From one probe to the next, 10ms to 1h. Default: 1s.
    pub interval: Option<String>,
    /// How long an answer may take, at most `interval`. Default: 500ms, or the interval if that is shorter.
    pub timeout: Option<String>,
    /// Successes in a row that bring a pod back, 1 to 100. Default: 2.
    pub rise: Option<u32>,
    /// Failures in a row that take a pod out, 1 to 100. Default: 3.
    pub fall: Option<u32>,
    /// For how long a pod that has become healthy gets less than its share, 0s to 1h. Default: 0s, which is off.
    pub slow_start: Option<String>,
    /// The pods' shares of new connections; the first that matches a pod counts, and 1 if none does.
    #[serde(default)]
    pub weights: Vec<WeightSpec>,
}

/// The weight of some pods. Without nodes and addresses: of all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightSpec {
    /// Pods on these nodes.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Pods with these addresses, or in these prefixes.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// 0 to 256; 0: no new connections.
    pub weight: u32,
}

/// A TCP probe.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpCheckSpec {
    /// The pod's port to probe; unset: the one that serves.
    pub port: Option<u16>,
}

/// An HTTP or HTTPS probe.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheckSpec {
    /// Path and query. Default: `/`.
    pub path: Option<String>,
    /// The `Host` header. Default: the pod's address.
    pub host: Option<String>,
    /// `HTTP` (the default) or `HTTPS`, whose certificate is not verified.
    #[serde(default)]
    pub scheme: Scheme,
    /// The pod's port to probe; unset: the one that serves.
    pub port: Option<u16>,
    /// Accepted status codes, `200` or `200-399` each. Default: `200-399`.
    #[serde(default)]
    pub expected_statuses: Vec<IntOrString>,
}

/// The scheme of an HTTP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Clear text.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// The labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// An annotation's value under Crier's prefix, or one of MetalLB's.
pub(super) fn annotated<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<(String, &'a str)> {
    let annotations = metadata.annotations.as_ref()?;
    ["crier.io/", "metallb.io/", "metallb.universe.tf/"].iter().find_map(|prefix| {
        let key = format!("{prefix}{name}");
        annotations.get(&key).map(|value| (key, value.trim()))
    })
}
