//! From all objects to what is desired: a function, the same on every node; where two services want one address, of
//! who is being served there, too.
//!
//! First every object is read ([`World`]), then the services get their addresses, then each is put together with
//! its backends, checks and advertisements.

mod addresses;
mod incumbents;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{
    Backend, Check, Desired, Protocol, Service, ServiceName, ServicePort, Vip, endpoints,
    health::{self, CheckWish},
    index::Loaded,
    objects::{Labels, ObjectKey},
    pool,
    problem::Problem,
    service::{self, PortWish, Wish},
    weight::{self, Weight},
};
use crate::ipam::PoolUsage;
pub(super) use addresses::Given;
use addresses::{Assigned, Assignment};
pub(super) use incumbents::Incumbents;
use world::{Source, World};

/// What [`super::Index::resolve`] found.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// What is desired.
    pub desired: Desired,
    /// What is wrong, sorted by where it stands.
    pub problems: Vec<Problem>,
    /// How full the pools are, by name.
    pub pools: BTreeMap<String, PoolUsage>,
    /// Who is served at which address, for [`super::Index::settle`].
    pub(super) incumbents: Incumbents,
}

/// Resolves one version of every object, where others were served `before`.
pub(super) fn resolve(objects: &BTreeMap<&ObjectKey, &Loaded>, before: &Incumbents, given: &Given) -> Resolved {
    let mut world = World::read(objects);
    let Assigned { addresses: assignments, pools, incumbents } = addresses::assign(&mut world, before, given);
    let mut services = BTreeMap::new();
    let mut gated = BTreeSet::new();
    let mut silent: BTreeMap<&str, Vec<(IpAddr, &ServiceName)>> = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, (source, wish)) in &world.services {
        let Some(assigned) = assignments.get(name) else { continue };
        let vips: Vec<Vip> = assigned.iter().map(|one| vip(&world, wish, one)).collect();
        for (vip, one) in vips.iter().zip(assigned) {
            if vip.advertise.is_empty() {
                silent.entry(&one.pool).or_default().push((vip.address, name));
            }
        }
        let slices = world.slices.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut ports: Vec<_> = wish
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
                backends: weight::weigh(backends(port, wish, slices), weights(&world, name, port, wish)),
                check: check(&world, name, port, wish),
            })
            .collect();
        problems.extend(unserved(source, name, wish, slices, &ports));
        for (index, port) in ports.iter_mut().enumerate().filter(|(_, port)| port.protocol == Protocol::Sctp) {
            problems.extend(leave_out_other_ports(source, index, port));
            problems.extend(leave_out_without_node(source, index, port));
        }
        if wish.gated {
            gated.insert(name.clone());
        }
        services.insert(
            name.clone(),
            Service {
                vips,
                ports,
                traffic_policy: wish.policy,
                preferred: wish.preferred.clone(),
                affinity: wish.affinity,
                sources: wish.sources.clone(),
            },
        );
    }
    problems.extend(silent.into_iter().filter_map(|(pool, vips)| unannounced(&world, pool, &vips)));
    let mut all = world.problems;
    all.extend(problems);
    Resolved { desired: Desired { services, leaving: world.leaving, gated }, problems: all, pools, incumbents }
}

fn vip(world: &World, wish: &Wish, assigned: &Assignment) -> Vip {
    let advertisements = world.advertisements.values().map(|(_, spec)| spec);
    let advertise = world.pools.get(&assigned.pool).map_or_else(Vec::new, |pool| {
        pool::advertise(advertisements, &assigned.pool, pool, &wish.labels, &world.nodes)
    });
    Vip { address: assigned.address, pool: assigned.pool.clone(), advertise }
}

fn backends(port: &PortWish, wish: &Wish, slices: &[endpoints::Slice]) -> Vec<Backend> {
    let key = (port.name.clone(), port.protocol);
    let from_slices = slices.iter().flat_map(|slice| {
        let ports = slice.ports.iter().filter(|(name, _)| *name == key);
        ports.flat_map(|(_, number)| slice.pods.iter().map(|pod| Backend { port: *number, ..pod.clone() }))
    });
    let listed = wish.listed.iter().filter(|entry| service::is_for(entry, port, &wish.ports)).map(|entry| Backend {
        address: entry.socket.ip(),
        port: entry.socket.port(),
        node: entry.node.clone(),
        ready: true,
        terminating: false,
        serving: true,
        weight: Backend::WEIGHT,
    });
    let published = wish.publish_not_ready;
    let all = from_slices.chain(listed).map(|pod| Backend {
        ready: pod.ready || published,
        serving: pod.serving || published,
        ..pod
    });
    endpoints::merge(all)
}

fn check(world: &World, name: &ServiceName, port: &PortWish, wish: &Wish) -> Option<Check> {
    if let Some(annotated) = wish.check.as_ref().filter(|check| check.is_for(port)) {
        return annotated.check.clone();
    }
    match nearest(world, name, wish, |check| check.is_for(port)) {
        Some(check) => check.check.clone(),
        None => health::default_for(port),
    }
}

/// The weights of a port's pods: of the closest check that has some, whoever says how the pods are probed, if anyone does.
fn weights<'a>(world: &'a World, name: &ServiceName, port: &PortWish, wish: &Wish) -> &'a [Weight] {
    let has = |check: &CheckWish| check.names(port) && !check.weights.is_empty();
    nearest(world, name, wish, has).map_or(&[], |check| &check.weights)
}

/// Of the checks that `fit`, the one that is meant for a service the closest.
fn nearest<'a>(
    world: &'a World,
    name: &ServiceName,
    wish: &Wish,
    fit: impl Fn(&CheckWish) -> bool,
) -> Option<&'a CheckWish> {
    let checks = world.checks.get(&name.namespace).map(Vec::as_slice).unwrap_or_default();
    let near = checks.iter().filter(|check| fit(check)).filter_map(|check| {
        // Of equally close ones the first by name: the list is sorted by it, and `min_by_key` takes the first.
        Some((check.distance(&name.name, &wish.labels)?, check))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, check)| check)
}

/// Warnings about ports that have nobody behind them.
fn unserved(
    source: &Source,
    name: &ServiceName,
    wish: &Wish,
    slices: &[endpoints::Slice],
    ports: &[ServicePort],
) -> Vec<Problem> {
    if slices.is_empty() && wish.listed.is_empty() {
        let message = format!(
            "no pods: no EndpointSlice in namespace {} has the label {}: {}, and there is no annotation crier.io/backends",
            name.namespace,
            endpoints::SERVICE_LABEL,
            name.name
        );
        return vec![Problem::error(&source.origin, &source.key, "", message).as_warning()];
    }
    let has_pods = slices.iter().any(|slice| !slice.pods.is_empty());
    let empty = ports.iter().enumerate().filter(|(_, port)| has_pods && port.backends.is_empty());
    let warn = |(index, port): (usize, &ServicePort)| {
        let message = format!("no EndpointSlice of the service has a {:?} port named {:?}", port.protocol, port.name);
        Problem::error(&source.origin, &source.key, &format!("spec.ports[{index}]"), message).as_warning()
    };
    empty.map(warn).collect()
}

/// An SCTP packet's checksum is none that could be changed with its ports: pods that listen on another are not used, with a warning.
fn leave_out_other_ports(source: &Source, index: usize, port: &mut ServicePort) -> Option<Problem> {
    let number = port.port;
    let other = port.backends.iter().find(|pod| pod.port != number)?;
    let message = format!(
        "SCTP is served with the port unchanged only: pods on another port, as {}, are not used; let them listen on {number}",
        SocketAddr::new(other.address, other.port)
    );
    port.backends.retain(|pod| pod.port == number);
    let field = format!("spec.ports[{index}].targetPort");
    Some(Problem::error(&source.origin, &source.key, &field, message).as_warning())
}

/// For the same reason no other node can carry SCTP in its own name: pods that are on none are not used, with a warning.
fn leave_out_without_node(source: &Source, index: usize, port: &mut ServicePort) -> Option<Problem> {
    let homeless = port.backends.iter().find(|pod| pod.node.is_none())?;
    let message = format!(
        "SCTP is carried to pods by their own node only, not by full NAT: endpoints without nodeName, as {}, are not used; \
         give them the nodeName of a node with an agent (crier.io/backends: address:port@node)",
        SocketAddr::new(homeless.address, homeless.port)
    );
    port.backends.retain(|pod| pod.node.is_some());
    Some(Problem::error(&source.origin, &source.key, &format!("spec.ports[{index}]"), message).as_warning())
}

/// A warning about VIPs of a pool that nobody announces.
fn unannounced(world: &World, pool: &str, vips: &[(IpAddr, &ServiceName)]) -> Option<Problem> {
    let source = world.pool_sources.get(pool)?;
    let (address, service) = vips.first()?;
    let more = if vips.len() > 1 { format!(" and {} more", vips.len() - 1) } else { String::new() };
    let message = format!(
        "no L2Advertisement covers VIP {address} of Service {service}{more}, so no node announces it; add an \
         L2Advertisement with spec.ipAddressPools: [{pool}]"
    );
    Some(Problem::error(&source.origin, &source.key, "", message).as_warning())
}

/// Whether node selectors are there and match nobody known.
fn matches_no_node(selectors: &[LabelSelector], nodes: &BTreeMap<String, Labels>) -> bool {
    let spec = super::objects::AdvertisementSpec { node_selectors: selectors.to_vec(), ..Default::default() };
    !selectors.is_empty() && pool::select_nodes(&spec, nodes).is_empty()
}
