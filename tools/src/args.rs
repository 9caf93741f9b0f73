//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::client::Agent;

const EXIT_CODES: &str = "Exit codes:
  0  done; for `status`: the agent is ready
  1  the agent could not be reached, or refused
  2  what was typed is not understood
  3  `status`: the agent answers, but is not ready";

/// Looks into a running Crier agent and acts on it.
#[derive(Debug, Parser)]
#[command(name = "crierctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    /// The agent: its unix socket (unix:PATH or PATH), or http://HOST:9650 for what only reads
    #[arg(
        long,
        short,
        global = true,
        value_name = "ADDRESS",
        env = "CRIER_AGENT",
        default_value = "unix:/run/crier/crier.sock"
    )]
    pub(crate) agent: Agent,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people
    #[default]
    Table,
    /// JSON for programs, with the field names of /api/v1/status
    Json,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Everything at a glance: the node, members, VIPs, backends, and what is wrong
    Status,
    /// The members of the cluster as this agent sees them
    Members,
    /// The VIPs: who owns each, since when and why
    Vips,
    /// The pods behind each service and their health
    Backends,
    /// The connections to the node's own pods: clients, VIPs, pods (unix socket only)
    Flows {
        /// Those of this service alone
        #[arg(long, value_name = "NAMESPACE/NAME")]
        service: Option<String>,
        /// How many are shown at most; 100000 in any case
        #[arg(long, value_name = "N", default_value_t = announcer::http::flows::USUAL)]
        limit: usize,
    },
    /// Hand all VIPs of the agent's node over to others, and take none (unix socket only)
    Drain {
        /// End the drain: the node may own VIPs again
        #[arg(long)]
        undo: bool,
    },
    /// Have the agent's node take its share of the VIPs over from nodes that carry too many (unix socket only)
    Rebalance,
    /// All the agent tells of itself, as JSON
    Dump,
    /// Print Crier's objects for MetalLB's, and on standard error what has no counterpart; asks kubectl, or reads files
    Migrate {
        /// A file or folder of manifests, or - for standard input, as from
        /// `kubectl get ipaddresspools,l2advertisements,bgpadvertisements -A -o yaml`
        #[arg(long = "filename", short, value_name = "PATH")]
        files: Vec<PathBuf>,
        /// The namespace of Crier's objects
        #[arg(long, default_value = "crier-system")]
        namespace: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_may_stand_behind_the_subcommand() {
        let args = Args::try_parse_from(["crierctl", "status", "-o", "json", "--agent", "/tmp/x.sock"]).unwrap();
        assert_eq!(args.output, Output::Json);
        assert_eq!(args.agent, Agent::Unix("/tmp/x.sock".into()));
    }

    #[test]
    fn the_help_documents_the_exit_codes() {
        assert!(
            Args::command().render_long_help().to_string().contains("3  `status`: the agent answers, but is not ready")
        );
    }
}
