//! Whether this node sees most of its cluster.
//!
//! A node that is cut off believes all others dead. It serves whom it can reach, so it claims their VIPs too; but the
//! others hold them still, and must not lose them to it on the day it comes back. So what a minority claims has
//! epoch 0, which every other claim beats, and becomes a full claim only once enough of them have been back for a while.
//! Exactly half is no minority: of two nodes the one that is left is to take over.

use std::time::{Duration, Instant};

use crate::{MemberState, View};

/// Members come back one by one, and their claims a moment later. Until this long after the last minority, what the
/// node claims may be somebody's.
const REGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) enum Quorum {
    #[default]
    Has,
    Lost {
        /// How many members there were when it was lost: that the others are forgotten after a while is no recovery.
        of: usize,
    },
    Regaining {
        since: Instant,
    },
}

impl Quorum {
    /// Counts the members: those that are up against those that are not, and not known to have left.
    pub(super) fn step(&mut self, view: &View, now: Instant) {
        let up = view.up().count();
        let down = view.members.values().filter(|member| member.state == MemberState::Down).count();
        match self {
            Self::Lost { of } if up < down || 2 * up < *of => *of = (*of).max(up + down),
            Self::Lost { .. } => *self = Self::Regaining { since: now },
            _ if up < down => *self = Self::Lost { of: up + down },
            Self::Regaining { since } if now.saturating_duration_since(*since) >= REGAIN => *self = Self::Has,
            Self::Regaining { .. } | Self::Has => {}
        }
    }

    /// Whether what this node claims counts in full.
    pub(super) fn has(&self) -> bool {
        matches!(self, Self::Has)
    }

    /// When to step again without a new view.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Regaining { since } => since.checked_add(REGAIN),
            Self::Has | Self::Lost { .. } => None,
        }
    }
}
