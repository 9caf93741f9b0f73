//! The testbed: hosts as network namespaces on one bridge, real agents, faults, traffic and what can be observed.
//!
//! Reading order: [`scenario`] (what a test writes), [`topology`] (the network), [`faults`] (what is done to it),
//! [`agent`] and [`pods`] (what runs in it), [`traffic`] and [`observe`] (what is measured), [`manifests`] (what
//! the agents read), [`kubernetes`] (a real API server to read them from), [`chaos`] (what all of it is put to), [`netns`]
//! and [`cleanup`] (how namespaces come and, whatever happens, go).
//!
//! ```no_run
//! use e2e::{manifests::web, scenario::Cluster};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::three("cut-the-owner").service(web().tcp(80).dual_stack()).start()?;
//! let vip = cluster.vip4();
//! let owner = cluster.owner(vip)?;
//! cluster.lan.cut(&owner)?;
//! cluster.new_owner(vip, &owner)?;
//! cluster.get(vip)?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything needs root: namespaces, veths and raw sockets are made with it. Nothing leaves the namespaces.
#![expect(clippy::disallowed_methods, reason = "edge: the testbed drives real processes in real time")]

pub mod agent;
pub mod backbone;
pub mod bench;
pub mod chaos;
pub mod cleanup;
pub mod crowd;
pub mod faults;
pub mod http;
pub mod keepalived;
pub mod kubernetes;
pub mod longlived;
pub mod lossless;
pub mod manifests;
pub mod metrics;
pub mod netns;
pub mod objects;
pub mod observe;
pub mod pods;
mod poll;
pub mod scenario;
pub mod sniffer;
mod stamps;
pub mod status;
mod switch;
pub mod topology;
pub mod traffic;
