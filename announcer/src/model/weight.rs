//! The weights of pods: what share of new connections each gets beside the others.
//!
//! Only what all nodes read alike decides, so that all compute the same tables: the objects, and in them a pod's node
//! and address.

use std::net::IpAddr;

use ipnet::IpNet;
use membership::NodeName;

use super::{Backend, objects::WeightSpec, problem::Complaint};

/// The heaviest a pod can be: what HAProxy's servers can weigh.
const MAX: u16 = 256;

/// The weight of some pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Weight {
    /// On these nodes; empty: on any.
    nodes: Vec<NodeName>,
    /// With an address in one of these; empty: with any.
    addresses: Vec<IpNet>,
    weight: u16,
}

impl Weight {
    fn is_of(&self, pod: &Backend) -> bool {
        let there = || pod.node.as_ref().is_some_and(|node| self.nodes.contains(node));
        let within = || self.addresses.iter().any(|net| net.contains(&pod.address));
        (self.nodes.is_empty() || there()) && (self.addresses.is_empty() || within())
    }
}

/// Gives each pod the first weight that is meant for it.
pub(super) fn weigh(mut pods: Vec<Backend>, weights: &[Weight]) -> Vec<Backend> {
    for pod in &mut pods {
        pod.weight = weights.iter().find(|one| one.is_of(pod)).map_or(Backend::WEIGHT, |one| one.weight);
    }
    pods
}

/// Reads `spec.weights` of a HealthCheck.
pub(super) fn read(specs: &[WeightSpec], complaints: &mut Vec<Complaint>) -> Vec<Weight> {
    let mut weights = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let field = format!("spec.weights[{index}]");
        match read_one(spec) {
            Ok(weight) => weights.push(weight),
            Err((key, message)) => complaints.push(Complaint::error(format!("{field}.{key}"), message)),
        }
    }
    weights
}

fn read_one(spec: &WeightSpec) -> Result<Weight, (String, String)> {
    let mut nodes = Vec::new();
    for (index, name) in spec.nodes.iter().enumerate() {
        let node = name.parse().map_err(|error| (format!("nodes[{index}]"), format!("{error}")))?;
        nodes.push(node);
    }
    let mut addresses = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let wrong = || format!("{text:?} is neither an IP address nor a prefix like 10.1.2.0/24");
        addresses.push(net.map_err(|_| (format!("addresses[{index}]"), wrong()))?);
    }
    let weight = u16::try_from(spec.weight).ok().filter(|weight| *weight <= MAX);
    let weight = weight.ok_or_else(|| ("weight".to_owned(), format!("must be 0 to {MAX}")))?;
    Ok(Weight { nodes, addresses, weight })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(address: &str, node: Option<&str>) -> Backend {
        Backend {
            address: address.parse().unwrap(),
            port: 80,
            node: node.map(|name| name.parse().unwrap()),
            ready: true,
            terminating: false,
            serving: true,
            weight: 9,
        }
    }

    fn spec(nodes: &[&str], addresses: &[&str], weight: u32) -> WeightSpec {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        WeightSpec { nodes: strings(nodes), addresses: strings(addresses), weight }
    }

    fn weights_of(specs: &[WeightSpec], pods: &[Backend]) -> Vec<u16> {
        let mut complaints = Vec::new();
        let read = read(specs, &mut complaints);
        assert!(complaints.is_empty(), "{complaints:?}");
        weigh(pods.to_vec(), &read).iter().map(|pod| pod.weight).collect()
    }

    #[test]
    fn the_first_weight_that_is_meant_for_a_pod_counts_and_one_if_none_is() {
        let pods = [
            pod("10.1.1.2", Some("n1")),
            pod("10.1.2.2", Some("n2")),
            pod("10.1.2.3", Some("n2")),
            pod("fd00::2", None),
        ];
        assert_eq!(weights_of(&[], &pods), [1, 1, 1, 1]);
        let specs = [spec(&["n2"], &["10.1.2.3"], 0), spec(&["n1", "n2"], &[], 5), spec(&[], &["fd00::/64"], 256)];
        assert_eq!(weights_of(&specs, &pods), [5, 5, 0, 256]);
        assert_eq!(weights_of(&[spec(&[], &[], 7), spec(&["n1"], &[], 3)], &pods), [7, 7, 7, 7]);
    }

    #[test]
    fn a_weight_that_cannot_be_is_named_by_its_field() {
        for (wrong, field) in [
            (spec(&[], &[], 257), "spec.weights[1].weight"),
            (spec(&["no node"], &[], 1), "spec.weights[1].nodes[0]"),
            (spec(&[], &["10.0.0.0/8", "10.1"], 1), "spec.weights[1].addresses[1]"),
        ] {
            let mut complaints = Vec::new();
            assert_eq!(read(&[spec(&[], &[], 2), wrong], &mut complaints).len(), 1);
            let fields: Vec<_> = complaints.iter().map(|complaint| complaint.field.clone()).collect();
            assert_eq!(fields, [field]);
        }
    }
}
