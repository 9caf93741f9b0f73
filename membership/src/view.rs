//! What one node knows of all: the members and their documents at one moment.
//!
//! A view is a value. Elections, claims, the forwarder's tables and the status page are functions of it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{NodeDocument, NodeName};

/// Whether a member can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Answers probes.
    Alive,
    /// Missed a probe and has not refuted it yet; still counts as a candidate and as a forwarding node.
    Suspect,
    /// Its agent restarts, as it announced, and its machine goes on meanwhile: nothing of it is moved for a short grace.
    Restarting,
    /// Found dead.
    Down,
    /// Said goodbye.
    Left,
}

impl MemberState {
    /// Alive, suspect or restarting: may own VIPs and receive traffic.
    #[must_use]
    pub fn is_up(self) -> bool {
        self.is_running() || self == Self::Restarting
    }

    /// Alive or suspect: its agent is there, and can be talked to.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A node and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where its gossip is heard.
    pub address: SocketAddr,
    /// Grows with each start of its agent.
    pub generation: u64,
    /// Whether it can be counted on.
    pub state: MemberState,
    /// Its document. Kept for a while after death: epochs are learned from it, and late packets may still be
    /// handed to its MAC.
    pub document: NodeDocument,
}

/// The cluster as one node sees it, itself included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// All members by name, the dead that are not yet forgotten included.
    pub members: BTreeMap<NodeName, Member>,
    /// This node has exchanged documents with a peer since it started, so it knows the claims that were there before it.
    pub caught_up: bool,
}

impl View {
    /// The members that are up, by name.
    pub fn up(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.members.iter().filter(|(_, member)| member.state.is_up())
    }
}
