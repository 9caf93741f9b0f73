//! What is known at one moment, for who serves it and for who writes about it: a function of the [`Store`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use k8s_openapi::api::core::v1;

use super::{
    store::{Judged, Store},
    vip::VipRecord,
};
use crate::{
    model::{
        Desired, PoolUsage, Problem, ServiceName, is_ours,
        objects::{Kind, Object, ObjectKey},
        wants_conditions,
    },
    source::Snapshot,
};

/// What the API server has, and what it should say of it.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// All of it is the server's word of now: something may be written.
    pub(super) current: bool,
    /// The services with the addresses they should have, whether or not the server says so already.
    pub(super) assigned: Desired,
    /// All services of type LoadBalancer, and those that once were and have something left of it.
    pub(super) services: BTreeMap<ServiceName, Recorded>,
    pub(super) vips: BTreeMap<ServiceName, VipRecord>,
    /// Pools, advertisements and checks.
    pub(super) judged: BTreeMap<ObjectKey, Judged>,
    pub(super) pools: BTreeMap<String, PoolUsage>,
    pub(super) problems: Vec<Problem>,
    /// The pods behind services that ask for a condition, by their addresses.
    pub(super) gated: BTreeMap<ServiceName, BTreeMap<IpAddr, PodName>>,
}

/// A Service as the server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) ours: bool,
    /// The addresses in its status.
    pub(super) ingress: Vec<IpAddr>,
}

/// A pod; another of the same name has another UID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) name: String,
    pub(super) uid: String,
}

/// Resolves what is stored. What is served are the addresses that the server has recorded: two agents that know it at
/// different moments would else give one address to two services.
pub(super) fn take(store: &mut Store, now: SystemTime) -> (Snapshot, Picture) {
    let mut resolved = store.live.index.resolve();
    store.live.index.settle(&resolved);
    let mut problems = store.problems();
    problems.append(&mut resolved.problems);
    let services = services(store);
    let desired = recorded(&resolved.desired, &services);
    let picture = Picture {
        current: store.is_current(),
        assigned: resolved.desired,
        vips: store.live.vips.clone(),
        judged: store.live.judged.clone(),
        pools: resolved.pools.clone(),
        problems: problems.clone(),
        gated: gated(store),
        services,
    };
    let snapshot = Snapshot {
        desired,
        problems,
        objects: store.live.index.counts(),
        pools: resolved.pools,
        connected: store.is_connected(),
        loaded_at: now,
        limits: store.limits.clone(),
        peers: peers(store),
    };
    (snapshot, picture)
}

fn services(store: &Store) -> BTreeMap<ServiceName, Recorded> {
    let mut services = BTreeMap::new();
    for (key, object) in store.objects(Kind::Service) {
        let Object::Service(service) = object else { continue };
        let name = ServiceName { namespace: key.namespace.clone(), name: key.name.clone() };
        let recorded = Recorded {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            version: service.metadata.resource_version.clone().unwrap_or_default(),
            ours: is_ours(service),
            ingress: ingress(service),
        };
        if recorded.ours || store.live.vips.contains_key(&name) {
            services.insert(name, recorded);
        }
    }
    services
}

fn ingress(service: &v1::Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// Of the addresses that services should have, those that their status names.
fn recorded(assigned: &Desired, services: &BTreeMap<ServiceName, Recorded>) -> Desired {
    let mut desired = assigned.clone();
    desired.services.retain(|name, service| {
        let has = services.get(name).map(|recorded| recorded.ingress.as_slice()).unwrap_or_default();
        service.vips.retain(|vip| has.contains(&vip.address));
        !service.vips.is_empty()
    });
    desired
}

/// Where the Nodes are: agents run there.
fn peers(store: &Store) -> BTreeSet<IpAddr> {
    let nodes = store.objects(Kind::Node).filter_map(|(_, object)| match object {
        Object::Node(node) => node.status.as_ref()?.addresses.as_ref(),
        _ => None,
    });
    let internal = nodes.flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

/// The pods of services that ask for a condition on them.
fn gated(store: &Store) -> BTreeMap<ServiceName, BTreeMap<IpAddr, PodName>> {
    let asks = |object: &Object| matches!(object, Object::Service(service) if wants_conditions(service));
    let asking: BTreeSet<ServiceName> = store
        .objects(Kind::Service)
        .filter(|(_, object)| asks(object))
        .map(|(key, _)| ServiceName { namespace: key.namespace.clone(), name: key.name.clone() })
        .collect();
    let mut gated: BTreeMap<ServiceName, BTreeMap<IpAddr, PodName>> = BTreeMap::new();
    if asking.is_empty() {
        return gated;
    }
    for (key, object) in store.objects(Kind::EndpointSlice) {
        let Object::EndpointSlice(slice) = object else { continue };
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) else { continue };
        let name = ServiceName { namespace: key.namespace.clone(), name: service.clone() };
        if !asking.contains(&name) {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(target) = &endpoint.target_ref else { continue };
            let (Some("Pod"), Some(pod)) = (target.kind.as_deref(), &target.name) else { continue };
            let pod = PodName { name: pod.clone(), uid: target.uid.clone().unwrap_or_default() };
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
            gated.entry(name.clone()).or_default().extend(addresses.map(|address| (address, pod.clone())));
        }
    }
    gated
}
