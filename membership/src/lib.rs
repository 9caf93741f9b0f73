//! Who is alive, and who owns which VIP.
//!
//! Every node runs one [`cluster::Cluster`]: a pure state machine that is fed sealed datagrams, commands and the
//! time, and answers with datagrams to send, a deadline to wake at and, when something changed, a new [`View`].
//! Sockets, files and clocks live in [`io`] (feature `io`); without that feature the crate has no tokio.
//!
//! Reading order: [`node`] (identities), [`document`] (what a node says about itself), [`view`] (what a node
//! knows of all), [`election`] and [`claims`] (from a view to owners).

#![forbid(unsafe_code)]

pub mod claims;
pub mod document;
pub mod election;
pub mod node;
pub mod view;

pub use claims::{Action, Listen, Owner, Ownership, Reason};
pub use document::{Claim, Facts, Interface, NodeDocument, Target, Verdict};
pub use election::Candidates;
pub use node::NodeName;
pub use view::{Member, MemberState, View};
