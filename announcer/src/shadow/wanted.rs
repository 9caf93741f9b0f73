//! For whom this node stands in, as a function of what is seen of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use membership::{Interface, NodeName, View, claims::Owner, claims::standby, document::Mac};

use crate::link::Uplink;

/// A MAC on the segment of one of this node's uplinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The index of this node's interface.
    pub interface: u32,
    /// The MAC.
    pub mac: Mac,
}

/// A node to stand in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name.
    pub owner: NodeName,
    /// Its VIPs that this node is the standby of.
    pub vips: BTreeSet<IpAddr>,
    /// Its own addresses there: what it can be asked for even if its agent is dead.
    pub addresses: Vec<IpAddr>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// By MAC.
    pub shadows: BTreeMap<Key, Wish>,
    /// The MACs of members that are up, this node's own among them. Only those in `shadows` may be stood in for.
    pub present: BTreeSet<Mac>,
}

/// For whom node `me` stands in: for members that are up, forward, own a VIP and name this node in their claim, on the
/// segments that both are on. A MAC that another member has as well is nobody's to stand in for.
#[must_use]
pub fn wanted<'a>(
    view: &View,
    owners: &BTreeMap<IpAddr, Owner>,
    links: impl Iterator<Item = &'a Uplink>,
    me: &NodeName,
) -> Wishes {
    let links: Vec<&Uplink> = links.collect();
    let mut wishes = Wishes::default();
    let mut holders: BTreeMap<Mac, BTreeSet<&NodeName>> = BTreeMap::new();
    for (name, member) in view.up() {
        for interface in &member.document.facts.interfaces {
            holders.entry(interface.mac).or_default().insert(name);
        }
    }
    for link in &links {
        holders.entry(link.mac).or_default().insert(me);
    }
    let my_id = standby::id(me);
    for (vip, owner) in owners.iter().filter(|(_, owner)| owner.node != *me) {
        let Some(member) = view.members.get(&owner.node).filter(|member| member.state.is_up()) else { continue };
        let named = member.document.claims.get(vip).is_some_and(|claim| claim.standby == my_id);
        if !named || !member.document.facts.forwarding {
            continue;
        }
        for (link, interface) in on_segments(&links, &member.document.facts.interfaces) {
            if holders.get(&interface.mac).is_some_and(|names| names.len() > 1) || !is_unicast(interface.mac) {
                continue;
            }
            let key = Key { interface: link.index, mac: interface.mac };
            let addresses = || interface.prefixes.iter().map(IpNet::addr).collect();
            let fresh = || Wish { owner: owner.node.clone(), vips: BTreeSet::new(), addresses: addresses() };
            wishes.shadows.entry(key).or_insert_with(fresh).vips.insert(*vip);
        }
    }
    wishes.present = holders.into_keys().collect();
    wishes
}

/// Pairs of this node's uplinks and a member's interfaces that share a network.
fn on_segments<'a>(
    links: &'a [&'a Uplink],
    interfaces: &'a [Interface],
) -> impl Iterator<Item = (&'a Uplink, &'a Interface)> {
    let pairs = links.iter().flat_map(move |link| interfaces.iter().map(move |interface| (*link, interface)));
    pairs.filter(|(link, interface)| shares_network(&interface.prefixes, &link.prefixes))
}

fn shares_network(theirs: &[IpNet], ours: &[IpNet]) -> bool {
    let host_only = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    let mut networks = ours.iter().filter(|net| !host_only(net)).map(IpNet::trunc);
    networks.any(|network| theirs.iter().any(|net| net.trunc() == network))
}

fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests;
