//! Plain counters of what a node's gossip did. The agent turns them into metrics; nothing is decided by them.

use std::{collections::BTreeMap, time::Duration};

use crate::MemberState;

/// Why a datagram was dropped. A closed set: its labels are metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// Too short, too long, or its opened content makes no sense.
    Malformed,
    /// Another version of the wire format.
    WrongVersion,
    /// No key of the ring opens it: another cluster, a forgotten rotation, or forged.
    WrongKey,
    /// Sent under this node's own name: reflected, or two nodes share a name.
    OwnName,
    /// Meant for another session: this agent has restarted since, or the datagram was recorded elsewhere.
    WrongSession,
    /// Seen before, or older than the window reaches.
    Replay,
    /// From an earlier life of its sender.
    StaleGeneration,
    /// From a sender for whom there is no room to remember counters.
    TooManySenders,
    /// Looks like a member's, but too many like it from its address or others that are no member's did not open.
    Throttled,
    /// Dropped by the kernel before the watch read it: for another session of this node, or there was no room.
    Unread,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::WrongVersion,
        Self::WrongKey,
        Self::OwnName,
        Self::WrongSession,
        Self::Replay,
        Self::StaleGeneration,
        Self::TooManySenders,
        Self::Throttled,
        Self::Unread,
    ];

    /// The reason as a metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongVersion => "wrong_version",
            Self::WrongKey => "wrong_key",
            Self::OwnName => "own_name",
            Self::WrongSession => "wrong_session",
            Self::Replay => "replay",
            Self::StaleGeneration => "stale_generation",
            Self::TooManySenders => "too_many_senders",
            Self::Throttled => "throttled",
            Self::Unread => "unread",
        }
    }
}

/// A bound that was hit: something was left out. A closed set: its labels are metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Entries of this node's document did not fit their cell and are not gossiped.
    CellFull,
    /// Documents of more nodes than are kept.
    TooManyNodes,
    /// Frames that waited for a session were dropped.
    PendingFrames,
    /// Hellos were not sent because too many were asked for at once.
    HelloRate,
    /// Peers were not remembered because there are too many.
    RememberedPeers,
    /// A repair was cut short; the next digest goes on.
    RepairBurst,
}

impl Limit {
    /// All limits.
    pub const ALL: [Self; 6] = [
        Self::CellFull,
        Self::TooManyNodes,
        Self::PendingFrames,
        Self::HelloRate,
        Self::RememberedPeers,
        Self::RepairBurst,
    ];

    /// The limit as a metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::CellFull => "cell_full",
            Self::TooManyNodes => "too_many_nodes",
            Self::PendingFrames => "pending_frames",
            Self::HelloRate => "hello_rate",
            Self::RememberedPeers => "remembered_peers",
            Self::RepairBurst => "repair_burst",
        }
    }
}

/// Counters since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams received, rejected ones included.
    pub packets_in: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// Bytes received, headers of UDP and below not counted.
    pub bytes_in: u64,
    /// Bytes sent, headers of UDP and below not counted.
    pub bytes_out: u64,
    /// Datagrams dropped, by reason; a reason that never occurred is absent.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Changes of other members' states, by the state they changed to.
    pub transitions: BTreeMap<MemberState, u64>,
    /// Bounds that were hit.
    pub limits: BTreeMap<Limit, u64>,
    /// Times this node was declared dead while it lived, and renewed its identity.
    pub renewals: u64,
    /// Times another node was found dead by its watchers, and came back in the same life.
    pub retractions: u64,
    /// Times another agent of this node's name has shown itself.
    pub name_conflicts: u64,
    /// The fast watch. Its datagrams are counted here alone.
    pub watch: WatchStats,
}

/// Counters of the fast watch since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Beats sent.
    pub beats_out: u64,
    /// Beats received.
    pub beats_in: u64,
    /// Pings sent: somebody was late.
    pub pings_out: u64,
    /// Pings received.
    pub pings_in: u64,
    /// Questions sent to other watchers.
    pub questions_out: u64,
    /// Bytes received, headers of UDP and below not counted.
    pub bytes_in: u64,
    /// Bytes sent, headers of UDP and below not counted.
    pub bytes_out: u64,
    /// Times a node was overdue here.
    pub suspicions: u64,
    /// Times one was heard after all, by this node or another watcher.
    pub false_alarms: u64,
    /// Nodes found dead, by the time from when they were last heard.
    pub verdicts: Detections,
    /// Times this node was held up itself, which is not counted against others.
    pub holdups: u64,
    /// For how long, in all.
    pub held_up: Duration,
    /// Datagrams dropped, by reason.
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Datagrams that came to the wrong one of the two sockets, and were handed over.
    pub misrouted: u64,
}

/// A histogram of detection times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detections {
    /// How many lie within each of [`Self::BOUNDS_MS`], those beyond the last left out; not cumulative.
    pub buckets: [u64; Self::BOUNDS_MS.len()],
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
}

impl Detections {
    /// Upper bounds of the buckets, milliseconds.
    pub const BOUNDS_MS: [u64; 13] = [10, 20, 30, 40, 60, 100, 125, 150, 200, 300, 500, 1000, 5000];

    pub(crate) fn observe(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        let fitting = Self::BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        if let Some(bucket) = fitting.and_then(|index| self.buckets.get_mut(index)) {
            *bucket += 1;
        }
    }
}

impl Stats {
    pub(crate) fn reject(&mut self, reason: RejectReason) {
        *self.rejected.entry(reason).or_default() += 1;
    }

    pub(crate) fn hit(&mut self, limit: Limit, times: usize) {
        if times == 0 {
            return;
        }
        let count = self.limits.entry(limit).or_default();
        // The first hit is worth a line in the log; the counter tells the rest.
        if *count == 0 {
            tracing::warn!(limit = limit.label(), times, "a limit of the gossip was hit");
        }
        *count += u64::try_from(times).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_distinct() {
        let reasons: BTreeSet<_> = RejectReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(reasons.len(), RejectReason::ALL.len());
        let limits: BTreeSet<_> = Limit::ALL.iter().map(|limit| limit.label()).collect();
        assert_eq!(limits.len(), Limit::ALL.len());
    }
}
