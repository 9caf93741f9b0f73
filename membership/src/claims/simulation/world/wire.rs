//! What the nodes of the toy world hear of each other by ARP: announcements, and answers to what they ask.

use super::{BTreeSet, IpAddr, Voice, World};

impl World {
    pub(super) fn hears(&self, to: usize, from: usize) -> bool {
        self.side[to] == self.side[from]
    }

    /// A node hears that another has the VIP.
    pub(super) fn overhear(&mut self, n: usize, vip: IpAddr, holder: usize) {
        let holder = self.nodes[holder].name.clone();
        let (now, unix_ms) = (self.now, 0);
        let Some(ownership) = &mut self.nodes[n].ownership else { return };
        ownership.handle_wire(vip, Some(&holder), now, unix_ms);
        self.act(n, |_| 0);
    }

    /// Every node asks for what it is in doubt about; whoever holds it answers.
    pub(super) fn ask(&mut self) {
        for n in 0..self.nodes.len() {
            let Some(ownership) = &self.nodes[n].ownership else { continue };
            for vip in ownership.questions() {
                for holder in self.holders(vip, self.side[n]).into_iter().filter(|holder| *holder != n) {
                    self.overhear(n, vip, holder);
                }
            }
        }
    }

    /// Splits the gossip, not the wire.
    pub(in super::super) fn split_gossip(&mut self, sides: Vec<u8>) {
        self.say(&format!("gossip {sides:?}"));
        self.gossip = sides;
    }

    /// What a node kept quiet about it announces when it is well connected again.
    pub(super) fn speak_up(&mut self, n: usize) {
        let Some(ownership) = &self.nodes[n].ownership else { return };
        let quiet: BTreeSet<IpAddr> =
            ownership.claims().into_keys().filter(|vip| ownership.voice(*vip) == Voice::Quiet).collect();
        let before = std::mem::replace(&mut self.nodes[n].quiet, quiet);
        let held = self.nodes[n].document.claims.keys().copied().collect::<BTreeSet<_>>();
        for vip in before.difference(&self.nodes[n].quiet.clone()).filter(|vip| held.contains(vip)) {
            self.announce(n, *vip);
        }
    }
}
