//! From what people wrote to settings: typed, with defaults, checked across keys.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use membership::NodeName;

use super::{ConfigError, Raw, args::Overrides, closest};
use crate::model::{parse::line_of, problem::Origin};

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
    /// The data plane.
    pub forwarder: ForwarderMode,
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

/// A value that makes no sense: its key, and where it was not the file, the variable and flag that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    key: &'static str,
    index: Option<usize>,
    overridden_by: Option<&'static str>,
    message: String,
}

impl Fault {
    /// The error, with the line of `text` on which the key stands.
    pub(super) fn at(self, path: &Path, text: &str) -> ConfigError {
        let key = self.index.map_or_else(|| self.key.to_owned(), |index| format!("{}[{index}]", self.key));
        let origin = self.overridden_by.map_or_else(
            || {
                let document = Origin { file: String::new(), document: 1, item: None };
                let line = if text.trim().is_empty() { None } else { line_of(text, &document, &key) };
                format!("{}{}", path.display(), super::place(line, None))
            },
            str::to_owned,
        );
        ConfigError::Invalid { origin, key, message: self.message }
    }
}

/// A value with what is needed to say where it comes from.
struct Given<'a, T> {
    value: Option<&'a T>,
    key: &'static str,
    overridden_by: Option<&'static str>,
}

impl<'a, T> Given<'a, T> {
    fn new(key: &'static str, flag: &'static str, file: Option<&'a T>, overriding: Option<&'a T>) -> Self {
        Self { value: overriding.or(file), key, overridden_by: overriding.is_some().then_some(flag) }
    }

    fn fault(&self, index: Option<usize>, message: impl fmt::Display) -> Fault {
        Fault { key: self.key, index, overridden_by: self.overridden_by, message: message.to_string() }
    }
}

impl Given<'_, String> {
    fn socket(&self) -> Result<Option<SocketAddr>, Fault> {
        self.value.map(|text| socket(text).map_err(|message| self.fault(None, message))).transpose()
    }

    fn one_of<T: Copy + Default>(&self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let Some(text) = self.value else { return Ok(T::default()) };
        choices.iter().find(|(name, _)| name == text).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint = closest(text, names.iter().copied());
            self.fault(None, format_args!("{text:?} is none of {}{}", names.join(", "), known_left_out(&hint)))
        })
    }
}

/// The hint without the list of known names, where the message has it already.
fn known_left_out(hint: &str) -> &str {
    if hint.contains("did you mean") { hint } else { "" }
}

impl Given<'_, PathBuf> {
    fn absolute(&self, default: &str) -> Result<PathBuf, Fault> {
        match self.value {
            None => Ok(default.into()),
            Some(path) if path.as_os_str().is_empty() => Err(self.fault(None, "empty; give a path")),
            Some(path) => Ok(path.clone()),
        }
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{text:?} is not ADDRESS:PORT, as in 0.0.0.0:9651 or [::]:9651");
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 { Err(format!("{text:?}: the port must be 1 to 65535")) } else { Ok(address) }
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

/// Settings from a file's content, what overrides it, and the host's name as the last resort for the node's.
///
/// # Errors
/// The first value that makes no sense.
pub fn resolve(raw: &Raw, overrides: &Overrides, hostname: &str) -> Result<Settings, Fault> {
    let node = Given::new("node", "--node or CRIER_NODE", raw.node.as_ref(), overrides.node.as_ref());
    let lowered = hostname.to_lowercase();
    let name = node.value.map_or(lowered.as_str(), String::as_str);
    let name = name.parse::<NodeName>().map_err(|error| node.fault(None, error))?;
    let path = |key, flag, file: &Option<PathBuf>, flagged: &Option<PathBuf>, default| {
        Given::new(key, flag, file.as_ref(), flagged.as_ref()).absolute(default)
    };
    Ok(Settings {
        node: name,
        interfaces: interfaces(raw, overrides)?,
        gossip: gossip(raw, overrides)?,
        source: source(raw, overrides)?,
        rebalance: rebalance(raw, overrides)?,
        forwarder: Given::new(
            "forwarder.mode",
            "--forwarder-mode or CRIER_FORWARDER_MODE",
            raw.forwarder.mode.as_ref(),
            overrides.forwarder_mode.as_ref(),
        )
        .one_of(&[
            ("auto", ForwarderMode::Auto),
            ("xdp", ForwarderMode::Xdp),
            ("tc", ForwarderMode::Tc),
            ("off", ForwarderMode::Off),
        ])?,
        http: http(raw, overrides)?,
        state_dir: path(
            "stateDir",
            "--state-dir or CRIER_STATE_DIR",
            &raw.state_dir,
            &overrides.state_dir,
            "/var/lib/crier",
        )?,
        socket: path("socket", "--socket or CRIER_SOCKET", &raw.socket, &overrides.socket, "/run/crier/crier.sock")?,
        pin_dir: path("pinDir", "--pin-dir or CRIER_PIN_DIR", &raw.pin_dir, &overrides.pin_dir, "/sys/fs/bpf/crier")?,
        log: log(raw, overrides)?,
    })
}

fn interfaces(raw: &Raw, overrides: &Overrides) -> Result<Option<Vec<String>>, Fault> {
    let flag = "--interfaces or CRIER_INTERFACES";
    let given = Given::new("interfaces", flag, raw.interfaces.as_ref(), overrides.interfaces.as_ref());
    let Some(names) = given.value else { return Ok(None) };
    if names.is_empty() {
        return Err(given.fault(None, "empty; name at least one, or leave the key out for those with a default route"));
    }
    for (index, name) in names.iter().enumerate() {
        // The kernel's IFNAMSIZ is 16 with the closing zero.
        let valid = (1..=15).contains(&name.len()) && !name.contains(['/', ' ', ':']) && name != "." && name != "..";
        if !valid {
            return Err(
                given.fault(Some(index), format_args!("{name:?} is not an interface name (1 to 15 characters)"))
            );
        }
        if names[..index].contains(name) {
            return Err(given.fault(Some(index), format_args!("{name:?} is there twice")));
        }
    }
    Ok(Some(names.clone()))
}

fn gossip(raw: &Raw, overrides: &Overrides) -> Result<GossipSettings, Fault> {
    let (file, flags) = (&raw.gossip, overrides);
    let flag = "--gossip-bind or CRIER_GOSSIP_BIND";
    let bind = Given::new("gossip.bind", flag, file.bind.as_ref(), flags.gossip_bind.as_ref()).socket()?;
    let bind = bind.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 9651)));
    let flag = "--gossip-advertise or CRIER_GOSSIP_ADVERTISE";
    let advertise = Given::new("gossip.advertise", flag, file.advertise.as_ref(), flags.gossip_advertise.as_ref());
    let address = advertise.socket()?;
    if let Some(address) = address {
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(advertise.fault(None, format_args!("{} is no address of a node", address.ip())));
        }
        if bind.is_ipv4() && address.is_ipv6() {
            let message = format_args!("{address} is IPv6 while gossip.bind ({bind}) listens on IPv4 only");
            return Err(advertise.fault(None, message));
        }
    }
    let flag = "--gossip-join or CRIER_GOSSIP_JOIN";
    let given = Given::new("gossip.join", flag, file.join.as_ref(), flags.gossip_join.as_ref());
    let seeds = given.value.map(Vec::as_slice).unwrap_or_default().iter().enumerate();
    let seeds = seeds.filter(|(_, text)| !text.is_empty());
    let join = seeds.map(|(index, text)| text.parse().map_err(|error: String| given.fault(Some(index), error)));
    let flag = "--gossip-key-file or CRIER_GOSSIP_KEY_FILE";
    let key_file = Given::new("gossip.keyFile", flag, file.key_file.as_ref(), flags.gossip_key_file.as_ref());
    Ok(GossipSettings {
        bind,
        advertise: address,
        join: join.collect::<Result<_, _>>()?,
        key_file: key_file.absolute("/etc/crier/gossip.key")?,
        watch: watch(raw)?,
    })
}

fn watch(raw: &Raw) -> Result<WatchSettings, Fault> {
    let file = &raw.gossip.watch;
    let given = Given::new("gossip.watch", "", file.preset.as_ref(), None);
    match given.value.map(String::as_str) {
        None => {}
        Some("fast") => return Ok(WatchSettings { interval: Duration::from_millis(10), misses: 3 }),
        Some(other) => {
            let message = format_args!("{other:?} is no preset; give \"fast\", or {{interval: 50ms, misses: 3}}");
            return Err(given.fault(None, message));
        }
    }
    let given = Given::new("gossip.watch.interval", "", file.interval.as_ref(), None);
    let interval = match given.value {
        None => Duration::from_millis(50),
        Some(text) => humantime::parse_duration(text)
            .map_err(|_| given.fault(None, format_args!("{text:?} is not a duration like 50ms or 1s")))?,
    };
    if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&interval) {
        return Err(given.fault(None, "must be 10ms to 10s; below that load alone looks like death"));
    }
    let given = Given::new("gossip.watch.misses", "", file.misses.as_ref(), None);
    let misses = given.value.copied().unwrap_or(3);
    if !(2..=20).contains(&misses) {
        return Err(given.fault(None, "must be 2 to 20; with 1 a single lost packet looks like death"));
    }
    Ok(WatchSettings { interval, misses })
}

fn source(raw: &Raw, overrides: &Overrides) -> Result<SourceSettings, Fault> {
    let flag = "--manifests or CRIER_MANIFESTS";
    let given = Given::new("source.manifests", flag, raw.source.manifests.as_ref(), overrides.manifests.as_ref());
    if raw.source.kubernetes.is_some() && given.value.is_none() {
        let message = "is not built yet; use source.manifests with a folder of the same objects";
        return Err(Fault { key: "source.kubernetes", index: None, overridden_by: None, message: message.to_owned() });
    }
    if raw.source.kubernetes.is_some() && raw.source.manifests.is_some() {
        return Err(given.fault(None, "there is source.kubernetes too; a node has one source, remove one of them"));
    }
    given.absolute("/etc/crier/manifests").map(SourceSettings::Manifests)
}

fn rebalance(raw: &Raw, overrides: &Overrides) -> Result<bool, Fault> {
    let flag = "--rebalance or CRIER_REBALANCE";
    let given = Given::new("rebalance", flag, raw.rebalance.as_ref(), overrides.rebalance.as_ref());
    given.one_of(&[("on", Some(true)), ("off", Some(false))]).map(|on| on.unwrap_or(true))
}

fn http(raw: &Raw, overrides: &Overrides) -> Result<Option<SocketAddr>, Fault> {
    let flag = "--http-bind or CRIER_HTTP_BIND";
    let given = Given::new("http.bind", flag, raw.http.bind.as_ref(), overrides.http_bind.as_ref());
    match given.value.map(String::as_str) {
        Some("" | "off") => Ok(None),
        _ => Ok(Some(given.socket()?.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 9650))))),
    }
}

fn log(raw: &Raw, overrides: &Overrides) -> Result<LogSettings, Fault> {
    let flag = "--log-level or CRIER_LOG_LEVEL";
    let level = Given::new("log.level", flag, raw.log.level.as_ref(), overrides.log_level.as_ref()).one_of(&[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ])?;
    let flag = "--log-format or CRIER_LOG_FORMAT";
    let format = Given::new("log.format", flag, raw.log.format.as_ref(), overrides.log_format.as_ref())
        .one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)])?;
    Ok(LogSettings { level, format })
}
