//! What must hold in the toy world when it has come to rest.

use super::{BTreeMap, BTreeSet, IpAddr, Voice, World};

impl World {
    /// The nodes on a side that claim the VIP.
    pub(super) fn holders(&self, vip: IpAddr, side: u8) -> Vec<usize> {
        let holds = |n: &usize| {
            self.side[*n] == side
                && self.nodes[*n].ownership.as_ref().is_some_and(|ownership| ownership.claims().contains_key(&vip))
        };
        (0..self.nodes.len()).filter(holds).collect()
    }

    pub(in super::super) fn everything_held(&self) -> BTreeMap<IpAddr, Vec<usize>> {
        self.vips.iter().map(|vip| (*vip, self.holders(*vip, 0))).collect()
    }

    /// One owner per VIP and side where there is a candidate, known to all nodes of the side and to its clients.
    pub(in super::super) fn check_settled(&self) {
        for side in self.side.iter().copied().collect::<BTreeSet<_>>() {
            let here: Vec<usize> = (0..self.nodes.len()).filter(|n| self.side[*n] == side).collect();
            let running = |n: &usize| self.nodes[*n].ownership.is_some();
            let able = |n: &usize| running(n) && self.nodes[*n].has_uplink && !self.nodes[*n].document.facts.draining;
            if !here.iter().any(able) {
                continue;
            }
            for vip in &self.vips {
                let holders = self.holders(*vip, side);
                assert_eq!(holders.len(), 1, "{vip} on side {side} {here:?} is held by {holders:?}");
                assert!(able(&holders[0]), "{vip} is held by n{} which may not", holders[0]);
                let owner = &self.nodes[holders[0]].name;
                for n in here.iter().copied() {
                    if let Some(ownership) = &self.nodes[n].ownership {
                        let seen = ownership.owners().get(vip).map(|owner| &owner.node);
                        assert_eq!(seen, Some(owner), "owner of {vip} as n{n} sees it");
                    }
                    // A minority does not contradict what clients believe: they find out when they ask again.
                    let quiet =
                        self.nodes[holders[0]].ownership.as_ref().is_some_and(|it| it.voice(*vip) != Voice::Full);
                    let believed = self.beliefs[n].get(vip).filter(|_| !quiet).unwrap_or(&holders[0]);
                    assert_eq!(*believed, holders[0], "what the client beside n{n} believes of {vip}");
                }
            }
        }
    }

    /// One owner on the wire, whatever the nodes can tell each other.
    pub(in super::super) fn check_wire(&self) {
        for vip in &self.vips {
            let holders = self.holders(*vip, 0);
            assert_eq!(holders.len(), 1, "{vip} is held by {holders:?}");
            for beliefs in &self.beliefs {
                let believed = beliefs.get(vip).unwrap_or(&holders[0]);
                assert_eq!(*believed, holders[0], "what a client believes of {vip}");
            }
        }
    }
}
