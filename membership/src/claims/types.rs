//! The words of the claims machine: what it asks its caller to do, and why ownership changes.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{Claim, NodeName};

/// Why a VIP came to a node or left it. Closed, so that it can be a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody was known to have owned it before.
    FirstClaim,
    /// It was already owned when this node first looked; why is not known here.
    Found,
    /// Its owner was found dead.
    OwnerDown,
    /// Its owner said goodbye.
    OwnerLeft,
    /// Its owner is up, could own it, but gave it up (its agent restarted).
    OwnerReleased,
    /// Its owner is up but may not own it any more: draining, lost the interface, or has no local pod.
    Handover,
    /// Its owner is back from a restart that it announced, and nobody has taken it meanwhile.
    Resumed,
    /// Its owner carried too many VIPs, and its new owner too few.
    Rebalance,
    /// Two nodes claimed it; this node's claim won.
    ConflictWon,
    /// Two nodes claimed it with the same epoch; the other one's rank is higher.
    ConflictLost,
    /// Another node claimed it with a higher epoch while its owner could still own it (a healed partition).
    Superseded,
    /// Its owner is up, but does not answer for it on the wire.
    Silent,
    /// A member that gossip does not reach, or whose claim is not known yet, was heard to announce it.
    WireClaim,
    /// It was taken from peers that seemed dead, just before it turned out that this node is the one cut off.
    Isolated,
    /// This node may not own it any more, and no other node can take it.
    Ineligible,
    /// It is not desired any more.
    Removed,
    /// The agent stops.
    Shutdown,
}

impl Reason {
    /// Every reason, for registering metrics.
    pub const ALL: [Self; 17] = [
        Self::FirstClaim,
        Self::Found,
        Self::OwnerDown,
        Self::OwnerLeft,
        Self::OwnerReleased,
        Self::Handover,
        Self::Resumed,
        Self::Rebalance,
        Self::ConflictWon,
        Self::ConflictLost,
        Self::Superseded,
        Self::Silent,
        Self::WireClaim,
        Self::Isolated,
        Self::Ineligible,
        Self::Removed,
        Self::Shutdown,
    ];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstClaim => "first_claim",
            Self::Found => "found",
            Self::OwnerDown => "owner_down",
            Self::OwnerLeft => "owner_left",
            Self::OwnerReleased => "owner_released",
            Self::Handover => "handover",
            Self::Resumed => "resumed",
            Self::Rebalance => "rebalance",
            Self::ConflictWon => "conflict_won",
            Self::ConflictLost => "conflict_lost",
            Self::Superseded => "superseded",
            Self::Silent => "silent",
            Self::WireClaim => "wire_claim",
            Self::Isolated => "isolated",
            Self::Ineligible => "ineligible",
            Self::Removed => "removed",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the caller has to do, in the order in which it is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put these claims, all this node has, into its document and flood them.
    Publish(BTreeMap<IpAddr, Claim>),
    /// Put this into the node's facts (`facts.listening`).
    Listening(bool),
    /// Begin to answer for the VIP, and announce it with a burst that goes on for more than a second: a rival that
    /// claimed at the same moment may fall silent before its claim was seen here, but after it announced.
    Announce {
        /// The VIP.
        vip: IpAddr,
        /// The epoch of the claim behind it.
        epoch: u64,
        /// Why it comes here.
        reason: Reason,
    },
    /// Announce a VIP again that this node answers for already: another node may have announced it meanwhile.
    Reannounce {
        /// The VIP.
        vip: IpAddr,
        /// `ConflictWon`, or `Handover` when the old owner has fallen silent.
        reason: Reason,
    },
    /// Stop answering for the VIP at once.
    Withdraw {
        /// The VIP.
        vip: IpAddr,
        /// Why it leaves.
        reason: Reason,
    },
}

/// A VIP's owner, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The node whose claim wins.
    pub node: NodeName,
    /// The epoch of that claim.
    pub epoch: u64,
    /// When it was claimed, milliseconds since the Unix epoch by the owner's clock.
    pub since_ms: u64,
    /// Why the VIP came there, as far as the observer can tell.
    pub reason: Reason,
}
