//! What the forwarder carried, and the connections that it remembers, as they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use forwarder_ebpf::Direction;

use super::forwarding::Report;
use crate::{
    forward::{Connection, Conversation, Labels, Phase, wanted::Socket},
    http::{
        Refused,
        flows::{self, FlowQuery, Flows},
    },
    metrics,
    model::{Desired, Protocol, ServiceName},
};

/// What service ports carried.
pub(super) fn services(report: &Report) -> Vec<metrics::ForwardCount> {
    let counters = &report.counters;
    let count = |(labels, conversation): (&Labels, &Conversation)| metrics::ForwardCount {
        labels: labels.clone(),
        conversation: *conversation,
        forwarded: counters.traffic.get(&(labels.clone(), Direction::Forwarded)).copied().unwrap_or_default(),
        active: report.connections.active.services.get(labels).copied().unwrap_or_default(),
    };
    counters.conversations.iter().map(count).collect()
}

/// What pods carried: those that have a counter, or connections still.
pub(super) fn pods(report: &Report) -> Vec<metrics::PodCount> {
    let (counted, active) = (&report.counters.pods, &report.connections.active.pods);
    let all: BTreeSet<&(Labels, SocketAddr)> = counted.keys().chain(active.keys()).collect();
    let count = |key: &(Labels, SocketAddr)| metrics::PodCount {
        labels: key.0.clone(),
        backend: key.1,
        conversation: counted.get(key).copied().unwrap_or_default(),
        active: active.get(key).copied().unwrap_or_default(),
    };
    all.into_iter().map(count).collect()
}

/// How full the table of connections is.
pub(super) fn flow_table(report: &Report) -> metrics::FlowTable {
    let tally = &report.connections.tally;
    let phases = Phase::ALL.map(|phase| (phase.as_str(), tally.phases.get(&phase).copied().unwrap_or_default()));
    metrics::FlowTable { phases: phases.into(), room: tally.room.into() }
}

/// The connections that are asked for. Takes a while if there are many.
pub(super) fn flows(report: &Report, desired: &Desired, query: &FlowQuery) -> Result<Flows, Refused> {
    let named = names(desired);
    let only = match &query.service {
        None => None,
        Some(wanted) => {
            let unknown = || Refused(format!("this agent serves no {wanted} (NAMESPACE/NAME)"));
            let mut names = desired.services.keys();
            Some(names.find(|name| name.to_string() == *wanted).ok_or_else(unknown)?)
        }
    };
    let table = report.flow_table.as_ref().ok_or_else(|| Refused("this agent does not forward".to_owned()))?;
    let wanted = |connection: &Connection| only.is_none() || named.get(&connection.service).copied() == only;
    let most = query.limit.unwrap_or(flows::USUAL).min(flows::MOST);
    let (found, more) = table
        .connections(most, wanted)
        .map_err(|error| Refused(format!("the kernel does not show its connections: {error}")))?;
    let told = |connection: Connection| {
        let name = named.get(&connection.service);
        flows::Flow {
            client: connection.client,
            vip: connection.service.vip,
            port: connection.service.port,
            protocol: match connection.service.protocol {
                Protocol::Tcp => "TCP".to_owned(),
                Protocol::Udp => "UDP".to_owned(),
                Protocol::Sctp => "SCTP".to_owned(),
            },
            namespace: name.map(|name| name.namespace.clone()),
            service: name.map(|name| name.name.clone()),
            pod: connection.pod,
            state: connection.phase.as_str().to_owned(),
            idle: connection.silent.as_secs(),
        }
    };
    Ok(Flows { flows: found.into_iter().map(told).collect(), more })
}

/// Whose each socket is.
fn names(desired: &Desired) -> BTreeMap<Socket, &ServiceName> {
    let sockets = desired.services.iter().flat_map(|(name, service)| {
        let sockets = service.ports.iter().flat_map(|port| service.vips.iter().map(move |vip| (port, vip.address)));
        sockets.map(move |(port, vip)| (Socket { vip, port: port.port, protocol: port.protocol }, name))
    });
    sockets.collect()
}
