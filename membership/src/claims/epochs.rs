//! The highest epoch ever seen for each VIP, and who owned it last: what a takeover must exceed and explain.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{NodeName, election::Candidates};

/// How long a VIP that is not desired is remembered: a service deleted and made again within it gets higher epochs.
/// Forgetting is harmless, since a claim with a higher epoch that turns up later wins.
const REMEMBER: Duration = Duration::from_secs(600);

/// How many VIPs that are not desired are remembered at most.
const MAX_UNDESIRED: usize = 4096;

#[derive(Debug)]
struct Memory {
    epoch: u64,
    owner: Option<NodeName>,
    desired: Instant,
}

/// Bounded: as many entries as there are desired VIPs, and [`MAX_UNDESIRED`].
#[derive(Debug, Default)]
pub(super) struct Epochs {
    known: BTreeMap<IpAddr, Memory>,
    forgotten_early: u64,
}

impl Epochs {
    /// Takes in which VIPs are desired, and forgets what has not been for long.
    pub(super) fn desire(&mut self, vips: &Candidates, now: Instant) {
        for vip in vips.keys() {
            let memory = self.known.entry(*vip).or_insert(Memory { epoch: 0, owner: None, desired: now });
            memory.desired = now;
        }
        if self.known.len() == vips.len() {
            return;
        }
        self.known
            .retain(|vip, memory| vips.contains_key(vip) || now.saturating_duration_since(memory.desired) < REMEMBER);
        let excess = self.known.len().saturating_sub(vips.len() + MAX_UNDESIRED);
        if excess > 0 {
            let undesired = self.known.iter().filter(|(vip, _)| !vips.contains_key(vip));
            let mut oldest: Vec<_> = undesired.map(|(vip, memory)| (memory.desired, *vip)).collect();
            oldest.sort_unstable();
            for (_, vip) in oldest.iter().take(excess) {
                self.known.remove(vip);
                self.forgotten_early += 1;
            }
        }
    }

    /// Takes in a claim's epoch, unless the VIP is of no interest here.
    pub(super) fn learn(&mut self, vip: IpAddr, epoch: u64) {
        if let Some(memory) = self.known.get_mut(&vip) {
            memory.epoch = memory.epoch.max(epoch);
        }
    }

    /// Remembers who owns the VIP.
    pub(super) fn owned_by(&mut self, vip: IpAddr, owner: &NodeName) {
        if let Some(memory) = self.known.get_mut(&vip)
            && memory.owner.as_ref() != Some(owner)
        {
            memory.owner = Some(owner.clone());
        }
    }

    /// The highest epoch seen; 0: none.
    pub(super) fn highest(&self, vip: IpAddr) -> u64 {
        self.known.get(&vip).map_or(0, |memory| memory.epoch)
    }

    /// The last owner this node knew of.
    pub(super) fn last_owner(&self, vip: IpAddr) -> Option<&NodeName> {
        self.known.get(&vip)?.owner.as_ref()
    }

    pub(super) fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
