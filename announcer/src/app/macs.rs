//! Whose MAC is it? Pure.
//!
//! The view forgets members a minute after their death; but a member that is only out of reach goes on announcing VIPs, and must
//! not be taken for a stranger then. So MACs are remembered for as long as there is room.

use std::collections::{BTreeMap, BTreeSet};

use membership::{NodeName, View, document::Mac};

/// MACs remembered beyond those in the view.
const ROOM: usize = 4096;

#[derive(Debug)]
struct Entry {
    node: NodeName,
    up: bool,
    /// The last view that had it.
    seen: u64,
}

/// The MACs of members, past ones included.
#[derive(Debug, Default)]
pub(super) struct Macs {
    known: BTreeMap<Mac, Entry>,
    views: u64,
}

impl Macs {
    /// Takes in a view. Of members that share a MAC one that is up counts.
    pub(super) fn update(&mut self, view: &View) {
        self.views += 1;
        for entry in self.known.values_mut() {
            entry.up = false;
        }
        for (name, member) in &view.members {
            for interface in &member.document.facts.interfaces {
                let up = member.state.is_up();
                let taken = self.known.get(&interface.mac).is_some_and(|entry| entry.up && entry.seen == self.views);
                if up || !taken {
                    self.known.insert(interface.mac, Entry { node: name.clone(), up, seen: self.views });
                }
            }
            // One that is up and has no uplink now, or whose facts have not arrived, is not out of reach.
            for entry in self.known.values_mut().filter(|entry| entry.node == *name) {
                entry.up |= member.state.is_up();
            }
        }
        let past = self.known.values().filter(|entry| entry.seen < self.views).count();
        if past > ROOM {
            let mut oldest: Vec<_> = self.known.iter().map(|(mac, entry)| (entry.seen, *mac)).collect();
            oldest.sort_unstable();
            for (_, mac) in oldest.into_iter().take(past - ROOM) {
                self.known.remove(&mac);
            }
        }
    }

    /// The member with this MAC on one of its uplinks, now or earlier.
    pub(super) fn node(&self, mac: Mac) -> Option<&NodeName> {
        self.known.get(&mac).map(|entry| &entry.node)
    }

    /// The MACs of members that gossip does not reach.
    pub(super) fn absent(&self) -> BTreeSet<Mac> {
        self.known.iter().filter(|(_, entry)| !entry.up).map(|(mac, _)| *mac).collect()
    }
}

#[cfg(test)]
mod tests {
    use membership::{Facts, Interface, Member, MemberState, NodeDocument};

    use super::*;

    fn view(members: &[(&str, u8, MemberState)]) -> View {
        let member = |&(name, mac, state): &(&str, u8, MemberState)| {
            let uplink = Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 0, mac], prefixes: vec![] };
            let facts = Facts { interfaces: vec![uplink], ..Facts::default() };
            let document = NodeDocument { facts, ..NodeDocument::default() };
            (name.parse().unwrap(), Member { address: "10.0.0.1:1".parse().unwrap(), generation: 1, state, document })
        };
        View { members: members.iter().map(member).collect(), caught_up: true }
    }

    fn absent(macs: &Macs) -> Vec<u8> {
        macs.absent().iter().map(|mac| mac[5]).collect()
    }

    #[test]
    fn a_member_is_known_long_after_the_view_has_forgotten_it() {
        let mut macs = Macs::default();
        macs.update(&view(&[("a", 1, MemberState::Alive), ("b", 2, MemberState::Alive)]));
        assert_eq!(absent(&macs), [0u8; 0]);
        macs.update(&view(&[("a", 1, MemberState::Alive), ("b", 2, MemberState::Down)]));
        assert_eq!(absent(&macs), [2]);
        macs.update(&view(&[("a", 1, MemberState::Alive)]));
        assert_eq!((absent(&macs), macs.node([2, 0, 0, 0, 0, 2]).map(NodeName::as_str)), (vec![2], Some("b")));
        macs.update(&view(&[("a", 1, MemberState::Alive), ("b", 3, MemberState::Alive)]));
        assert_eq!(absent(&macs), [0u8; 0], "its old MAC is its own still");
    }

    #[test]
    fn a_mac_that_moved_to_a_living_member_is_that_ones() {
        let mut macs = Macs::default();
        macs.update(&view(&[("a", 1, MemberState::Alive), ("b", 1, MemberState::Down)]));
        assert_eq!((absent(&macs), macs.node([2, 0, 0, 0, 0, 1]).map(NodeName::as_str)), (vec![], Some("a")));
    }

    #[test]
    fn memory_is_bounded() {
        let mut macs = Macs::default();
        for n in 0..u16::try_from(ROOM).unwrap() + 100 {
            let mut view = view(&[("a", 1, MemberState::Alive), ("b", 2, MemberState::Alive)]);
            let [high, low] = n.to_be_bytes();
            let facts = &mut view.members.get_mut(&"b".parse().unwrap()).unwrap().document.facts;
            facts.interfaces[0].mac = [4, 0, 0, 0, high, low];
            macs.update(&view);
        }
        assert!(macs.known.len() <= ROOM + 2, "{}", macs.known.len());
    }
}
