//! What is to be written: what the API server should have, less what it has. A pure function.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    time::SystemTime,
};

use membership::View;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::{
    conditions,
    event::{Event, Regarding},
};
use crate::{
    app::{controller::Owners, report},
    ipam::Family,
    model::{Problem, ServiceName, Severity, Vip, objects::ObjectKey},
    ownership::why_unowned,
    source::kubernetes::{
        gate::{self, GatedPod},
        picture::{Picture, Recorded},
        vip::{VipAddress, VipStatus},
    },
};

/// All that decides about what is written.
pub(super) struct Scene<'a> {
    pub(super) picture: &'a Picture,
    /// What stands against services: of each the first.
    mistakes: BTreeMap<ServiceName, &'a Problem>,
    pub(super) owners: &'a Owners,
    pub(super) view: &'a View,
    pub(super) now: SystemTime,
}

impl<'a> Scene<'a> {
    pub(super) fn new(picture: &'a Picture, owners: &'a Owners, view: &'a View, now: SystemTime) -> Self {
        let mut mistakes = BTreeMap::new();
        for problem in picture.problems.iter().filter(|problem| problem.severity == Severity::Error) {
            if let Some(name) = problem.object.as_ref().and_then(ObjectKey::service) {
                mistakes.entry(name).or_insert(problem);
            }
        }
        Self { picture, mistakes, owners, view, now }
    }
}

/// Something to be written, and what is told once it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Write {
    pub(super) change: Change,
    pub(super) events: Vec<Event>,
    /// It changes often, and need not be written each time.
    pub(super) can_wait: bool,
    /// Nobody would see that a second agent has written it, so it is left to the first.
    pub(super) is_left: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// A service's addresses, if it still has this version.
    Ingress { service: ServiceName, version: String, addresses: Vec<IpAddr> },
    /// What is said of a service's addresses.
    Vip { service: ServiceName, uid: String, status: VipStatus },
    /// Nothing is to be said of a service any more.
    NoVip { service: ServiceName },
    /// The status of one of Crier's own objects.
    Status { object: ObjectKey, status: Value },
    /// A pod's condition; the UID tells it from one that had its name before.
    Pod { namespace: String, pod: String, uid: String, healthy: bool },
    /// An event alone.
    Tell { service: ServiceName, note: String },
}

/// What a change is about: two with the same key are the same at different times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u8, String, String);

impl Change {
    pub(super) fn key(&self) -> Key {
        let of = |tag, name: &ServiceName| Key(tag, name.namespace.clone(), name.name.clone());
        match self {
            Self::Ingress { service, .. } => of(0, service),
            Self::Vip { service, .. } => of(1, service),
            Self::NoVip { service } => of(2, service),
            Self::Status { object, .. } => Key(3, object.namespace.clone(), format!("{} {}", object.kind, object.name)),
            Self::Pod { namespace, pod, .. } => Key(4, namespace.clone(), pod.clone()),
            Self::Tell { service, .. } => of(5, service),
        }
    }

    /// Whether the watches show that it was done.
    pub(super) fn has_echo(&self) -> bool {
        !matches!(self, Self::Pod { .. } | Self::Tell { .. })
    }

    /// A hash of what is to be written.
    pub(super) fn content(&self) -> u64 {
        let mut hasher = Xxh3::new();
        format!("{self:?}").hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress { service, addresses, .. } => write!(f, "status of Service {service}: {addresses:?}"),
            Self::Vip { service, .. } => write!(f, "VIP {service}"),
            Self::NoVip { service } => write!(f, "VIP {service}: removal"),
            Self::Status { object, .. } => write!(f, "status of {object}"),
            Self::Pod { namespace, pod, .. } => write!(f, "condition of Pod {namespace}/{pod}"),
            Self::Tell { service, .. } => write!(f, "event about Service {service}"),
        }
    }
}

/// Everything that is to be written.
pub(super) fn plan(scene: &Scene) -> Vec<Write> {
    let health = report::service_health(&scene.picture.assigned, scene.view);
    let mut writes = Vec::new();
    for (name, recorded) in &scene.picture.services {
        writes.extend(ingress(scene, name, recorded));
        writes.extend(vip(scene, name, recorded, health.get(name)));
    }
    let unknown = scene.picture.mistaken.iter().filter(|(name, _)| !scene.picture.services.contains_key(name));
    writes.extend(unknown.filter_map(|(name, uid)| refusal(scene, name, uid, &[])));
    let orphans = scene.picture.vips.keys().filter(|name| !scene.picture.services.contains_key(name));
    writes.extend(orphans.map(|name| quiet(Change::NoVip { service: name.clone() })));
    writes.extend(conditions::plan(scene.picture, scene.view, scene.now).into_iter().map(quiet));
    for (GatedPod { namespace, name, uid, ready }, healthy) in gate::verdicts(scene.picture, scene.view) {
        // Where the EndpointSlice says the same, somebody has written it already, as it seems.
        let is_left = ready == healthy;
        writes.push(Write { is_left, ..quiet(Change::Pod { namespace, pod: name, uid, healthy }) });
    }
    writes
}

fn quiet(change: Change) -> Write {
    Write { change, events: Vec::new(), can_wait: false, is_left: false }
}

/// The addresses that a service should have: its own families' order.
fn assigned<'a>(scene: &'a Scene, name: &ServiceName, recorded: &Recorded) -> &'a [Vip] {
    let service = scene.picture.assigned.services.get(name).filter(|_| recorded.ours);
    service.map(|service| service.vips.as_slice()).unwrap_or_default()
}

/// The addresses of a service, if its status says others. What somebody else wrote into the status stays, unless the service
/// gets an address here: it may be another load balancer's, whose service this is as long as no pool of ours is for it.
fn ingress(scene: &Scene, name: &ServiceName, recorded: &Recorded) -> Option<Write> {
    let vips = assigned(scene, name, recorded);
    let wanted: Vec<IpAddr> = if vips.is_empty() {
        let was_ours = scene.picture.vips.get(name).map(|vip| &vip.status);
        recorded.ingress.iter().filter(|address| was_ours.is_none_or(|ours| !has(ours, **address))).copied().collect()
    } else {
        vips.iter().map(|vip| vip.address).collect()
    };
    let same = wanted.iter().collect::<BTreeSet<_>>() == recorded.ingress.iter().collect();
    if same {
        // With an address that is not from here it is another load balancer's.
        let is_anothers = vips.is_empty() && !recorded.ingress.is_empty();
        return refusal(scene, name, &recorded.uid, vips).filter(|_| recorded.ours && !is_anothers);
    }
    let regarding = Regarding::service(name, &recorded.uid);
    let event = if vips.is_empty() {
        let released: Vec<_> = recorded.ingress.iter().filter(|address| !wanted.contains(address)).copied().collect();
        let why = scene.mistakes.get(name).map_or_else(String::new, |problem| format!(": {}", problem.message));
        Event::warning(regarding, "AddressReleased", format!("released {}{why}", list(&released)))
    } else {
        let from: BTreeSet<&str> = vips.iter().map(|vip| vip.pool.as_str()).collect();
        let from: Vec<&str> = from.into_iter().collect();
        Event::normal(
            regarding,
            "AddressAssigned",
            format!("assigned {} from IPAddressPool {}", list(&wanted), from.join(", ")),
        )
    };
    let change = Change::Ingress { service: name.clone(), version: recorded.version.clone(), addresses: wanted };
    Some(Write { change, events: vec![event], can_wait: false, is_left: false })
}

fn has(status: &VipStatus, address: IpAddr) -> bool {
    status.addresses.iter().any(|one| one.ip == address)
}

/// What is told about a service that gets no address, or whose newest version is not served.
fn refusal(scene: &Scene, name: &ServiceName, uid: &str, vips: &[Vip]) -> Option<Write> {
    let note = scene.mistakes.get(name)?.advice();
    let reason = if vips.is_empty() { "AssignmentFailed" } else { "Mistake" };
    let event = Event::warning(Regarding::service(name, uid), reason, note.clone());
    let change = Change::Tell { service: name.clone(), note };
    Some(Write { change, events: vec![event], can_wait: false, is_left: true })
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is said of a service's addresses, if something else is said.
fn vip(
    scene: &Scene,
    name: &ServiceName,
    recorded: &Recorded,
    health: Option<&BTreeMap<IpAddr, bool>>,
) -> Option<Write> {
    let had = scene.picture.vips.get(name);
    let vips: Vec<&Vip> =
        assigned(scene, name, recorded).iter().filter(|vip| recorded.ingress.contains(&vip.address)).collect();
    if vips.is_empty() {
        // Its status is cleared first: what was ours is known by this.
        return had
            .filter(|had| !recorded.ingress.iter().any(|address| has(&had.status, *address)))
            .map(|_| quiet(Change::NoVip { service: name.clone() }));
    }
    let status = status(scene, &vips, health);
    let none = VipStatus::default();
    let before = had.map_or(&none, |had| &had.status);
    if *before == status && had.is_some_and(|had| had.service_uid == recorded.uid) {
        return None;
    }
    let counts = (status.healthy, status.total, status.backends.clone());
    let can_wait = VipStatus { healthy: counts.0, total: counts.1, backends: counts.2, ..before.clone() } == status;
    let events = moves(name, &recorded.uid, before, &status);
    let change = Change::Vip { service: name.clone(), uid: recorded.uid.clone(), status };
    Some(Write { change, events, can_wait, is_left: false })
}

fn status(scene: &Scene, vips: &[&Vip], health: Option<&BTreeMap<IpAddr, bool>>) -> VipStatus {
    let addresses: Vec<VipAddress> = vips.iter().map(|vip| address(vip, scene)).collect();
    let families: BTreeSet<Family> = vips.iter().map(|vip| Family::of(vip.address)).collect();
    let pods =
        || health.into_iter().flatten().filter(|(pod, _)| families.contains(&Family::of(**pod)) || families.len() == 1);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (healthy, total) = (count(pods().filter(|(_, healthy)| **healthy).count()), count(pods().count()));
    let first = addresses.first();
    VipStatus {
        owner: first.map_or_else(String::new, |first| first.owner.clone()),
        since: first.and_then(|first| first.since.clone()),
        reason: first.map_or_else(String::new, |first| first.reason.clone()),
        healthy,
        total,
        backends: format!("{healthy}/{total}"),
        ips: addresses.iter().map(|one| one.ip.to_string()).collect::<Vec<_>>().join(","),
        addresses,
    }
}

fn address(vip: &Vip, scene: &Scene) -> VipAddress {
    let owner = scene.owners.get(&vip.address);
    VipAddress {
        ip: vip.address,
        pool: vip.pool.clone(),
        owner: owner.map_or_else(String::new, |owner| owner.node.to_string()),
        epoch: owner.map_or(0, |owner| owner.epoch),
        since: owner.map(|owner| humantime::format_rfc3339_seconds(report::since(owner)).to_string()),
        reason: owner.map_or_else(|| why_unowned(vip, scene.view), |owner| owner.reason.as_str().to_owned()),
    }
}

/// Who announces an address now, and why, as far as that is new.
fn moves(name: &ServiceName, uid: &str, before: &VipStatus, after: &VipStatus) -> Vec<Event> {
    let was = |ip: IpAddr| before.addresses.iter().find(|one| one.ip == ip);
    let is_new = |one: &&VipAddress| was(one.ip).is_none_or(|was| (&was.owner, was.epoch) != (&one.owner, one.epoch));
    let tell = |one: &VipAddress| {
        let regarding = Regarding::service(name, uid);
        let from = was(one.ip).filter(|was| !was.owner.is_empty() && was.owner != one.owner);
        let from = from.map_or_else(String::new, |was| format!(", before by node {}", was.owner));
        if one.owner.is_empty() {
            return Event::warning(
                regarding,
                "NotAnnounced",
                format!("{} is announced by nobody{from}: {}", one.ip, one.reason),
            );
        }
        let note = format!("{} is announced by node {}{from} ({}, epoch {})", one.ip, one.owner, one.reason, one.epoch);
        Event::normal(regarding, "Announced", note)
    };
    after.addresses.iter().filter(is_new).map(tell).collect()
}

#[cfg(test)]
mod tests;
