//! What the agent is told to do: settings with types.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use membership::NodeName;

/// Everything the agent needs to know to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: NodeName,
    /// Uplinks on which VIPs may be announced; `None`: those that carry a default route.
    pub interfaces: Option<Vec<String>>,
    /// The agents' conversation.
    pub gossip: GossipSettings,
    /// Where the objects come from.
    pub source: SourceSettings,
    /// Whether this node takes VIPs over from nodes that carry too many of them.
    pub rebalance: bool,
    /// How long peers leave everything to this node when its agent is told to stop; 0: it hands over.
    pub restart_grace: Duration,
    /// The data plane.
    pub forwarder: ForwarderMode,
    /// How many connections to this node's pods are remembered.
    pub flows: u32,
    /// How many rows of tables the kernel has room for.
    pub rows: u32,
    /// Where the read-only HTTP server listens; `None`: there is none.
    pub http: Option<SocketAddr>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The unix socket for actions.
    pub socket: PathBuf,
    /// Where eBPF programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Logging.
    pub log: LogSettings,
}

/// The agents' conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipSettings {
    /// Where to listen, UDP.
    pub bind: SocketAddr,
    /// Where the others reach this node; `None`: its address on the first uplink, with the port of `bind`.
    pub advertise: Option<SocketAddr>,
    /// Seeds.
    pub join: Vec<HostPort>,
    /// The file with the cluster's keys.
    pub key_file: PathBuf,
    /// The fast watch.
    pub watch: WatchSettings,
}

/// The fast watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchSettings {
    /// From one heartbeat to the next: 10 ms to 10 s.
    pub interval: Duration,
    /// Heartbeats missed until a node is suspected: 2 to 20.
    pub misses: u32,
}

/// A host, by name or address, and a port: resolved when it is used, since names may change meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A host name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSettings {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The Kubernetes API, by a kubeconfig or else by the pod's service account.
    Kubernetes(Option<PathBuf>),
}

/// How packets are forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwarderMode {
    /// The best the kernel and driver offer.
    #[default]
    Auto,
    /// XDP, or fail.
    Xdp,
    /// TC.
    Tc,
    /// Announce only; something else forwards.
    Off,
}

/// Logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// The shape of a line.
    pub format: LogFormat,
}

/// How severe a message must be to be logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the levels' names")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The shape of a line in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT, as in 10.77.0.2:9651, [fd00::2]:9651 or n2.example:9651");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(wrong)?;
                inner.parse::<IpAddr>().map_err(|_| wrong())?;
                inner
            }
            None => host,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_address = host.parse::<IpAddr>().is_ok() && (text.starts_with('[') || !host.contains(':'));
        if is_address || (!host.is_empty() && host.len() <= 253 && host.bytes().all(plain)) {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(wrong())
        }
    }
}
