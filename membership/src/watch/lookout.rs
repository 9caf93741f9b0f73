//! The cluster's side of the watch: makes its plans, keeps its reports.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Contact, Plan, Report, Sight,
    ring::{WATCHERS, other_watchers, predecessors, successors},
};
use crate::{channel::Peer, identity::Identity};

/// How often neighbours whose session is unknown are greeted.
const GREET_EVERY: Duration = Duration::from_millis(200);
/// How far the neighbourhood reaches in each direction: those who watch with this node whom it watches, and as many again, for
/// neighbours whose views are not the same.
const REACH: usize = 4 * WATCHERS;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Lookout {
    report: Report,
    plan: Plan,
    plan_is_new: bool,
    /// Neighbours whose session is unknown.
    strangers: Vec<Peer>,
    next_greeting: Instant,
}

impl Lookout {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            report: Report::default(),
            plan: Plan::default(),
            plan_is_new: true,
            strangers: Vec::new(),
            next_greeting: now,
        }
    }

    /// The plan, if it changed since the last call.
    pub(crate) fn poll_plan(&mut self) -> Option<Plan> {
        std::mem::take(&mut self.plan_is_new).then(|| self.plan.clone())
    }

    /// Takes over what the watch sees; returns the lives that it has just found silent.
    pub(crate) fn take_report(&mut self, report: Report) -> Vec<(u64, u64)> {
        let before = std::mem::replace(&mut self.report, report);
        let silent = self.report.sights.iter().filter(|(_, (_, sight))| *sight == Sight::Silent);
        silent
            .filter(|(id, seen)| before.sights.get(id) != Some(seen))
            .map(|(id, (generation, _))| (*id, *generation))
            .collect()
    }

    /// What the watch sees of exactly this life, if it watches it.
    pub(crate) fn sight(&self, identity: &Identity) -> Option<Sight> {
        let (generation, sight) = self.report.sights.get(&identity.id())?;
        (*generation == identity.generation).then_some(*sight)
    }

    /// Makes the plan anew. `up` are the other members that are up, `down` some of those that are not; `session` knows
    /// generation and session of those that were heard.
    pub(crate) fn replan(
        &mut self,
        me: (u64, u64, u64),
        up: &BTreeMap<u64, Peer>,
        down: impl Iterator<Item = Peer>,
        session: impl Fn(u64) -> Option<(u64, u64)>,
    ) {
        let near = successors(up, me.0, REACH).chain(predecessors(up, me.0, REACH));
        // A contiguous stretch of the ring, wherever it is cut open; this node is in it.
        let mut stretch: BTreeMap<u64, Option<Peer>> = near.map(|id| (id, up.get(&id).copied())).collect();
        stretch.insert(me.0, None);
        let contact = |peer: Peer| {
            let (generation, session) = session(peer.id)?;
            Some((peer.id, Contact { address: peer.address, generation, session }))
        };
        let neighbours = stretch.values().flatten().copied();
        let contacts: BTreeMap<_, _> = neighbours.clone().chain(down.take(REACH)).filter_map(contact).collect();
        self.strangers = neighbours.filter(|peer| !contacts.contains_key(&peer.id)).collect();
        let watchers = successors(&stretch, me.0, WATCHERS).collect();
        let watched = predecessors(&stretch, me.0, WATCHERS);
        let watched = watched.map(|id| (id, other_watchers(&stretch, id, me.0))).collect();
        let plan = Plan { me, contacts, watchers, watched };
        if plan != self.plan {
            self.plan = plan;
            self.plan_is_new = true;
        }
    }

    /// This node leaves: no more beats.
    pub(crate) fn close(&mut self, me: (u64, u64, u64)) {
        self.plan = Plan { me, ..Plan::default() };
        self.plan_is_new = true;
        self.strangers.clear();
    }

    /// Neighbours to be greeted now: one cannot watch, or be watched, without knowing the other's session.
    pub(crate) fn greetings_due(&mut self, now: Instant) -> Vec<Peer> {
        if self.strangers.is_empty() || now < self.next_greeting {
            return Vec::new();
        }
        self.next_greeting = now + GREET_EVERY;
        self.strangers.clone()
    }

    /// When [`Self::greetings_due`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (!self.strangers.is_empty()).then_some(self.next_greeting)
    }
}
