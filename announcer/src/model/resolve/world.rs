//! All objects, read, and sorted by what they are asked for.

use std::collections::BTreeMap;

use membership::NodeName;

use crate::model::{
    ServiceName, endpoints, health,
    index::Loaded,
    node,
    objects::{AdvertisementSpec, Labels, Object, ObjectKey},
    pool,
    problem::{Complaint, Origin, Problem},
    service::{self, Wish},
};

/// Where an object stands and what it is called: what problems need.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) key: ObjectKey,
}

impl Source {
    /// A problem of this object.
    pub(super) fn error(&self, field: &str, message: impl Into<String>) -> Problem {
        Problem::error(&self.origin, &self.key, field, message)
    }
}

/// All objects, read.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) nodes: BTreeMap<String, Labels>,
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) leaving: BTreeMap<NodeName, &'static str>,
    pub(super) pools: pool::Pools,
    pub(super) pool_sources: BTreeMap<String, Source>,
    pub(super) advertisements: BTreeMap<ObjectKey, (Source, AdvertisementSpec)>,
    /// By namespace, sorted by name.
    pub(super) checks: BTreeMap<String, Vec<health::CheckWish>>,
    pub(super) slices: BTreeMap<ServiceName, Vec<endpoints::Slice>>,
    pub(super) services: BTreeMap<ServiceName, (Source, Wish)>,
    pub(super) problems: Vec<Problem>,
}

impl World {
    /// Reads all objects, in the order of their keys.
    pub(super) fn read(objects: &BTreeMap<&ObjectKey, &Loaded>) -> Self {
        let mut world = Self::default();
        for (key, loaded) in objects {
            world.add(Source { origin: loaded.origin.clone(), key: (*key).clone() }, &loaded.object);
        }
        world.cross_check();
        world
    }

    fn add(&mut self, source: Source, object: &Object) {
        let key = source.key.clone();
        let labels = || object.metadata().labels.clone().unwrap_or_default();
        let mut complain = |complaints: Vec<Complaint>| {
            self.problems.extend(complaints.into_iter().map(|complaint| complaint.at(&source.origin, &source.key)));
        };
        match object {
            Object::Namespace(_) => drop(self.namespaces.insert(key.name, labels())),
            Object::Node(object) => {
                if let (Some(why), Ok(name)) = (node::leaving(object), key.name.parse()) {
                    self.leaving.insert(name, why);
                }
                self.nodes.insert(key.name, labels());
            }
            Object::IPAddressPool(object) => {
                let (wish, complaints) = pool::read_pool(object);
                complain(complaints);
                if let Some(first) = self.pool_sources.get(&key.name) {
                    let message = format!("{} has the same name; pools are known by name alone, rename one", first.key);
                    self.problems.push(source.error("metadata.name", message));
                    return;
                }
                self.pool_sources.insert(key.name.clone(), source);
                self.pools.insert(key.name, wish);
            }
            Object::L2Advertisement(object) => {
                complain(pool::vet_advertisement(object));
                self.advertisements.insert(key, (source, object.spec.clone()));
            }
            Object::HealthCheck(object) => {
                let (wish, complaints) = health::read_object(object);
                complain(complaints);
                self.checks.entry(key.namespace).or_default().push(wish);
            }
            Object::EndpointSlice(object) => {
                let (slice, complaints) = endpoints::read_slice(object);
                complain(complaints);
                if let Some(name) = slice.service.clone() {
                    let service = ServiceName { namespace: key.namespace, name };
                    self.slices.entry(service).or_default().push(slice);
                }
            }
            Object::Service(object) => {
                let (wish, complaints) = service::read(object);
                complain(complaints);
                if let Some(wish) = wish.filter(|wish| !wish.ports.is_empty()) {
                    let name = ServiceName { namespace: key.namespace, name: key.name };
                    self.services.insert(name, (source, wish));
                }
            }
        }
    }

    /// Warnings about objects that are sound by themselves and at odds with others.
    fn cross_check(&mut self) {
        let mut warnings = Vec::new();
        for (source, spec) in self.advertisements.values() {
            for (index, name) in spec.ip_address_pools.iter().enumerate() {
                if !self.pools.contains_key(name) {
                    let message = format!("there is no IPAddressPool named {name:?}{}", self.pool_list());
                    warnings.push(source.error(&format!("spec.ipAddressPools[{index}]"), message));
                }
            }
            if super::matches_no_node(&spec.node_selectors, &self.nodes) {
                let message = "matches no node; labels other than kubernetes.io/hostname are taken from Node objects";
                warnings.push(source.error("spec.nodeSelectors", message));
            }
        }
        let pools: Vec<_> = self.pools.iter().collect();
        for (index, (name, pool)) in pools.iter().enumerate() {
            for (other_name, other) in &pools[..index] {
                let common = pool.addresses.ranges.iter().enumerate().find_map(|(at, range)| {
                    let other = other.addresses.ranges.iter().find(|other| other.overlaps(range))?;
                    Some((at, *range, *other))
                });
                let (Some((at, range, other)), Some(source)) = (common, self.pool_sources.get(*name)) else { continue };
                let message = format!("{range} overlaps {other} of IPAddressPool {other_name}; keep pools apart");
                warnings.push(source.error(&format!("spec.addresses[{at}]"), message));
            }
        }
        self.problems.extend(warnings.into_iter().map(Problem::as_warning));
    }

    /// The pools there are, to add to a message.
    pub(super) fn pool_list(&self) -> String {
        const SHOWN: usize = 8;
        let names: Vec<_> = self.pools.keys().take(SHOWN).map(String::as_str).collect();
        match (names.is_empty(), self.pools.len() > SHOWN) {
            (true, _) => "; there is no IPAddressPool at all".to_owned(),
            (false, more) => format!(" (there are: {}{})", names.join(", "), if more { ", ..." } else { "" }),
        }
    }
}
