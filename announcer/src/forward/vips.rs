//! The VIPs in the kernel's maps, and the bits by which packets for none are told from theirs at once ([`forwarder_ebpf::vips`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use forwarder_ebpf::{limits, table::words, vips};

use crate::forward::{
    plan::{Limit, Plan, Write},
    tables::address,
};

/// The VIPs that are in the maps.
#[derive(Debug, Default)]
pub(super) struct Vips {
    addresses: BTreeSet<IpAddr>,
    /// By word of the map of bits: how many addresses have each of its bits.
    words: BTreeMap<u32, BTreeMap<u64, u32>>,
}

impl Vips {
    /// Adds those that are missing, as far as there is room.
    pub(super) fn add(&mut self, wanted: &BTreeSet<IpAddr>, plan: &mut Plan) {
        for vip in wanted.difference(&self.addresses.clone()) {
            if self.addresses.len() >= limits::VIPS as usize {
                plan.limit(Limit::Vips);
                continue;
            }
            self.addresses.insert(*vip);
            plan.writes.push(Write::Vip(address(*vip)));
            self.count(*vip, plan, |count| count + 1);
        }
    }

    /// Removes those that are wanted no more.
    pub(super) fn remove(&mut self, wanted: &BTreeSet<IpAddr>, plan: &mut Plan) {
        for vip in self.addresses.clone().difference(wanted) {
            self.addresses.remove(vip);
            plan.writes.push(Write::RemoveVip(address(*vip)));
            self.count(*vip, plan, |count| count - 1);
        }
    }

    /// Counts an address's bit anew, and writes its word if that changes it.
    fn count(&mut self, vip: IpAddr, plan: &mut Plan, change: impl Fn(u32) -> u32) {
        let (word, bit) = vips::bit(words(&address(vip)));
        let bits = self.words.entry(word).or_default();
        let before: u64 = bits.keys().sum();
        let count = bits.entry(bit).or_default();
        *count = change(*count);
        bits.retain(|_, count| *count > 0);
        let after: u64 = bits.keys().sum();
        if bits.is_empty() {
            self.words.remove(&word);
        }
        if before != after {
            plan.writes.push(Write::VipBits(word, after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the writes make of the map of bits.
    fn carry_out(words: &mut BTreeMap<u32, u64>, plan: &Plan) {
        for write in &plan.writes {
            if let Write::VipBits(word, bits) = write {
                words.insert(*word, *bits);
            }
        }
    }

    fn has(words: &BTreeMap<u32, u64>, vip: IpAddr) -> bool {
        let (word, bit) = vips::bit(forwarder_ebpf::table::words(&address(vip)));
        words.get(&word).is_some_and(|bits| bits & bit != 0)
    }

    #[test]
    fn every_vip_has_its_bit_and_a_shared_one_goes_with_the_last() {
        // More addresses than the map has bits for without sharing.
        let all: BTreeSet<IpAddr> = (0..8_000_u32).map(|n| IpAddr::from((0x0a4d_0000 + n).to_be_bytes())).collect();
        let (mut vips, mut words) = (Vips::default(), BTreeMap::new());
        let mut plan = Plan::default();
        vips.add(&all, &mut plan);
        carry_out(&mut words, &plan);
        assert!(all.iter().all(|vip| has(&words, *vip)));

        let half: BTreeSet<IpAddr> = all.iter().copied().step_by(2).collect();
        let mut plan = Plan::default();
        vips.remove(&half, &mut plan);
        carry_out(&mut words, &plan);
        assert!(half.iter().all(|vip| has(&words, *vip)));
        assert!(all.difference(&half).filter(|vip| has(&words, **vip)).count() < 400);

        let mut plan = Plan::default();
        vips.remove(&BTreeSet::new(), &mut plan);
        carry_out(&mut words, &plan);
        assert!(words.values().all(|bits| *bits == 0));
        assert!(vips.words.is_empty());
    }
}
