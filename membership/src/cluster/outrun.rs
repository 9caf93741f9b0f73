//! What a node does that hears of a higher generation of its own name: see [`crate::namesake`].

use std::time::Instant;

use rand::RngExt as _;

use super::Cluster;

impl Cluster {
    /// Hears of a generation of this node's name that is not this life's. Whether this life is, and for now stays, behind.
    pub(super) fn outrun(&mut self, other: u64, now: Instant) -> bool {
        if other < self.swim.identity().generation {
            return false;
        }
        let jumps = self.namesake.outrun(now, self.rng.random());
        self.complain();
        if jumps {
            self.jump_above(other, now);
        }
        !jumps
    }

    /// Says that there is another agent of this name, if it is time to.
    pub(super) fn complain(&mut self) {
        self.stats.name_conflicts = self.namesake.conflicts();
        if let Some(address) = self.namesake.take_complaint() {
            let other = address.map_or("an unknown address".to_owned(), |address| address.to_string());
            tracing::error!(node = %self.swim.identity().name, other, "another agent of this cluster has this node's \
                name; peers can see only one of the two. Give each node its own `node:` name");
        }
    }

    pub(super) fn jump_above(&mut self, other: u64, now: Instant) {
        tracing::warn!(other, "an earlier life of this node, or another agent of its name, had a higher generation");
        let generation = self.channel.jump_above(other);
        // The document goes first: peers show only what has the generation they know the node by, and to lose sight of
        // its claims is to take its VIPs.
        self.spread.set_own_generation(generation, self.roster.up());
        self.send_documents(now);
        self.swim.set_generation(generation, now);
    }
}
