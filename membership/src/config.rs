//! Settings of the membership, and the protocol timings that follow from them.

use std::{net::SocketAddr, time::Duration};

use crate::{KeyRing, identity::Identity};

/// How closely members watch each other (`gossip.watch` of the agent's configuration).
///
/// With `i` the interval and `m` the misses, each node
/// - sends a beat every `i` to its next three neighbours on a ring, its watchers; in clusters of up to four, to all;
/// - suspects one that it watches when it was not heard for `m i` and a tenth of `i`, having pinged it since `1.5 i`, and asks
///   its other watchers. When those have not heard it for more than `(m - 1) i` either, it is down, and all are told.
///
/// So from the moment a node dies until all know, `(m - 1) i` to `m i` pass, a tenth of `i`, and a round trip or two: 105 to
/// 155 ms by default, 21 to 31 ms with [`Watch::FAST`]. Up to one `i` more where the other watchers died as well.
/// Beats carry the sender's interval; a watcher goes by the longer of its own and that.
///
/// A node that was held up itself (a busy machine, a paused VM) does not count that time against others.
///
/// SWIM stays as the list of members and as the backup. It has timings of its own: a probe a second, three seconds for a
/// suspect to refute, times log10 of the cluster's size where that is above one. An interval above half a second makes it
/// slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// From one beat to the next. 10 ms to 10 s; default 50 ms.
    pub interval: Duration,
    /// How many beats may be missed. 1 to 100; default 3.
    pub misses: u32,
}

impl Default for Watch {
    fn default() -> Self {
        Self { interval: Duration::from_millis(50), misses: 3 }
    }
}

impl Watch {
    /// For media and the like: needs a machine that is not overloaded.
    pub const FAST: Self = Self { interval: Duration::from_millis(10), misses: 3 };

    /// The same with values brought into the ranges the fields document.
    #[must_use]
    pub(crate) fn clamped(self) -> Self {
        Self {
            interval: self.interval.clamp(Duration::from_millis(10), Duration::from_secs(10)),
            misses: self.misses.clamp(1, 100),
        }
    }

    /// How long a member may take to answer a probe of SWIM's.
    pub(crate) fn probe_rtt(self) -> Duration {
        self.probe_period() / 3
    }

    pub(crate) fn probe_period(self) -> Duration {
        Duration::from_secs(1).max(self.interval * 2)
    }

    /// How long a suspect of SWIM's has to refute in a cluster of `size` nodes.
    pub(crate) fn suspicion(self, size: usize) -> Duration {
        let patience = u32::try_from(size).map_or(f64::MAX, f64::from).max(1.0).log10().max(1.0);
        (self.probe_period() * 3).mul_f64(patience)
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
        assert_eq!(watch.suspicion(0), Duration::from_secs(3));
        assert_eq!(watch.suspicion(10), Duration::from_secs(3));
        assert_eq!(watch.suspicion(100), Duration::from_secs(6));
    }
}
