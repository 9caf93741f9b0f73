//! The command line of `crier`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const EXAMPLE: &str = "\
Example: three nodes on one network, without Kubernetes

  # on every node; the key file is the same everywhere
  head -c 32 /dev/urandom | base64 > /etc/crier/gossip.key
  cat > /etc/crier/crier.yaml <<EOF
  interfaces: [eth0]
  gossip: {join: ['10.77.0.1:9651', '10.77.0.2:9651']}
  source: {manifests: /etc/crier/manifests}
  EOF
  crier --check --config /etc/crier/crier.yaml
  crier --config /etc/crier/crier.yaml

Flags go before CRIER_* variables, these before the file, and the file before the defaults.
SIGTERM hands the VIPs over and leaves; SIGHUP reads the configuration and the keys again.";

/// Gives services on bare metal a virtual IP that survives: elects its owner among the nodes, answers ARP and NDP
/// for it, and forwards its connections to healthy pods.
#[derive(Debug, Clone, Parser)]
#[command(name = "crier", version, after_help = EXAMPLE, args_conflicts_with_subcommands = false)]
pub struct Args {
    /// The configuration file; every key in it is optional.
    #[arg(long, short, env = "CRIER_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Say what is wrong with the configuration and the manifests, and exit: 0 if nothing, 2 otherwise.
    #[arg(long)]
    pub check: bool,

    /// What overrides the file.
    #[command(flatten)]
    pub overrides: Overrides,

    /// What to do instead of running the agent.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `crier` does besides being the agent.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Remove the eBPF programs and maps that an agent left on this node (they outlive it on purpose).
    Cleanup,
}

/// Values that override the file's.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// This node's name [default: the host name]
    #[arg(long, env = "CRIER_NODE", value_name = "NAME", global = true)]
    pub node: Option<String>,

    /// Uplinks on which VIPs may be announced, comma-separated [default: those with a default route]
    #[arg(long, env = "CRIER_INTERFACES", value_name = "NAMES", value_delimiter = ',', global = true)]
    pub interfaces: Option<Vec<String>>,

    /// Where gossip listens, UDP [default: 0.0.0.0:9651]
    #[arg(long, env = "CRIER_GOSSIP_BIND", value_name = "ADDRESS:PORT", global = true)]
    pub gossip_bind: Option<String>,

    /// Where other nodes reach this one [default: its address on the first uplink]
    #[arg(long, env = "CRIER_GOSSIP_ADVERTISE", value_name = "ADDRESS:PORT", global = true)]
    pub gossip_advertise: Option<String>,

    /// Nodes to join, comma-separated
    #[arg(long, env = "CRIER_GOSSIP_JOIN", value_name = "HOST:PORT", value_delimiter = ',', global = true)]
    pub gossip_join: Option<Vec<String>>,

    /// The cluster's keys [default: /etc/crier/gossip.key]
    #[arg(long, env = "CRIER_GOSSIP_KEY_FILE", value_name = "FILE", global = true)]
    pub gossip_key_file: Option<PathBuf>,

    /// Whether this node takes VIPs over from nodes that carry too many: on or off [default: on]
    #[arg(long, env = "CRIER_REBALANCE", value_name = "ON|OFF", global = true)]
    pub rebalance: Option<String>,

    /// How long peers leave everything to this node when its agent is told to stop; 0s: it hands over [default: 0s]
    #[arg(long, env = "CRIER_RESTART_GRACE", value_name = "TIME", global = true)]
    pub restart_grace: Option<String>,

    /// The folder of manifests [default: /etc/crier/manifests]
    #[arg(long, env = "CRIER_MANIFESTS", value_name = "FOLDER", global = true)]
    pub manifests: Option<PathBuf>,

    /// How packets are forwarded: auto, xdp, tc or off [default: auto]
    #[arg(long, env = "CRIER_FORWARDER_MODE", value_name = "MODE", global = true)]
    pub forwarder_mode: Option<String>,

    /// Where metrics and status are served, or off [default: 0.0.0.0:9650]
    #[arg(long, env = "CRIER_HTTP_BIND", value_name = "ADDRESS:PORT", global = true)]
    pub http_bind: Option<String>,

    /// Where state is kept [default: /var/lib/crier]
    #[arg(long, env = "CRIER_STATE_DIR", value_name = "FOLDER", global = true)]
    pub state_dir: Option<PathBuf>,

    /// The unix socket for crierctl [default: /run/crier/crier.sock]
    #[arg(long, env = "CRIER_SOCKET", value_name = "FILE", global = true)]
    pub socket: Option<PathBuf>,

    /// Where eBPF programs and maps are pinned [default: /sys/fs/bpf/crier]
    #[arg(long, env = "CRIER_PIN_DIR", value_name = "FOLDER", global = true)]
    pub pin_dir: Option<PathBuf>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(long, env = "CRIER_LOG_LEVEL", value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,

    /// text or json [default: text]
    #[arg(long, env = "CRIER_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<String>,
}
