//! Identities: which life of which node a message is from or about.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// One life of a node as its peers tell it apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub name: NodeName,
    /// Where its gossip is heard.
    pub address: SocketAddr,
    /// Grows with each start of its agent.
    pub generation: u64,
    /// How often it was declared dead in this generation while it lived. Documents and sessions outlast a renewal.
    pub renewal: u32,
}

impl Identity {
    /// The name's hash: how headers and digests name the node.
    #[must_use]
    pub(crate) fn id(&self) -> u64 {
        node_id(&self.name)
    }

    /// Whether this is a later life of the node than `other`.
    #[must_use]
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        (self.generation, self.renewal, self.address) > (other.generation, other.renewal, other.address)
    }
}

/// The hash by which headers and digests name a node, the same on every machine.
pub(crate) fn node_id(name: &NodeName) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_str().as_bytes())
}
