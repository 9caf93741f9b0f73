//! The roster: members with their states as others of this crate need them, and the view made of them.
//!
//! SWIM knows alive, suspect and down; the roster adds who said goodbye, counts changes, and keeps the up members by id
//! for whoever sends. Owned by [`crate::Cluster`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Member, MemberState, NodeName, View,
    channel::Peer,
    documents::Documents,
    identity::Identity,
    restarts::Restarts,
    rumours::Rumours,
    spread::Peers,
    stats::Stats,
    watch::{Sight, lookout::Lookout},
};

/// What else is known of members' lives and deaths.
pub(crate) struct Evidence<'a> {
    /// What the watch sees.
    pub(crate) lookout: &'a Lookout,
    /// What is believed of what is said.
    pub(crate) rumours: &'a mut Rumours,
    /// Who is to come back.
    pub(crate) restarts: &'a Restarts,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    members: BTreeMap<NodeName, (Identity, MemberState)>,
    /// Who said goodbye, and in which life.
    leavers: BTreeMap<NodeName, Identity>,
    up: Peers,
    shown: Arc<View>,
}

impl Roster {
    /// The view shown last.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> &Arc<View> {
        &self.shown
    }

    /// The members whose agents run, without this node.
    pub(crate) fn up(&self) -> &Peers {
        &self.up
    }

    /// The ids of all members, the remembered dead included.
    pub(crate) fn known(&self) -> BTreeSet<u64> {
        self.members.values().map(|(identity, _)| identity.id()).collect()
    }

    /// Whether exactly this life of a node is up.
    pub(crate) fn is_up(&self, identity: &Identity) -> bool {
        self.members.get(&identity.name).is_some_and(|(known, state)| known == identity && state.is_running())
    }

    /// A node said goodbye.
    pub(crate) fn note_leaver(&mut self, leaver: Identity) {
        if self.members.contains_key(&leaver.name) {
            self.leavers.insert(leaver.name.clone(), leaver);
        }
    }

    /// Some of those that are down, as far as they are remembered.
    pub(crate) fn down(&self) -> impl Iterator<Item = Peer> {
        self.members.values().filter(|(_, state)| *state == MemberState::Down).map(|(identity, _)| Peer::from(identity))
    }

    /// The member of this id and generation, unless it is down already.
    pub(crate) fn life(&self, id: u64, generation: u64) -> Option<&Identity> {
        self.members
            .values()
            .filter(|(_, state)| state.is_running())
            .map(|(identity, _)| identity)
            .find(|identity| identity.id() == id && identity.generation == generation)
    }

    /// What SWIM says of a node; or that it left; or that there is doubt about its death, or about its life.
    fn state_of(&self, identity: &Identity, state: MemberState, evidence: &mut Evidence<'_>) -> MemberState {
        let left = !state.is_running() && self.leavers.get(&identity.name) == Some(identity);
        let sight = evidence.lookout.sight(identity);
        match state {
            _ if !state.is_running() && evidence.restarts.is_away(identity) => MemberState::Restarting,
            _ if left => MemberState::Left,
            // Of who is not up nothing is taken back: that it is heard again is for SWIM to say.
            MemberState::Down if self.is_up(identity) && evidence.rumours.doubts(identity, sight) => {
                MemberState::Suspect
            }
            MemberState::Alive if matches!(sight, Some(Sight::Suspect | Sight::Silent)) => MemberState::Suspect,
            _ => state,
        }
    }

    /// Takes over the members from SWIM. `None`: nothing changed; else those that came up, or came up in another life.
    pub(crate) fn refresh<'a, I: Iterator<Item = (&'a Identity, MemberState)>>(
        &mut self,
        members: impl Fn() -> I,
        evidence: &mut Evidence<'_>,
        stats: &mut Stats,
    ) -> Option<Vec<Peer>> {
        let mut count = 0;
        let unchanged = members().all(|(identity, state)| {
            count += 1;
            let state = self.state_of(identity, state, evidence);
            self.members.get(&identity.name).is_some_and(|(known, before)| known == identity && *before == state)
        });
        // SWIM tells of this node, too, only by events.
        if unchanged && count == self.members.len() && !self.shown.members.is_empty() {
            return None;
        }
        let mut arrived = Vec::new();
        let mut refreshed = BTreeMap::new();
        for (identity, state) in members() {
            let state = self.state_of(identity, state, evidence);
            let before = self.members.get(&identity.name);
            if before.is_none_or(|(_, before)| *before != state) {
                *stats.transitions.entry(state).or_default() += 1;
                tracing::debug!(node = %identity.name, address = %identity.address, ?state, "member");
            }
            let was_up =
                before.is_some_and(|(known, before)| before.is_running() && known.generation == identity.generation);
            if state.is_running() && !was_up {
                arrived.push(Peer::from(identity));
            }
            refreshed.insert(identity.name.clone(), (identity.clone(), state));
        }
        self.members = refreshed;
        self.leavers.retain(|name, leaver| {
            self.members.get(name).is_some_and(|(known, state)| !state.is_up() && !known.supersedes(leaver))
        });
        let up = self.members.values().filter(|(_, state)| state.is_running());
        self.up = up.map(|(identity, _)| Peer::from(identity)).map(|peer| (peer.id, peer)).collect();
        Some(arrived)
    }

    /// The view, if it differs from the one shown last.
    pub(crate) fn view(
        &mut self,
        me: (&Identity, MemberState),
        documents: &Documents,
        restarts: &mut Restarts,
        caught_up: bool,
    ) -> Option<Arc<View>> {
        let others = self.members.values().map(|(identity, state)| (identity, *state));
        let members = others.chain(std::iter::once(me)).map(|(identity, state)| {
            let (id, generation) = (identity.id(), identity.generation);
            let document = restarts.document(identity, state, documents);
            let document = document.or_else(|| documents.get(id, generation).cloned());
            let document = document.or_else(|| documents.former(id, generation)).unwrap_or_default();
            let member = Member { address: identity.address, generation: identity.generation, state, document };
            (identity.name.clone(), member)
        });
        let view = View { members: members.collect(), caught_up };
        if view == *self.shown {
            return None;
        }
        self.shown = Arc::new(view);
        Some(Arc::clone(&self.shown))
    }
}
