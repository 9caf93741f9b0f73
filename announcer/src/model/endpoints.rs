//! EndpointSlices to backends, by kube-proxy's rules.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use membership::NodeName;

use super::{Backend, Protocol, problem::Complaint};

/// The label that says which service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A slice, read.
#[derive(Debug, Clone, Default)]
pub(super) struct Slice {
    /// The service's name, in the slice's namespace; `None`: nobody's.
    pub(super) service: Option<String>,
    /// Port name (may be empty) and protocol, and the pods' port.
    pub(super) ports: Vec<((String, Protocol), u16)>,
    /// The pods; their `port` is 0.
    pub(super) pods: Vec<Backend>,
}

/// Reads a slice.
pub(super) fn read_slice(slice: &EndpointSlice) -> (Slice, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)).cloned();
    if service.is_none() {
        complaints.push(Complaint::warning(
            "metadata.labels",
            format_args!("the label {SERVICE_LABEL} is missing, so the slice belongs to no service"),
        ));
    }
    let v4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            complaints.push(Complaint::warning("addressType", "FQDN endpoints are not served; use IPv4 or IPv6"));
            return (Slice { service, ..Slice::default() }, complaints);
        }
        other => {
            complaints.push(Complaint::error("addressType", format_args!("{other:?} is not IPv4, IPv6 or FQDN")));
            return (Slice { service, ..Slice::default() }, complaints);
        }
    };
    let mut ports = Vec::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let name = port.name.clone().unwrap_or_default();
        match port.port.map(u16::try_from) {
            Some(Ok(number)) if number > 0 => ports.push(((name, protocol), number)),
            None => {
                complaints.push(Complaint::warning(format!("ports[{index}].port"), "missing; the port is not served"));
            }
            Some(_) => complaints.push(Complaint::error(format!("ports[{index}].port"), "must be 1 to 65535")),
        }
    }
    let mut pods = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        match read_endpoint(endpoint, v4) {
            Ok(pod) => pods.push(pod),
            Err((field, message)) => complaints.push(Complaint::error(format!("endpoints[{index}].{field}"), message)),
        }
    }
    (Slice { service, ports, pods }, complaints)
}

/// The protocol by its name, TCP if unset; `None`: one that is not load-balanced.
pub(super) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn read_endpoint(endpoint: &Endpoint, v4: bool) -> Result<Backend, (&'static str, String)> {
    // All addresses of an endpoint are one pod; the API asks consumers to use the first.
    let text = endpoint.addresses.first().ok_or(("addresses", "empty; one address is needed".to_owned()))?;
    let address: IpAddr = text.parse().map_err(|_| ("addresses[0]", format!("{text:?} is not an IP address")))?;
    if address.is_ipv4() != v4 {
        return Err(("addresses[0]", format!("{address} is not of the slice's addressType")));
    }
    let node = match &endpoint.node_name {
        Some(name) => Some(name.parse::<NodeName>().map_err(|error| ("nodeName", error.to_string()))?),
        None => None,
    };
    let conditions = endpoint.conditions.as_ref();
    Ok(Backend {
        address,
        port: 0,
        node,
        // An unknown state is to be taken for ready.
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        weight: Backend::WEIGHT,
    })
}

/// An entry of the annotation `crier.io/backends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The service port it is for, by name; `None`: by its number.
    pub(super) port_name: Option<String>,
    /// The pod.
    pub(super) socket: SocketAddr,
    /// Its node.
    pub(super) node: Option<NodeName>,
}

/// Reads `[PORTNAME=]ADDRESS:PORT[@NODE]`, comma-separated.
pub(super) fn read_listed(text: &str) -> Result<Vec<Listed>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (port_name, rest) = match entry.split_once('=') {
                Some((name, rest)) => (Some(name.trim().to_owned()), rest.trim()),
                None => (None, entry),
            };
            let (socket, node) = match rest.split_once('@') {
                Some((socket, node)) => (socket, Some(node.parse::<NodeName>().map_err(|error| error.to_string())?)),
                None => (rest, None),
            };
            let socket: SocketAddr = socket.parse().map_err(|_| {
                format!("{entry:?} is not ADDRESS:PORT@NODE, as in 10.1.1.2:8080@n1 or [fd00::2]:8080@n2")
            })?;
            if socket.port() == 0 {
                return Err(format!("{entry:?}: a port must be 1 to 65535"));
            }
            Ok(Listed { port_name, socket, node })
        })
        .collect()
}

/// One list without duplicates, sorted: where slices overlap, as they do while pods move between them, what says
/// "serves" wins.
pub(super) fn merge(backends: impl IntoIterator<Item = Backend>) -> Vec<Backend> {
    let mut merged: BTreeMap<(IpAddr, u16), Backend> = BTreeMap::new();
    for backend in backends {
        let known = merged.entry((backend.address, backend.port)).or_insert_with(|| backend.clone());
        known.ready |= backend.ready;
        known.terminating &= backend.terminating;
        known.serving |= backend.serving;
        if known.node.is_none() || (backend.node.is_some() && backend.node < known.node) {
            known.node = backend.node;
        }
    }
    merged.into_values().collect()
}
