//! Pools and advertisements: which services may take addresses from which pool, and where a VIP is announced.

use std::collections::{BTreeMap, BTreeSet};

use membership::NodeName;

use super::{
    Advertise, ServiceName,
    objects::{AdvertisementSpec, IPAddressPool, L2Advertisement, Labels},
    problem::Complaint,
    selector::{self, HOSTNAME, NAMESPACE},
};
use crate::ipam::{Pool, Range};

/// A pool, read.
#[derive(Debug, Clone)]
pub(super) struct PoolWish {
    pub(super) addresses: Pool,
    pub(super) auto_assign: bool,
    pub(super) allocation: Option<super::objects::ServiceAllocation>,
    pub(super) labels: Labels,
}

/// Reads a pool.
pub(super) fn read_pool(pool: &IPAddressPool) -> (PoolWish, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let mut ranges = Vec::new();
    for (index, text) in pool.spec.addresses.iter().enumerate() {
        match text.parse::<Range>() {
            Ok(range) => ranges.push(range),
            Err(error) => complaints.push(Complaint::error(format!("spec.addresses[{index}]"), error)),
        }
    }
    if pool.spec.addresses.is_empty() {
        complaints.push(Complaint::error(
            "spec.addresses",
            "empty; list prefixes (10.0.0.0/28) or ranges (10.0.0.10-10.0.0.20)",
        ));
    }
    if let Some(allocation) = &pool.spec.service_allocation {
        complaints.extend(selector::vet("spec.serviceAllocation.namespaceSelectors", &allocation.namespace_selectors));
        complaints.extend(selector::vet("spec.serviceAllocation.serviceSelectors", &allocation.service_selectors));
    }
    let wish = PoolWish {
        addresses: Pool { ranges, avoid_buggy: pool.spec.avoid_buggy_ips },
        auto_assign: pool.spec.auto_assign.unwrap_or(true),
        allocation: pool.spec.service_allocation.clone(),
        labels: pool.metadata.labels.clone().unwrap_or_default(),
    };
    (wish, complaints)
}

/// Complaints about an advertisement by itself.
pub(super) fn vet_advertisement(advertisement: &L2Advertisement) -> Vec<Complaint> {
    let spec = &advertisement.spec;
    [
        ("spec.ipAddressPoolSelectors", &spec.ip_address_pool_selectors),
        ("spec.nodeSelectors", &spec.node_selectors),
        ("spec.serviceSelectors", &spec.service_selectors),
    ]
    .into_iter()
    .flat_map(|(field, selectors)| selector::vet(field, selectors))
    .collect()
}

/// All pools by name.
pub(super) type Pools = BTreeMap<String, PoolWish>;

/// Whether a service may have an address of the pool.
pub(super) fn admits(pool: &PoolWish, service: &ServiceName, labels: &Labels, namespace_labels: &Labels) -> bool {
    let Some(allocation) = &pool.allocation else { return true };
    let any_namespace = allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    let namespace = any_namespace || allocation.namespaces.contains(&service.namespace) || {
        let mut labels = namespace_labels.clone();
        labels.insert(NAMESPACE.to_owned(), service.namespace.clone());
        selector::any_matches(&allocation.namespace_selectors, &labels)
    };
    let selected =
        allocation.service_selectors.is_empty() || selector::any_matches(&allocation.service_selectors, labels);
    namespace && selected
}

/// The pools that a service that asks for none may use, in the order in which they are asked: those made for it
/// first, by priority; then the others by name.
pub(super) fn automatic(pools: &Pools, admitted: impl Fn(&PoolWish) -> bool) -> Vec<&str> {
    let rank = |pool: &PoolWish| match &pool.allocation {
        Some(allocation) if allocation.priority > 0 => u64::from(allocation.priority),
        Some(_) => u64::from(u32::MAX) + 1,
        None => u64::MAX,
    };
    let mut names: Vec<_> = pools
        .iter()
        .filter(|(_, pool)| pool.auto_assign && admitted(pool))
        .map(|(name, pool)| (rank(pool), name.as_str()))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|(_, name)| name).collect()
}

/// Where the VIPs of a service that come from `pool` are announced.
pub(super) fn advertise<'a>(
    advertisements: impl IntoIterator<Item = &'a AdvertisementSpec>,
    pool_name: &str,
    pool: &PoolWish,
    service: &Labels,
    nodes: &BTreeMap<String, Labels>,
) -> Vec<Advertise> {
    let covers = |spec: &AdvertisementSpec| {
        let all = spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty();
        let pool_matches = all
            || spec.ip_address_pools.iter().any(|name| name == pool_name)
            || selector::any_matches(&spec.ip_address_pool_selectors, &pool.labels);
        pool_matches && (spec.service_selectors.is_empty() || selector::any_matches(&spec.service_selectors, service))
    };
    let mut result: Vec<Advertise> = Vec::new();
    for spec in advertisements.into_iter().filter(|spec| covers(spec)) {
        let one = Advertise {
            nodes: (!spec.node_selectors.is_empty()).then(|| select_nodes(spec, nodes)),
            interfaces: spec.interfaces.iter().cloned().collect(),
        };
        if !result.contains(&one) {
            result.push(one);
        }
    }
    result
}

/// The nodes that an advertisement's selectors match, of those there are objects for and those it names.
pub(super) fn select_nodes(spec: &AdvertisementSpec, nodes: &BTreeMap<String, Labels>) -> BTreeSet<NodeName> {
    let names = nodes.keys().cloned().chain(selector::named_hosts(&spec.node_selectors));
    let matching = names.filter(|name| {
        let mut labels = nodes.get(name).cloned().unwrap_or_default();
        labels.entry(HOSTNAME.to_owned()).or_insert_with(|| name.clone());
        selector::any_matches(&spec.node_selectors, &labels)
    });
    matching.filter_map(|name| name.parse().ok()).collect()
}
