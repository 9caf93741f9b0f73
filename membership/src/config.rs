//! Settings of the membership, and the protocol timings that follow from them.

use std::{net::SocketAddr, time::Duration};

use crate::{KeyRing, identity::Identity};

/// How closely members watch each other (`gossip.watch` of the agent's configuration).
///
/// With `i` the interval and `m` the misses, each node
/// - probes one member every `2 i`, in shuffled rounds so that each has its turn; the probed one has `i` to answer
///   directly, then until the period's end to answer through up to three others, and is suspected after that;
/// - tells a suspect directly that it is suspected, again with each interval, so that a living one refutes within a
///   round trip;
/// - declares a suspect dead `m i` after the suspicion, times log10 of the cluster's size where that is above one,
///   because in a larger cluster the news has a longer way.
///
/// So in a small cluster death is known after a wait for the next probe (up to `2 i` for each other member, shared
/// by all who probe), `2 i` for the probe and `m i` for the suspicion: with the defaults and three nodes
/// 250 to 450 ms. A node that was held up itself (a busy machine, a paused VM) does not count that time against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// How long a member may take to answer a probe. 10 ms to 10 s; default 50 ms.
    pub interval: Duration,
    /// How many intervals a suspect has to refute. 1 to 100; default 3.
    pub misses: u32,
}

impl Default for Watch {
    fn default() -> Self {
        Self { interval: Duration::from_millis(50), misses: 3 }
    }
}

impl Watch {
    /// The same with values brought into the ranges the fields document.
    #[must_use]
    pub(crate) fn clamped(self) -> Self {
        Self {
            interval: self.interval.clamp(Duration::from_millis(10), Duration::from_secs(10)),
            misses: self.misses.clamp(1, 100),
        }
    }

    pub(crate) fn probe_rtt(self) -> Duration {
        self.interval
    }

    pub(crate) fn probe_period(self) -> Duration {
        self.interval * 2
    }

    /// How long a suspect has to refute in a cluster of `size` nodes.
    pub(crate) fn suspicion(self, size: usize) -> Duration {
        let patience = u32::try_from(size).map_or(f64::MAX, f64::from).max(1.0).log10().max(1.0);
        (self.interval * self.misses).mul_f64(patience)
    }

    /// How long ago a member may have been heard to be alive whatever rumours say. In a small cluster members hear each
    /// other more often; less than it takes to find a dead member dead, so that this delays nothing.
    pub(crate) fn earshot(self) -> Duration {
        self.interval * 5
    }

    /// How often a random member's knowledge is compared with one's own.
    pub(crate) fn digest_period(self) -> Duration {
        self.interval * 4
    }
}

/// What a [`crate::Cluster`] is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node: its name, where its gossip is heard, and the generation of this start.
    pub identity: Identity,
    /// The keys of the cluster.
    pub keys: KeyRing,
    /// Addresses to join by, tried for as long as no member has them.
    pub seeds: Vec<SocketAddr>,
    /// Addresses of members of the past, tried likewise.
    pub remembered: Vec<SocketAddr>,
    /// How closely members watch each other.
    pub watch: Watch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_clusters_are_more_patient() {
        let watch = Watch::default();
        assert_eq!(watch.suspicion(0), Duration::from_millis(150));
        assert_eq!(watch.suspicion(10), Duration::from_millis(150));
        assert_eq!(watch.suspicion(100), Duration::from_millis(300));
    }
}
