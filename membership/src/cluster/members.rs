//! Who is up: what the fast watch reports, deaths, and what follows from a changed list of members.

use std::time::{Duration, Instant};

use super::{Cluster, millis};
use crate::{
    MemberState, NodeName,
    channel::Peer,
    frame::Frame,
    identity::Identity,
    roster::Evidence,
    stats::Limit,
    watch::{Plan, Report, Sight},
};

/// Lives found over of which it is remembered, to count those that come back.
const FOUND_DEAD: usize = 1024;
/// How often a member that others take for dead is told so.
const WARN_EVERY: Duration = Duration::from_millis(200);

impl Cluster {
    /// What this node's watch is to do, if that changed since the last call.
    #[must_use]
    pub fn poll_plan(&mut self) -> Option<Plan> {
        self.lookout.poll_plan()
    }

    /// Takes in what this node's watch sees.
    pub fn handle_report(&mut self, report: Report, now: Instant) {
        if self.left {
            return;
        }
        let deaf = report.deaf;
        for (id, generation) in self.lookout.take_report(report) {
            let Some(life) = self.roster.life(id, generation).cloned() else { continue };
            tracing::info!(node = %life.name, address = %life.address, "down: its watchers hear nothing of it, or it hears nobody");
            self.bury(&life, deaf, now);
            self.found_dead.insert(id, generation);
            if self.found_dead.len() > FOUND_DEAD {
                self.found_dead.pop_first();
            }
        }
        if !deaf {
            for life in self.rumours.take_untold(now) {
                self.tell_death(&life, now);
            }
        }
        self.swim.note_report();
        self.settle(now);
    }

    /// A life is over, its watchers agree; or others believe so of this node.
    pub(super) fn handle_death(&mut self, life: &Identity, now: Instant) {
        if life.name == self.swim.identity().name {
            self.swim.handle_death(life, now);
        } else {
            self.bury(life, false, now);
        }
    }

    /// An agent stops, and says that it will be back. Its peers tell newcomers of it.
    pub(super) fn handle_restart(&mut self, life: &Identity, grace: Duration, now: Instant) {
        if life.name == self.swim.identity().name || !self.restarts.note(life, grace, now) {
            return;
        }
        tracing::info!(node = %life.name, ?grace, "its agent restarts: nothing of it is moved meanwhile");
        self.swim.handle_goodbye(life.clone(), now);
        // It may be known as dead already.
        self.take_members(now);
    }

    /// The machine of a member that restarts has gone as well: it is down, everywhere.
    pub(super) fn give_up(&mut self, name: &NodeName, now: Instant) {
        let Some(life) = self.restarts.away(name).cloned() else { return };
        tracing::info!(node = %life.name, "its agent restarts, and its machine does not answer either: it is down");
        self.bury(&life, false, now);
    }

    /// Another's life is over. Who is deaf tells nobody: it may be the one that is cut off.
    fn bury(&mut self, life: &Identity, deaf: bool, now: Instant) {
        let was_away = self.restarts.give_up(life);
        if was_away || self.swim.knows(life) && !self.rumours.is_agreed(life) {
            self.swim.handle_death(life, now);
            self.rumours.agree(life, deaf, now);
            if !deaf {
                self.tell_death(life, now);
            }
        }
    }

    /// Tells all in a small cluster, some, who pass it on, in a large one; and the dead, should it live.
    fn tell_death(&mut self, life: &Identity, now: Instant) {
        let frame = Frame::Death(life.clone());
        let told = self.spread.audience(self.roster.up());
        for peer in told.into_iter().filter(|peer| peer.id != life.id()).chain([Peer::from(life)]) {
            self.channel.send(peer, &frame, now, &mut self.stats);
        }
    }

    /// Takes in what has changed in the list of members.
    pub(super) fn take_members(&mut self, now: Instant) {
        self.stats.renewals = self.swim.renewals();
        self.rumours.begin(now);
        let mut evidence = Evidence { lookout: &self.lookout, rumours: &mut self.rumours, restarts: &self.restarts };
        let arrived = self.roster.refresh(|| self.swim.members(), &mut evidence, &mut self.stats);
        self.warn_slandered(now);
        let Some(arrived) = arrived else { return };
        self.view_is_stale = true;
        let peers = self.roster.up();
        for peer in arrived {
            if let Some(generation) = self.found_dead.remove(&peer.id) {
                self.stats.retractions += u64::from(self.roster.life(peer.id, generation).is_some());
            }
            if !self.discovery.remember(peer.address, now) {
                self.stats.hit(Limit::RememberedPeers, 1);
            }
            self.spread.meet(peer, peers, now);
            for (life, grace) in self.restarts.pending(now).filter(|(life, _)| life.id() != peer.id) {
                self.channel.send(peer, &Frame::Restart(life, millis(grace)), now, &mut self.stats);
            }
        }
        self.discovery.set_up(peers.values().map(|peer| peer.address).collect(), now);
        self.replan();
    }

    /// Tells those whom SWIM takes for dead, and whom this node hears, to renew themselves.
    fn warn_slandered(&mut self, now: Instant) {
        self.rumours.sweep(|life| self.swim.members().any(|(id, state)| id == life && state == MemberState::Down));
        if now < self.next_warning {
            return;
        }
        let heard = |life: &Identity| self.lookout.sight(life) == Some(Sight::Heard);
        let slandered: Vec<Identity> = self.rumours.lives().filter(|life| heard(life)).cloned().collect();
        if !slandered.is_empty() {
            self.next_warning = now + WARN_EVERY;
        }
        for life in slandered {
            self.channel.send(Peer::from(&life), &Frame::Death(life), now, &mut self.stats);
        }
    }

    /// Tells the watch whom to watch from now on.
    pub(super) fn replan(&mut self) {
        if !self.left {
            self.lookout
                .replan(self.channel.own(), self.roster.up(), self.roster.down(), |id| self.channel.session_of(id));
        }
    }
}
