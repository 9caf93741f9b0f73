//! What the forwarder carried, by service and by pod, and the connections that it remembers.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    Snapshot,
    exposition::{Exposition, Kind, Label},
};
use crate::{
    forward::{Connects, Conversation, Labels, Traffic},
    model::{Protocol, ServiceName},
};

/// What the forwarder carried for a service port on this node.
#[derive(Debug, Clone)]
pub struct ForwardCount {
    /// Whose traffic it is.
    pub labels: Labels,
    /// What clients and pods of this node said to each other.
    pub conversation: Conversation,
    /// What was handed on to other nodes.
    pub forwarded: Traffic,
    /// Connections in use to pods of this node.
    pub active: u64,
}

/// The same for a pod of this node.
#[derive(Debug, Clone)]
pub struct PodCount {
    /// Whose traffic it is.
    pub labels: Labels,
    /// The pod's socket.
    pub backend: SocketAddr,
    /// What clients and the pod said to each other.
    pub conversation: Conversation,
    /// Connections in use.
    pub active: u64,
}

/// The connections that the forwarder remembers.
#[derive(Debug, Clone, Default)]
pub struct FlowTable {
    /// How many are in each phase.
    pub phases: BTreeMap<&'static str, u64>,
    /// How many there is room for.
    pub room: u64,
}

/// A family that has one value of each `T`.
type One<T> = (&'static str, Kind, &'static str, fn(&T) -> u64);

/// What is told of traffic: what it counts, and how.
type Told = (&'static str, fn(&Traffic) -> u64);

const OF_TRAFFIC: [Told; 2] = [("Packets", |traffic| traffic.packets), ("Bytes", |traffic| traffic.bytes)];

/// Writes the counters.
pub(super) fn write(page: &mut Exposition, snapshot: &Snapshot) {
    services(page, &snapshot.forwarded);
    pods(page, &snapshot.pods);
    connects(page, &snapshot.connects);
    let help = "Flows of this node's pods that the forwarder remembers, by how far they have come";
    let mut flows = page.family("crier_flow_table_flows", Kind::Gauge, help);
    for (phase, count) in &snapshot.flow_table.phases {
        flows.sample(&[("state", phase)], *count);
    }
    page.single(
        "crier_flow_table_size",
        Kind::Gauge,
        "Flows that the forwarder has room for",
        snapshot.flow_table.room,
    );
}

fn services(page: &mut Exposition, counts: &[ForwardCount]) {
    let families: [One<ForwardCount>; 3] = [
        ("crier_flows_total", Kind::Counter, "New flows to this node's pods", |count| count.conversation.inbound.flows),
        ("crier_flows_active", Kind::Gauge, "Flows to this node's pods that are in use", |count| count.active),
        (
            "crier_syn_retransmits_total",
            Kind::Counter,
            "Opening packets of flows to this node's pods that clients repeated",
            |count| count.conversation.retransmits,
        ),
    ];
    for (name, kind, help, of) in families {
        let mut family = page.family(name, kind, help);
        for count in counts {
            family.sample(&labels_of(&count.labels), of(count));
        }
    }
    for (name, (what, of)) in ["crier_forward_packets_total", "crier_forward_bytes_total"].into_iter().zip(OF_TRAFFIC) {
        let mut family = page.family(name, Kind::Counter, &format!("{what} forwarded on this node"));
        for count in counts {
            let Conversation { inbound, outbound, .. } = &count.conversation;
            for (way, traffic) in [("ingress", inbound), ("egress", outbound), ("forwarded", &count.forwarded)] {
                family.sample(&[&labels_of(&count.labels)[..], &[("direction", &way)]].concat(), of(traffic));
            }
        }
    }
    let help = "Flows to this node's pods ended by a reset";
    let mut resets = page.family("crier_flow_resets_total", Kind::Counter, help);
    for count in counts {
        let Conversation { resets_by_clients, resets_by_pods, .. } = count.conversation;
        for (who, times) in [("client", resets_by_clients), ("pod", resets_by_pods)] {
            resets.sample(&[&labels_of(&count.labels)[..], &[("by", &who)]].concat(), times);
        }
    }
}

fn pods(page: &mut Exposition, counts: &[PodCount]) {
    let families: [One<PodCount>; 2] = [
        ("crier_backend_flows_total", Kind::Counter, "New flows to a pod of this node", |count| {
            count.conversation.inbound.flows
        }),
        ("crier_backend_flows_active", Kind::Gauge, "Flows to a pod of this node that are in use", |count| {
            count.active
        }),
    ];
    for (name, kind, help, of) in families {
        let mut family = page.family(name, kind, help);
        for count in counts {
            family.sample(&labels_of_pod(count), of(count));
        }
    }
    for (name, (what, of)) in ["crier_backend_packets_total", "crier_backend_bytes_total"].into_iter().zip(OF_TRAFFIC) {
        let mut family = page.family(name, Kind::Counter, &format!("{what} from and to a pod of this node"));
        for count in counts {
            let Conversation { inbound, outbound, .. } = &count.conversation;
            for (way, traffic) in [("ingress", inbound), ("egress", outbound)] {
                family.sample(&[&labels_of_pod(count)[..], &[("direction", &way)]].concat(), of(traffic));
            }
        }
    }
}

fn labels_of(labels: &Labels) -> [Label<'_>; 4] {
    let protocol: &&str = match labels.protocol {
        Protocol::Tcp => &"TCP",
        Protocol::Udp => &"UDP",
        Protocol::Sctp => &"SCTP",
    };
    let ServiceName { namespace, name } = &labels.service;
    [("namespace", namespace), ("service", name), ("port", &labels.port), ("protocol", protocol)]
}

fn labels_of_pod(count: &PodCount) -> [Label<'_>; 5] {
    let [namespace, service, port, protocol] = labels_of(&count.labels);
    [namespace, service, port, protocol, ("backend", &count.backend)]
}

/// Of services to which anybody connected here.
fn connects(page: &mut Exposition, services: &BTreeMap<ServiceName, Connects>) {
    let help = "From a client's opening packet until its pod on this node accepted";
    let mut family = page.family("crier_connect_seconds", Kind::Histogram, help);
    for (ServiceName { namespace, name }, connects) in services.iter().filter(|(_, connects)| connects.count() > 0) {
        let counts = Connects::bounds().map(|bound| bound.as_secs_f64()).zip(connects.counts);
        let labels: [Label; 2] = [("namespace", namespace), ("service", name)];
        family.histogram(&labels, counts, connects.count(), connects.sum);
    }
}
