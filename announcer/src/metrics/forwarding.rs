//! What the forwarder carried, by service and by pod, and the connections that it remembers.

use std::{collections::BTreeMap, net::SocketAddr};

use prometheus::{
    IntCounterVec, Registry,
    proto::{LabelPair, Metric, MetricFamily, MetricType},
};

use super::{Snapshot, counter, detection::histogram, gauge, snapshot::signed};
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

/// Registers the counters with their values.
pub(super) fn register(registry: &Registry, snapshot: &Snapshot) -> prometheus::Result<()> {
    services(registry, &snapshot.forwarded)?;
    pods(registry, &snapshot.pods)?;
    let help = "Flows of this node's pods that the forwarder remembers, by how far they have come";
    let flows = gauge(registry, "crier_flow_table_flows", help, &["state"])?;
    for (phase, count) in &snapshot.flow_table.phases {
        flows.with_label_values(&[phase]).set(signed(*count));
    }
    let help = "Flows that the forwarder has room for";
    let room = gauge(registry, "crier_flow_table_size", help, &[])?;
    room.with_label_values::<&str>(&[]).set(signed(snapshot.flow_table.room));
    Ok(())
}

fn services(registry: &Registry, counts: &[ForwardCount]) -> prometheus::Result<()> {
    let service = ["namespace", "service", "port", "protocol"];
    let [namespace, name, port, protocol] = service;
    let directed = [namespace, name, port, protocol, "direction"];
    let packets = counter(registry, "crier_forward_packets_total", "Packets forwarded on this node", &directed)?;
    let bytes = counter(registry, "crier_forward_bytes_total", "Bytes forwarded on this node", &directed)?;
    let flows = counter(registry, "crier_flows_total", "New flows to this node's pods", &service)?;
    let active = gauge(registry, "crier_flows_active", "Flows to this node's pods that are in use", &service)?;
    let by = [namespace, name, port, protocol, "by"];
    let resets = counter(registry, "crier_flow_resets_total", "Flows to this node's pods ended by a reset", &by)?;
    let help = "Opening packets of flows to this node's pods that clients repeated";
    let retransmits = counter(registry, "crier_syn_retransmits_total", help, &service)?;
    for count in counts {
        let port = count.labels.port.to_string();
        let labels = label_values(&count.labels, &port);
        let Conversation { inbound, outbound, resets_by_clients, resets_by_pods, retransmits: repeated } =
            count.conversation;
        flows.with_label_values(&labels).inc_by(inbound.flows);
        active.with_label_values(&labels).add(signed(count.active));
        retransmits.with_label_values(&labels).inc_by(repeated);
        for (direction, traffic) in [("ingress", inbound), ("egress", outbound), ("forwarded", count.forwarded)] {
            carried(&packets, &bytes, &[&labels[..], &[direction]].concat(), traffic);
        }
        for (who, count) in [("client", resets_by_clients), ("pod", resets_by_pods)] {
            resets.with_label_values(&[&labels[..], &[who]].concat()).inc_by(count);
        }
    }
    Ok(())
}

fn pods(registry: &Registry, counts: &[PodCount]) -> prometheus::Result<()> {
    let pod = ["namespace", "service", "port", "protocol", "backend"];
    let directed = [&pod[..], &["direction"]].concat();
    let packets =
        counter(registry, "crier_backend_packets_total", "Packets from and to a pod of this node", &directed)?;
    let bytes = counter(registry, "crier_backend_bytes_total", "Bytes from and to a pod of this node", &directed)?;
    let flows = counter(registry, "crier_backend_flows_total", "New flows to a pod of this node", &pod)?;
    let active = gauge(registry, "crier_backend_flows_active", "Flows to a pod of this node that are in use", &pod)?;
    for count in counts {
        let (port, backend) = (count.labels.port.to_string(), count.backend.to_string());
        let labels = [&label_values(&count.labels, &port)[..], &[backend.as_str()]].concat();
        let Conversation { inbound, outbound, .. } = count.conversation;
        flows.with_label_values(&labels).inc_by(inbound.flows);
        active.with_label_values(&labels).add(signed(count.active));
        for (direction, traffic) in [("ingress", inbound), ("egress", outbound)] {
            carried(&packets, &bytes, &[&labels[..], &[direction]].concat(), traffic);
        }
    }
    Ok(())
}

fn carried(packets: &IntCounterVec, bytes: &IntCounterVec, labels: &[&str], traffic: Traffic) {
    packets.with_label_values(labels).inc_by(traffic.packets);
    bytes.with_label_values(labels).inc_by(traffic.bytes);
}

fn label_values<'a>(labels: &'a Labels, port: &'a str) -> [&'a str; 4] {
    let protocol = match labels.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    [&labels.service.namespace, &labels.service.name, port, protocol]
}

/// `crier_connect_seconds`, of services to which anybody connected here; `None` without any.
pub(super) fn connects(services: &BTreeMap<ServiceName, Connects>) -> Option<MetricFamily> {
    let label = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let of_service = |(service, connects): (&ServiceName, &Connects)| {
        let bounds = Connects::bounds().map(|bound| bound.as_secs_f64());
        let mut metric = Metric::default();
        metric.set_label(vec![label("namespace", &service.namespace), label("service", &service.name)]);
        metric.set_histogram(histogram(bounds.zip(connects.counts), connects.count(), connects.sum));
        metric
    };
    let mut family = MetricFamily::default();
    family.set_name("crier_connect_seconds".to_owned());
    family.set_help("From a client's opening packet until its pod on this node accepted".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(services.iter().filter(|(_, connects)| connects.count() > 0).map(of_service).collect());
    (!family.get_metric().is_empty()).then_some(family)
}
