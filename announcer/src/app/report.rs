//! What the agent tells of itself: from the newest values to the status, readiness and metrics.
//!
//! It reads what the parts publish and asks nobody, so an answer never waits.

#![expect(clippy::disallowed_methods, reason = "edge: says when the answer was given")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use membership::{
    Facts, NodeName, Stats, Verdict, View,
    claims::{Owner, standby},
};
use tokio::sync::watch;

use super::{carried, controller::Owners, forwarding::Report, strangers::Strangers};
use crate::{
    announce::Announcer,
    health::{Verdicts, target_of},
    http::{
        Readiness, Refused, Status, StatusSource,
        flows::{FlowQuery, Flows},
        status,
    },
    metrics,
    model::{Backend, Desired, PoolUsage, Service, ServiceName, ServicePort, TrafficPolicy},
    ownership,
    selftest::{Outcome, Results},
    serving::{carrier, serving, verdict},
    shadow,
    source::Snapshot,
};

/// The last moment that RFC 3339 can write; another node's clock may say anything.
const YEAR_9999_MS: u64 = 253_402_300_799_000;

/// The newest values of all parts.
#[derive(Debug)]
pub struct Reporter {
    /// This node.
    pub node: NodeName,
    /// When the agent started.
    pub started: SystemTime,
    /// What the source reads, as a user names it.
    pub source: (&'static str, String),
    /// The forwarder is not wanted.
    pub forwarder_off: bool,
    /// The cluster.
    pub view: watch::Receiver<Arc<View>>,
    /// The gossip's counters.
    pub gossip: watch::Receiver<Arc<Stats>>,
    /// The objects.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The owners of all VIPs.
    pub owners: watch::Receiver<Arc<Owners>>,
    /// This node's own facts.
    pub facts: watch::Receiver<Facts>,
    /// Machines that use VIPs of this node.
    pub strangers: watch::Receiver<Strangers>,
    /// The verdicts on this node's pods, with reasons.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// The forwarder.
    pub forwarding: watch::Receiver<Arc<Report>>,
    /// The shadow standby.
    pub shadowing: watch::Receiver<Arc<shadow::Report>>,
    /// The announcer, for its counters.
    pub announcer: Arc<Announcer>,
    /// What asking for others' VIPs has shown.
    pub selftest: watch::Receiver<Arc<Results>>,
}

impl StatusSource for Reporter {
    fn status(&self) -> Status {
        let (view, snapshot) = (self.view.borrow().clone(), self.snapshot.borrow().clone());
        let forwarding = self.forwarding.borrow().clone();
        let readiness = self.readiness();
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            now: SystemTime::now(),
            ready: readiness.is_ready(),
            awaiting: readiness.awaiting,
            draining: self.facts.borrow().draining,
            members: members(&view),
            vips: vips(&snapshot.desired, &self.owners.borrow(), &view),
            backends: backends(&snapshot.desired, &view, &self.verdicts.borrow()),
            source: status::Source {
                kind: self.source.0.to_owned(),
                path: Some(self.source.1.clone()),
                objects: snapshot.objects.values().sum(),
                connected: snapshot.connected,
                problems: snapshot.problems.iter().map(problem).collect(),
            },
            forwarder: status::Forwarder {
                mode: forwarding.info.mode.to_string(),
                interfaces: forwarding.info.interfaces.clone(),
                ways: forwarding.info.ways.clone(),
            },
            selftest: selftest(&self.selftest.borrow()),
            conflicts: self.strangers.borrow().latest().to_vec(),
        }
    }

    fn readiness(&self) -> Readiness {
        let mut awaiting = Vec::new();
        if !self.snapshot.borrow().connected {
            awaiting.push(format!("source: {} cannot be read", self.source.1));
        }
        if self.facts.borrow().listening {
            let deaf = self.facts.borrow().interfaces.is_empty();
            awaiting
                .push(if deaf { "no uplink is up" } else { "membership: listening for what others own" }.to_owned());
        }
        if !self.forwarder_off && !self.facts.borrow().forwarding {
            awaiting.push("forwarder: not attached to any uplink".to_owned());
        }
        if let Some(trouble) = &self.forwarding.borrow().trouble {
            awaiting.push(format!("forwarder: {trouble}"));
        }
        Readiness { awaiting }
    }

    fn snapshot(&self) -> metrics::Snapshot {
        let (view, snapshot) = (self.view.borrow().clone(), self.snapshot.borrow().clone());
        let gossip = self.gossip.borrow().clone();
        let forwarding = self.forwarding.borrow().clone();
        let announced = self.announcer.counters();
        let mut members = BTreeMap::new();
        for member in view.members.values() {
            *members.entry(member.state).or_default() += 1;
        }
        let owners = self.owners.borrow().clone();
        let vips = services_of_vips(&snapshot.desired).map(|(vip, service)| metrics::VipOwned {
            vip,
            service: service.clone(),
            owned: owners.get(&vip).is_some_and(|owner| owner.node == self.node),
        });
        metrics::Snapshot {
            members,
            vips: vips.collect(),
            backends: health(&snapshot.desired, &view),
            gossip: metrics::GossipCounts {
                sent: gossip.packets_out,
                received: gossip.packets_in - gossip.rejected.values().sum::<u64>().min(gossip.packets_in),
                rejected: rejected(&gossip),
                retractions: gossip.retractions,
                name_conflicts: gossip.name_conflicts,
                watch: gossip.watch.clone(),
            },
            announcements: BTreeMap::from([
                ("garp", announced.garp),
                ("unsolicited_na", announced.unsolicited_na),
                ("arp_reply", announced.arp_reply),
                ("na", announced.na),
                ("question", announced.question),
            ]),
            forwarded: carried::services(&forwarding),
            pods: carried::pods(&forwarding),
            connects: forwarding.counters.waits.clone(),
            flow_table: carried::flow_table(&forwarding),
            drops: forwarding.counters.drops.iter().map(|(reason, count)| (reason.as_str(), *count)).collect(),
            second_hops: forwarding.counters.second_hops,
            messages: forwarding.counters.messages.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            evictions: forwarding.counters.evictions.iter().map(|(flow, count)| (flow.as_str(), *count)).collect(),
            shadow: shadow_counts(&forwarding, &self.shadowing.borrow()),
            pools: snapshot.pools.iter().map(pool).collect(),
            source: metrics::SourceState {
                connected: snapshot.connected,
                problems: u64::try_from(snapshot.problems.len()).unwrap_or(u64::MAX),
            },
            selftest: tested(&self.selftest.borrow()),
        }
    }

    fn flows(&self, query: &FlowQuery) -> Result<Flows, Refused> {
        let (forwarding, snapshot) = (self.forwarding.borrow().clone(), self.snapshot.borrow().clone());
        carried::flows(&forwarding, &snapshot.desired, query)
    }
}

fn selftest(results: &Results) -> status::SelfTest {
    let problem = |(address, trouble): (&IpAddr, &crate::selftest::Trouble)| status::VipProblem {
        address: *address,
        owner: trouble.owner.clone(),
        result: trouble.outcome.as_str().to_owned(),
        message: trouble.to_string(),
    };
    status::SelfTest {
        tested: results.tested,
        untested: results.untested,
        problems: results.troubles.iter().map(problem).collect(),
    }
}

fn tested(results: &Results) -> metrics::SelfTested {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    metrics::SelfTested {
        rounds: Outcome::ALL
            .map(|outcome| (outcome.as_str(), results.rounds.get(&outcome).copied().unwrap_or(0)))
            .into(),
        tested: count(results.tested),
        untested: count(results.untested),
        failing: count(results.troubles.len()),
    }
}

fn members(view: &View) -> Vec<status::Member> {
    let member = |(name, member): (&NodeName, &membership::Member)| status::Member {
        name: name.clone(),
        address: member.address,
        state: member.state,
        draining: member.document.facts.draining,
    };
    view.members.iter().map(member).collect()
}

/// Every VIP with every service that has it, by address.
fn services_of_vips(desired: &Desired) -> impl Iterator<Item = (IpAddr, &ServiceName)> {
    let all =
        desired.services.iter().flat_map(|(name, service)| service.vips.iter().map(move |vip| (vip.address, name)));
    all.collect::<BTreeSet<_>>().into_iter()
}

fn shadow_counts(forwarding: &Report, shadowing: &shadow::Report) -> metrics::ShadowCounts {
    metrics::ShadowCounts {
        // An owner with two uplinks on one segment has two shadows there; the later one is told.
        states: shadowing.shadows.iter().map(|(owner, on, state)| ((owner.clone(), on.clone()), *state)).collect(),
        packets: forwarding.counters.shadow.iter().map(|(event, count)| (event.as_str(), *count)).collect(),
        stand_downs: shadowing.stand_downs,
        floods: shadowing.floods,
    }
}

fn vips(desired: &Desired, owners: &Owners, view: &View) -> Vec<status::Vip> {
    let by_id: BTreeMap<u64, &NodeName> = view.members.keys().map(|node| (standby::id(node), node)).collect();
    let vip = |(address, service): (IpAddr, &ServiceName)| {
        let owner = owners.get(&address);
        status::Vip {
            address,
            namespace: service.namespace.clone(),
            service: service.name.clone(),
            owner: owner.map(|owner| owner.node.clone()),
            standby: owner
                .and_then(|owner| view.members.get(&owner.node)?.document.claims.get(&address))
                .and_then(|claim| by_id.get(&claim.standby).copied().cloned()),
            epoch: owner.map_or(0, |owner| owner.epoch),
            since: owner.map(since),
            reason: owner
                .map_or_else(|| unowned(desired, service, address, view), |owner| owner.reason.as_str().to_owned()),
        }
    };
    services_of_vips(desired).map(vip).collect()
}

fn unowned(desired: &Desired, service: &ServiceName, address: IpAddr, view: &View) -> String {
    let vips = desired.services.get(service).map(|service| service.vips.as_slice()).unwrap_or_default();
    let vip = vips.iter().find(|vip| vip.address == address);
    vip.map_or_else(String::new, |vip| ownership::why_unowned(vip, view))
}

/// Every backend of every service once for each port, with the port it stands behind.
fn all_backends(desired: &Desired) -> impl Iterator<Item = (&ServiceName, &Service, &ServicePort, &Backend)> {
    desired.services.iter().flat_map(|(name, service)| {
        service
            .ports
            .iter()
            .flat_map(move |port| port.backends.iter().map(move |backend| (name, service, port, backend)))
    })
}

/// The service's address of a family; if it has none, one that is nobody's.
pub(crate) fn vip_of(service: &Service, v4: bool) -> IpAddr {
    let none: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    service.vips.iter().map(|vip| vip.address).find(|vip| vip.is_ipv4() == v4).unwrap_or(none)
}

fn backends(desired: &Desired, view: &View, own: &Verdicts) -> Vec<status::Backend> {
    let mut seen = BTreeSet::new();
    let mut backends = Vec::new();
    for (name, service, port, backend) in all_backends(desired) {
        let vip = vip_of(service, backend.address.is_ipv4());
        let gateway = carrier(port, backend, vip, view)
            .filter(|carrier| carrier.translated && service.traffic_policy == TrafficPolicy::Cluster)
            .map(|carrier| carrier.node);
        let judged = verdict(port, backend, vip, view);
        if !seen.insert((name, backend.address, backend.port, judged.is_some())) {
            continue;
        }
        let node = gateway.or(backend.node.as_ref());
        let on_node_that_is_up =
            node.and_then(|node| view.members.get(node)).is_some_and(|member| member.state.is_up());
        let last_probe = port
            .check
            .as_ref()
            .and_then(|check| own.targets.get(&target_of(backend, check)))
            .map(|own| own.reason.clone());
        let reason = match (judged, last_probe) {
            _ if node.is_none() => "on no node, and none may carry it".to_owned(),
            _ if !on_node_that_is_up => "its node is not up".to_owned(),
            _ if backend.terminating => "terminating".to_owned(),
            _ if !backend.ready => "not ready".to_owned(),
            _ if backend.weight == 0 => "its weight is 0".to_owned(),
            (Some(Verdict::Warming(eighths)), _) => format!("slow start: {eighths}/{} of its share", Verdict::FULL),
            (_, Some(reason)) => reason,
            (Some(Verdict::Healthy), None) => "passes its check".to_owned(),
            (Some(Verdict::Unhealthy), None) => "fails its check".to_owned(),
            (None, None) if port.check.is_some() => "not probed yet".to_owned(),
            (None, None) => "not probed".to_owned(),
        };
        backends.push(status::Backend {
            namespace: name.namespace.clone(),
            service: name.name.clone(),
            address: backend.address,
            port: backend.port,
            node: node.cloned(),
            ready: backend.ready && !backend.terminating,
            healthy: judged.map(|verdict| verdict != Verdict::Unhealthy),
            reason: if gateway.is_some() { format!("{reason}; full NAT by this node") } else { reason },
        });
    }
    backends.sort_by(|a, b| {
        (&a.namespace, &a.service, a.address, a.port).cmp(&(&b.namespace, &b.service, b.address, b.port))
    });
    backends
}

fn health(desired: &Desired, view: &View) -> Vec<metrics::BackendHealth> {
    let mut healths: BTreeMap<(&ServiceName, SocketAddr), bool> = BTreeMap::new();
    for (name, service) in &desired.services {
        for port in &service.ports {
            let vips = [vip_of(service, true), vip_of(service, false)];
            let usable: BTreeSet<&Backend> = vips.iter().flat_map(|vip| serving(port, *vip, view).backends).collect();
            for backend in &port.backends {
                let vip = vip_of(service, backend.address.is_ipv4());
                let healthy = usable.contains(backend) && verdict(port, backend, vip, view) != Some(Verdict::Unhealthy);
                let entry = healths.entry((name, SocketAddr::new(backend.address, backend.port))).or_insert(true);
                *entry &= healthy;
            }
        }
    }
    let one = |((service, backend), healthy): ((&ServiceName, SocketAddr), bool)| metrics::BackendHealth {
        service: service.clone(),
        backend,
        healthy,
    };
    healths.into_iter().map(one).collect()
}

/// Of every service its pods, and whether all of their ports get connections.
pub(crate) fn service_health(desired: &Desired, view: &View) -> BTreeMap<ServiceName, BTreeMap<IpAddr, bool>> {
    let mut services: BTreeMap<ServiceName, BTreeMap<IpAddr, bool>> = BTreeMap::new();
    for one in health(desired, view) {
        *services.entry(one.service).or_default().entry(one.backend.ip()).or_insert(true) &= one.healthy;
    }
    services
}

/// Since when an owner has its VIP, by its own clock.
pub(crate) fn since(owner: &Owner) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(owner.since_ms.min(YEAR_9999_MS))
}

/// Datagrams refused by gossip and watch, by reason.
fn rejected(gossip: &Stats) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for (reason, count) in gossip.rejected.iter().chain(&gossip.watch.rejected) {
        *all.entry(reason.label()).or_default() += count;
    }
    all
}

fn pool((name, usage): (&String, &PoolUsage)) -> metrics::PoolAddresses {
    let used = u64::try_from(usage.used).unwrap_or(u64::MAX);
    let free = u64::try_from(usage.addresses.saturating_sub(used.into())).unwrap_or(u64::MAX);
    metrics::PoolAddresses { pool: name.clone(), used, free }
}

fn problem(problem: &crate::model::Problem) -> status::Problem {
    status::Problem {
        file: problem.place(),
        object: problem.object.as_ref().map(ToString::to_string),
        field: (!problem.field.is_empty()).then(|| problem.field.clone()),
        message: problem.message.clone(),
    }
}
