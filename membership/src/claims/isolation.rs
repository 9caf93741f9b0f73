//! What a node does whose gossip with others is, or was, interrupted: it believes the wire, keeps quiet when it may be the
//! one that is cut off, and hears before it speaks when it was held up. `docs/failure-modes.md` has the cases.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Action, Held, Ownership, Reason,
    quorum::{BLIND, Standing},
    wire::Voice,
};
use crate::{NodeName, election::outranks};

/// A node that was held up hears what it has missed before it claims anything, for this long.
const CATCH_UP: Duration = Duration::from_secs(1);
/// A claim younger than this may not have reached the others yet, nor theirs this node.
const CROSSING: Duration = Duration::from_millis(500);
/// Longer than a burst of announcements.
const BURST: Duration = Duration::from_secs(3);
/// The least time between two defences of a VIP (RFC 5227's DEFEND_INTERVAL), and how long one is remembered.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
const INSISTENT: Duration = Duration::from_secs(60);

impl Ownership {
    /// Another machine announces the VIP, or answers for it: the member `node`, or a stranger. Between this node and a
    /// member whose claim is known the claims decide. A node that sees most of its cluster defends the VIP against a
    /// member that has been lost, which is cut off itself then. Before any other member this node yields at once.
    pub fn handle_wire(&mut self, vip: IpAddr, node: Option<&NodeName>, now: Instant, unix_ms: u64) {
        if node == Some(&self.me) || !self.vips.contains_key(&vip) {
            return;
        }
        let held = self.held.contains_key(&vip);
        let member = node.and_then(|node| self.view.members.get(node)).filter(|member| member.state.is_up());
        let up = member.is_some();
        if let Some(member) = member {
            // A hand-over ends when its claim is here. Of claims that have just crossed each other the ranks decide.
            let handing_over = held && !self.may_own(vip);
            let fresh = |held: &Held| now.saturating_duration_since(held.taken) < CROSSING;
            let crossing = self.held.get(&vip).is_some_and(fresh);
            let asked = self.wire.holder(vip).is_some();
            if member.document.claims.contains_key(&vip) || handing_over || crossing || !(held || asked) {
                return;
            }
        } else if let Some(node) = node
            && self.quorum.standing() == Standing::Whole
            && self.held_up.is_none()
            && self.stand_fast(vip, node, now)
        {
            return;
        }
        // A member that is up has claimed it by gossip as well; its frame was faster.
        let reason = match node {
            Some(node) if held && up => self.overtaken(&self.me, node),
            _ => Reason::WireClaim,
        };
        if !held || node.is_some() {
            self.wire.hear(vip, node, reason, self.epochs.highest(vip), now, unix_ms);
        }
        if held && node.is_some() {
            self.withdraw(vip, reason);
            self.actions.push_back(Action::Publish(self.claims()));
        }
        self.evaluate(now, unix_ms);
    }

    /// Whether this node, among the majority, disregards a lost member's announcement; a VIP that it owns it announces once
    /// more, now and when the other's burst is over. If that one insists, it sees a majority too: the rank decides.
    fn stand_fast(&mut self, vip: IpAddr, node: &NodeName, now: Instant) -> bool {
        let Some(held) = self.held.get_mut(&vip) else { return true };
        let since = held.defended.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since > BURST && since < INSISTENT) && outranks(vip, node, &self.me) {
            return false;
        }
        if since.is_none_or(|since| since >= DEFEND_INTERVAL) {
            held.defended = Some(now);
            held.echo = Some(now + BURST);
            self.actions.push_back(Action::Reannounce { vip, reason: Reason::ConflictWon });
        }
        true
    }

    /// Whether it matters who has this VIP.
    #[must_use]
    pub fn concerns(&self, vip: IpAddr) -> bool {
        self.vips.contains_key(&vip)
    }

    /// This agent did not run for a while until `now`: others may have taken its VIPs. To be called before anything else.
    pub fn handle_hold_up(&mut self, now: Instant) {
        let until = now + CATCH_UP;
        self.held_up = Some(until);
        self.wire.begin_anew(now);
        for echo in self.held.values_mut().filter_map(|held| held.echo.as_mut()) {
            *echo = until.max(*echo);
        }
    }

    /// The VIPs that this node can serve from usable pods of its own; taken into account from the next input on.
    pub fn set_serving(&mut self, vips: BTreeSet<IpAddr>) {
        self.serving = vips;
    }

    /// The VIPs to ask for on the wire, about once a second; what is answered belongs into [`Self::handle_wire`].
    #[must_use]
    pub fn questions(&self) -> BTreeSet<IpAddr> {
        self.wire.questions()
    }

    /// How a VIP that this node owns is announced.
    #[must_use]
    pub fn voice(&self, vip: IpAddr) -> Voice {
        let before = |since| self.held.get(&vip).is_some_and(|held| held.taken < since);
        match self.quorum.lost_since() {
            None => Voice::Full,
            Some(since) if before(since) => Voice::Quiet,
            Some(_) if self.quorum.has() => Voice::Full,
            Some(_) => Voice::Once,
        }
    }

    /// How much of its cluster this node sees.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.quorum.standing()
    }

    /// Gives back what was taken from peers that seemed dead one after another, now that most of them do.
    pub(super) fn give_back(&mut self, now: Instant) {
        if self.quorum.lost_since() != Some(now) {
            return;
        }
        // What was to be said in the belief of being well connected is not said.
        self.held.values_mut().for_each(|held| held.echo = None);
        if self.quorum.has() {
            return;
        }
        let blind = |held: &Held| held.reason == Reason::OwnerDown && now.saturating_duration_since(held.taken) < BLIND;
        let taken: Vec<_> = self.held.iter().filter(|(_, held)| blind(held)).map(|(vip, _)| *vip).collect();
        for vip in taken {
            self.withdraw(vip, Reason::Isolated);
        }
    }
}
