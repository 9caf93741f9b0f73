//! What is known at one moment, for who serves it and for who writes about it: a function of the [`Store`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use k8s_openapi::api::core::v1;
use serde_json::Value;

use super::{
    gate::{self, GatedPod},
    store::{Mistaken, Store},
    vip::VipRecord,
};
use crate::{
    model::{
        Desired, PoolUsage, Problem, ServiceName, is_ours,
        objects::{Kind, Object, ObjectKey},
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
    /// Services that cannot be used as they are, with their UIDs.
    pub(super) mistaken: BTreeMap<ServiceName, String>,
    pub(super) vips: BTreeMap<ServiceName, VipRecord>,
    /// Pools, advertisements and checks.
    pub(super) judged: BTreeMap<ObjectKey, Judged>,
    pub(super) pools: BTreeMap<String, PoolUsage>,
    pub(super) problems: Vec<Problem>,
    /// The pods behind services that ask for a condition, by their addresses.
    pub(super) gated: BTreeMap<ServiceName, BTreeMap<IpAddr, GatedPod>>,
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

/// An object of Crier's own as the server has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Judged {
    pub(super) generation: i64,
    /// Those that an L2Advertisement names.
    pub(super) interfaces: Vec<String>,
    pub(super) status: Value,
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
        mistaken: mistaken(store),
        vips: store.live.vips.clone(),
        judged: judged(store),
        pools: resolved.pools.clone(),
        problems: problems.clone(),
        gated: gate::pods(store),
        services,
    };
    let snapshot = Snapshot {
        desired,
        problems,
        objects: store.live.index.counts(),
        pools: resolved.pools,
        connected: store.is_connected(),
        current: store.is_current(),
        loaded_at: now,
        limits: store.limits.clone(),
        peers: peers(store),
    };
    (snapshot, picture)
}

fn services(store: &Store) -> BTreeMap<ServiceName, Recorded> {
    let mut services = BTreeMap::new();
    for (key, object) in store.objects(Kind::Service) {
        let (Object::Service(service), Some(name)) = (object, key.service()) else { continue };
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

fn judged(store: &Store) -> BTreeMap<ObjectKey, Judged> {
    let mut judged = BTreeMap::new();
    for (key, object) in store.live.index.objects() {
        let status = match object {
            Object::IPAddressPool(pool) => &pool.status,
            Object::L2Advertisement(advertisement) => &advertisement.status,
            Object::HealthCheck(check) => &check.status,
            Object::Namespace(_) | Object::Node(_) | Object::Service(_) | Object::EndpointSlice(_) => continue,
        };
        let metadata = object.metadata();
        let status = status.as_ref().and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default();
        let interfaces = match object {
            Object::L2Advertisement(advertisement) => advertisement.spec.interfaces.clone(),
            _ => Vec::new(),
        };
        let generation = metadata.generation.unwrap_or_default();
        judged.insert(key.clone(), Judged { generation, interfaces, status });
    }
    // It is the newest version that is judged, not the one that is used.
    for (key, object) in &store.live.mistaken {
        if matches!(key.kind, Kind::IPAddressPool | Kind::L2Advertisement | Kind::HealthCheck) {
            let Mistaken { generation, status, .. } = object.clone();
            judged.insert(key.clone(), Judged { generation, interfaces: Vec::new(), status });
        }
    }
    judged
}

fn mistaken(store: &Store) -> BTreeMap<ServiceName, String> {
    store.live.mistaken.iter().filter_map(|(key, object)| Some((key.service()?, object.uid.clone()))).collect()
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
