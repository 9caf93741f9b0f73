//! Who should own which VIP: a function of the eligible nodes and the present owners, nothing kept.
//!
//! Every node computes it from its own view; nodes whose views agree get the same answer, because ranks are hashes of
//! stable names, VIPs are taken in order of address and no clock or randomness is involved. Rendezvous hashing
//! (highest random weight) with bounded loads: a node's leaving moves only its own VIPs, a node's coming moves none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use xxhash_rust::xxh3::Xxh3;

use crate::NodeName;

/// The desired VIPs, each with the nodes that may own it (perhaps none). Sets are shared: most VIPs have equal ones.
pub type Candidates = BTreeMap<IpAddr, Arc<BTreeSet<NodeName>>>;

/// A node's rendezvous rank for a VIP: of two candidates the one with the higher rank comes first. Equal ranks of two
/// names are possible in theory; [`outranks`] breaks the tie.
#[must_use]
pub(crate) fn rank(vip: IpAddr, node: &NodeName) -> u64 {
    let mut hasher = Xxh3::new();
    match vip {
        IpAddr::V4(v4) => hasher.update(&v4.octets()),
        IpAddr::V6(v6) => hasher.update(&v6.octets()),
    }
    hasher.update(node.as_str().as_bytes());
    hasher.digest()
}

/// Whether `a` comes before `b` for this VIP. A strict total order over names.
#[must_use]
pub fn outranks(vip: IpAddr, a: &NodeName, b: &NodeName) -> bool {
    (rank(vip, a), a) > (rank(vip, b), b)
}

/// Of these nodes the one that comes first for this VIP: before all others by [`outranks`].
#[must_use]
pub fn first<'a>(vip: IpAddr, nodes: impl IntoIterator<Item = &'a NodeName>) -> Option<&'a NodeName> {
    nodes.into_iter().max_by_key(|node| (rank(vip, node), *node))
}

/// The nodes that may own some VIP. Equal sets are looked at once.
pub(crate) fn nodes(vips: &Candidates) -> BTreeSet<&NodeName> {
    let mut nodes = BTreeSet::new();
    let mut last: Option<&Arc<BTreeSet<NodeName>>> = None;
    for candidates in vips.values() {
        if !last.is_some_and(|seen| Arc::ptr_eq(seen, candidates)) {
            nodes.extend(candidates.iter());
            last = Some(candidates);
        }
    }
    nodes
}

/// The owner each VIP should have. VIPs without a candidate are absent from the result.
///
/// A VIP whose `current` owner is a candidate stays where it is. The others go, in order of address, to the candidate
/// with the highest rank that carries fewer VIPs than the bound, ceil(VIPs with candidates / nodes that are a
/// candidate anywhere); if all its candidates are at the bound, to the one that carries least.
///
/// With equal candidates for all VIPs no node gets more than the bound, as long as nobody was above it before. A node
/// that leaves raises the bound, so this stays true through any sequence of leaves; there is no lower bound.
#[must_use]
pub fn elect(vips: &Candidates, current: &BTreeMap<IpAddr, NodeName>) -> BTreeMap<IpAddr, NodeName> {
    let kept =
        |vip: &IpAddr, candidates: &BTreeSet<NodeName>| current.get(vip).filter(|node| candidates.contains(*node));

    let mut result = BTreeMap::new();
    let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for (vip, candidates) in vips {
        if let Some(owner) = kept(vip, candidates) {
            *load.entry(owner).or_default() += 1;
            result.insert(*vip, owner.clone());
        }
    }

    let bound = bound(vips);
    for (vip, candidates) in vips {
        if result.contains_key(vip) {
            continue;
        }
        if let Some(node) = place(*vip, candidates, &load, bound) {
            *load.entry(node).or_default() += 1;
            result.insert(*vip, node.clone());
        }
    }
    result
}

/// The best candidate below the bound, else the least loaded one.
fn place<'a>(
    vip: IpAddr,
    candidates: &'a BTreeSet<NodeName>,
    load: &BTreeMap<&NodeName, usize>,
    bound: usize,
) -> Option<&'a NodeName> {
    let carries = |node: &&NodeName| load.get(*node).copied().unwrap_or(0);
    first(vip, candidates.iter().filter(|node| carries(node) < bound)).or_else(|| {
        let least = candidates.iter().map(|node| carries(&node)).min()?;
        first(vip, candidates.iter().filter(|node| carries(node) == least))
    })
}

/// How many VIPs one node should carry at most.
fn bound(vips: &Candidates) -> usize {
    let wanted = vips.values().filter(|candidates| !candidates.is_empty()).count();
    wanted.div_ceil(nodes(vips).len().max(1))
}

#[cfg(test)]
mod tests;
