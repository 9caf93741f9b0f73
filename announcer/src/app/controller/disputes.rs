//! What is done when a VIP is another's on the wire: heard by the announcer, or found by asking as clients do.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use membership::{Command, claims::Standing};
use tracing::{info, warn};

use super::{Controller, unix_ms};
use crate::announce::Conflict;

impl Controller {
    /// Another machine has a VIP. What members say on the wire counts where gossip does not tell: whether anything was
    /// changed by it. Against others the VIP is defended.
    pub(super) fn note(&mut self, conflict: &Conflict) -> bool {
        let (vip, interface, mac) = (conflict.vip, &conflict.interface, pnet_base::MacAddr::from(conflict.mac));
        let now = Instant::now();
        if !self.ownership.concerns(vip) {
            return false;
        }
        let node = self.macs.node(conflict.mac).cloned();
        if let Some(node) = &node {
            info!(%vip, interface, %node, "another member announces a VIP, or answers for it");
        }
        if node.is_some() || !self.answering.contains_key(&vip) {
            self.ownership.handle_wire(vip, node.as_ref(), now, unix_ms());
            return true;
        }
        self.outputs.events.vip_conflict(vip);
        warn!(%vip, interface, %mac, "a machine outside the cluster uses a VIP that this node owns: find its MAC");
        self.outputs.strangers.send_modify(|strangers| strangers.note(conflict, SystemTime::now()));
        self.defend(vip);
        false
    }

    /// Announces a VIP of this node again, unless that was done a moment ago, or this node has just lost most of its
    /// cluster, and may not know all members any more. Returns whether it did.
    fn defend(&mut self, vip: IpAddr) -> bool {
        let due = self.answering.contains_key(&vip)
            && self.ownership.standing() != Standing::Minority
            && self.defence.is_due(vip, Instant::now());
        if due {
            self.outputs.announcer.again(vip);
        }
        due
    }

    /// The VIPs of this node for which a peer got other answers than this node's, too.
    fn disputed(&self) -> BTreeSet<IpAddr> {
        let peers = self.view.up().filter(|(name, _)| **name != self.me);
        let named = peers.flat_map(|(_, member)| &member.document.facts.findings.disputed);
        named.filter(|vip| self.answering.contains_key(vip)).copied().collect()
    }

    /// An answer to somebody else is not heard here, so a machine that only answers is known by what peers tell.
    pub(super) fn settle_disputes(&mut self) {
        for vip in self.disputed() {
            if self.defend(vip) {
                self.outputs.events.vip_conflict(vip);
                warn!(%vip, "a peer that asked for this node's VIP was answered by another machine, too: announcing it again");
            }
        }
    }

    /// When a disputed VIP may be announced again.
    pub(super) fn next_defence(&self) -> Option<Instant> {
        self.disputed().into_iter().filter_map(|vip| self.defence.next(vip)).min()
    }

    /// Takes VIPs from owners that do not answer for them, and tells the others what was found.
    pub(super) async fn heed(&mut self) {
        let verdicts = Arc::clone(&self.inputs.selftest.borrow_and_update());
        let now = Instant::now();
        self.facts.findings.clone_from(&verdicts.findings);
        for node in &verdicts.gone {
            self.tell(Command::Lost(node.clone())).await;
        }
        for (vip, silence) in &verdicts.replace {
            self.ownership.replace_silent(*vip, &silence.owner, silence.epoch, now, unix_ms());
        }
    }
}
