//! The configuration as people write it: every key optional, nothing checked but names and types.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, closest};

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Raw {
    /// This node's name. Default: the host name.
    pub node: Option<String>,
    /// Uplinks on which VIPs may be announced. Default: those that carry a default route.
    pub interfaces: Option<Vec<String>>,
    /// The agents' conversation.
    pub gossip: RawGossip,
    /// Where the objects come from.
    pub source: RawSource,
    /// `on` or `off`. Default: `on`.
    pub rebalance: Option<String>,
    /// How long peers leave everything to this node when its agent is told to stop, 0s to 60s. Default: 0s.
    pub restart_grace: Option<String>,
    /// The data plane.
    pub forwarder: RawForwarder,
    /// The read-only HTTP server.
    pub http: RawHttp,
    /// Where state is kept. Default: `/var/lib/crier`.
    pub state_dir: Option<PathBuf>,
    /// The unix socket for actions. Default: `/run/crier/crier.sock`.
    pub socket: Option<PathBuf>,
    /// Where eBPF programs and maps are pinned. Default: `/sys/fs/bpf/crier`.
    pub pin_dir: Option<PathBuf>,
    /// Logging.
    pub log: RawLog,
}

/// `gossip`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawGossip {
    /// Where to listen, UDP. Default: `0.0.0.0:9651`.
    pub bind: Option<String>,
    /// Where the others reach this node. Default: its address on the first uplink, with the port of `bind`.
    pub advertise: Option<String>,
    /// Seeds, `HOST:PORT`. Default: none.
    pub join: Option<Vec<String>>,
    /// The cluster's keys, one base64 key of 32 bytes a line. Default: `/etc/crier/gossip.key`.
    pub key_file: Option<PathBuf>,
    /// The fast watch: its keys, or the name of a preset.
    #[serde(deserialize_with = "preset_or_keys")]
    pub watch: RawWatch,
}

/// `gossip.watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawWatch {
    /// From one heartbeat to the next, 10ms to 10s. Default: 50ms.
    pub interval: Option<String>,
    /// Heartbeats missed until a node is suspected, 2 to 20. Default: 3.
    pub misses: Option<u32>,
    /// The name of a preset, given instead of the keys.
    #[serde(skip)]
    pub preset: Option<String>,
}

/// `watch: fast`, or `watch: {interval: ..., misses: ...}`.
fn preset_or_keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<RawWatch, D::Error> {
    struct Either;
    impl<'de> serde::de::Visitor<'de> for Either {
        type Value = RawWatch;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("\"fast\", or interval and misses")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RawWatch, E> {
            Ok(RawWatch { preset: Some(name.to_owned()), ..RawWatch::default() })
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<RawWatch, E> {
            Ok(RawWatch::default())
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RawWatch, A::Error> {
            RawWatch::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Either)
}

/// `source`: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawSource {
    /// A folder of manifests. Default: `/etc/crier/manifests`.
    pub manifests: Option<PathBuf>,
    /// The Kubernetes API.
    pub kubernetes: Option<RawKubernetes>,
}

/// `source.kubernetes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawKubernetes {
    /// Unset: the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
}

/// `forwarder`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawForwarder {
    /// `auto`, `xdp`, `tc` or `off`. Default: `auto`.
    pub mode: Option<String>,
    /// Connections to this node's pods that are remembered, 1,024 to 16,777,216. Default: 524,288.
    pub flows: Option<u32>,
    /// Rows of 64 slots for services' tables, 1,024 to 1,048,576. Default: 65,536.
    pub rows: Option<u32>,
}

/// `http`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawHttp {
    /// Where to listen, or `off`. Default: `0.0.0.0:9650`.
    pub bind: Option<String>,
}

/// `log`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawLog {
    /// `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub level: Option<String>,
    /// `text` or `json`. Default: `text`.
    pub format: Option<String>,
}

/// Reads a file's text.
///
/// # Errors
/// [`ConfigError::Malformed`] with line, column and key.
pub fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    // An empty file, or one of comments alone, is a file without keys.
    match serde_norway::from_str::<Option<Raw>>(text) {
        Ok(raw) => Ok(raw.unwrap_or_default()),
        Err(error) => {
            let location = error.location();
            Err(ConfigError::Malformed {
                path: path.to_owned(),
                line: location.as_ref().map(serde_norway::Location::line),
                column: location.as_ref().map(serde_norway::Location::column),
                message: explain(&error.to_string()),
            })
        }
    }
}

/// The library's message with the place taken off its end (it is said at the front) and a hint for an unknown key.
fn explain(message: &str) -> String {
    let text = message.rfind(" at line ").map_or(message, |end| &message[..end]);
    let (path, rest) = match text.split_once(": ") {
        Some((path, rest)) if rest.starts_with("unknown field") => (format!("{path}."), rest),
        _ => (String::new(), text),
    };
    let Some((name, expected)) = rest.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) else {
        return text.to_owned();
    };
    format!("{path}{name}: unknown key{}", closest(name, expected.split('`').skip(1).step_by(2)))
}
