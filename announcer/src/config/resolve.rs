//! From what people wrote to settings: defaults, and checks across keys.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use forwarder_ebpf::limits;
use membership::NodeName;

use super::{
    Raw,
    args::Overrides,
    given::{Fault, Given},
    settings::{
        ForwarderMode, GossipSettings, LogFormat, LogLevel, LogSettings, Settings, SourceSettings, WatchSettings,
    },
};

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
        Given::new(key, flag, file.as_ref(), flagged.as_ref()).path(default)
    };
    Ok(Settings {
        node: name,
        interfaces: interfaces(raw, overrides)?,
        gossip: gossip(raw, overrides)?,
        source: source(raw, overrides)?,
        rebalance: rebalance(raw, overrides)?,
        restart_grace: restart_grace(raw, overrides)?,
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
        flows: flows(raw)?,
        rows: rows(raw)?,
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
        key_file: key_file.path("/etc/crier/gossip.key")?,
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
    if raw.source.kubernetes.is_some() && raw.source.manifests.is_some() {
        return Err(given.fault(None, "there is source.kubernetes too; a node has one source, remove one of them"));
    }
    if let (Some(kubernetes), None) = (&raw.source.kubernetes, &given.value) {
        let kubeconfig = Given::new("source.kubernetes.kubeconfig", "", kubernetes.kubeconfig.as_ref(), None);
        let kubeconfig = kubernetes.kubeconfig.is_some().then(|| kubeconfig.path("")).transpose()?;
        return Ok(SourceSettings::Kubernetes(kubeconfig));
    }
    given.path("/etc/crier/manifests").map(SourceSettings::Manifests)
}

fn rebalance(raw: &Raw, overrides: &Overrides) -> Result<bool, Fault> {
    let flag = "--rebalance or CRIER_REBALANCE";
    let given = Given::new("rebalance", flag, raw.rebalance.as_ref(), overrides.rebalance.as_ref());
    given.one_of(&[("on", Some(true)), ("off", Some(false))]).map(|on| on.unwrap_or(true))
}

fn restart_grace(raw: &Raw, overrides: &Overrides) -> Result<Duration, Fault> {
    let flag = "--restart-grace or CRIER_RESTART_GRACE";
    let given = Given::new("restartGrace", flag, raw.restart_grace.as_ref(), overrides.restart_grace.as_ref());
    let Some(text) = given.value else { return Ok(Duration::ZERO) };
    let grace = humantime::parse_duration(text)
        .map_err(|_| given.fault(None, format_args!("{text:?} is not a duration like 10s")))?;
    if grace > membership::GRACE_MAX {
        return Err(given.fault(None, "must be 0s to 60s; a machine that is away for longer is to be drained"));
    }
    Ok(grace)
}

fn flows(raw: &Raw) -> Result<u32, Fault> {
    let given = Given::new("forwarder.flows", "", raw.forwarder.flows.as_ref(), None);
    let flows = given.value.copied().unwrap_or(limits::FLOWS);
    if !(limits::MIN_FLOWS..=limits::MAX_FLOWS).contains(&flows) {
        let (least, most) = (limits::MIN_FLOWS, limits::MAX_FLOWS);
        return Err(given.fault(None, format_args!("must be {least} to {most}; each costs 68 bytes of kernel memory")));
    }
    Ok(flows)
}

fn rows(raw: &Raw) -> Result<u32, Fault> {
    let given = Given::new("forwarder.rows", "", raw.forwarder.rows.as_ref(), None);
    let rows = given.value.copied().unwrap_or(limits::ROWS);
    if !(limits::MIN_ROWS..=limits::MAX_ROWS).contains(&rows) {
        let (least, most) = (limits::MIN_ROWS, limits::MAX_ROWS);
        return Err(given.fault(None, format_args!("must be {least} to {most}; each costs 512 bytes of kernel memory")));
    }
    Ok(rows)
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
