//! Announced restarts: members whose agent stops and says that it will be back.
//!
//! Their machines carry traffic meanwhile, so for a short grace nothing of theirs is moved: they count as up
//! ([`MemberState::Restarting`]), and their document is the one they left behind, until their new life has one that says
//! that it is a candidate again. The grace ends early when somebody finds that the machine is gone as well
//! ([`crate::Command::Lost`], [`crate::frame::Frame::Death`]).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{MemberState, NodeDocument, NodeName, documents::Documents, identity::Identity};

/// No restart is believed to take longer, whatever is announced.
pub const GRACE_MAX: Duration = Duration::from_secs(60);
/// Restarts that are remembered at a time.
const MAX_CASES: usize = 256;

/// One announced restart.
#[derive(Debug)]
struct Case {
    /// The life that ended.
    life: Identity,
    /// When it is over at the latest.
    until: Instant,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    cases: BTreeMap<NodeName, Case>,
}

impl Restarts {
    /// A life has ended, and says that the next begins within `grace`. Returns whether that was news.
    pub(crate) fn note(&mut self, life: &Identity, grace: Duration, now: Instant) -> bool {
        let known = self.cases.get(&life.name).is_some_and(|case| !life.supersedes(&case.life));
        if known || grace.is_zero() || self.cases.len() >= MAX_CASES {
            return false;
        }
        let until = now + grace.min(GRACE_MAX);
        self.cases.insert(life.name.clone(), Case { life: life.clone(), until });
        true
    }

    /// Whether this very life has ended by an announced restart, and its grace goes on.
    pub(crate) fn is_away(&self, life: &Identity) -> bool {
        self.cases.get(&life.name).is_some_and(|case| case.life == *life)
    }

    /// The life of this name that is away.
    pub(crate) fn away(&self, name: &NodeName) -> Option<&Identity> {
        self.cases.get(name).map(|case| &case.life)
    }

    /// It is not coming back: its machine is gone. Returns whether it was away.
    pub(crate) fn give_up(&mut self, life: &Identity) -> bool {
        self.is_away(life) && self.cases.remove(&life.name).is_some()
    }

    /// Ends what is over; whether anything was.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let before = self.cases.len();
        self.cases.retain(|_, case| case.until > now);
        self.cases.len() != before
    }

    /// When [`Self::expire`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.cases.values().map(|case| case.until).min()
    }

    /// All that are away, and for how much longer: for whoever has just joined.
    pub(crate) fn pending(&self, now: Instant) -> impl Iterator<Item = (Identity, Duration)> {
        self.cases.values().map(move |case| (case.life.clone(), case.until.saturating_duration_since(now)))
    }

    /// What a node that restarts left behind, as long as that is to count. `identity` and `state` are what is known of it.
    pub(crate) fn document(
        &mut self,
        identity: &Identity,
        state: MemberState,
        documents: &Documents,
    ) -> Option<NodeDocument> {
        let away = &self.cases.get(&identity.name)?.life;
        let back = identity != away;
        if back && (!state.is_up() || documents.is_awake(identity.id(), identity.generation)) {
            self.cases.remove(&identity.name);
            return None;
        }
        documents.left_behind(identity.id(), away.generation)
    }
}
