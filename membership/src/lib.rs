//! Who is alive, and who owns which VIP.
//!
//! Every node runs one [`cluster::Cluster`]: a pure state machine that is fed sealed datagrams, commands and the
//! time, and answers with datagrams to send, a deadline to wake at and, when something changed, a new [`View`].
//! Sockets, files and clocks live in [`io`] (feature `io`); without that feature the crate has no tokio.
//!
//! Reading order: [`node`] and [`identity`] (who is who), [`document`] (what a node says about itself), [`view`] (what a node
//! knows of all), [`election`] and [`claims`] (from a view to owners).

#![forbid(unsafe_code)]

mod catch_up;
mod cells;
mod channel;
pub mod claims;
pub mod cluster;
pub mod config;
mod digest;
mod discovery;
pub mod document;
mod documents;
pub mod election;
mod frame;
mod header;
pub mod identity;
#[cfg(feature = "io")]
pub mod io;
mod namesake;
pub mod node;
mod replay;
mod restarts;
mod roster;
mod rumours;
pub mod seal;
mod session;
#[cfg(test)]
mod sim;
mod spread;
pub mod stats;
mod swim;
mod timers;
pub mod view;
pub mod watch;

pub use claims::{Action, Listen, Owner, Ownership, Reason, Standing, Voice};
pub use cluster::{Cluster, Command};
pub use config::{Config, Watch};
pub use document::{Claim, Facts, Findings, Interface, NodeDocument, Target, Verdict};
pub use election::Candidates;
pub use identity::Identity;
pub use node::NodeName;
pub use restarts::GRACE_MAX;
pub use seal::{KeyError, KeyRing, Nonces, new_key};
pub use stats::{Detections, Limit, RejectReason, Stats, WatchStats};
pub use view::{Member, MemberState, View};
