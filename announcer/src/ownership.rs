//! Who may own which VIP, and on which interfaces an owner announces it: from what is desired and what the nodes say of
//! themselves to the input of [`membership::election`].
//!
//! A node may own a VIP if it is up, not draining, not listening, has an uplink for it (named by an L2Advertisement
//! that covers it there, or else one whose prefixes contain it) and, under `externalTrafficPolicy: Local`, a usable pod.
//! While some of these nodes forward, those that do not (their hooks failed, or `forwarder.mode` is off there) own nothing.
//!
//! A node that a service prefers (`crier.io/preferred-node`) is its only candidate while it is one.
//!
//! Services that share a VIP each bring their own conditions. A node must meet all of them. Where no node can, those
//! that meet the most may own it (advertisements first, pods among what is left): part of the services served is better
//! than none. A condition that no node at all
//! meets (a Local service without a usable pod, a service no advertisement covers) does not stand in the way of the
//! others; a VIP for which nothing but such conditions remain has no owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use membership::{Candidates, Interface, NodeName, View};

use crate::{
    model::{Advertise, Desired, Service, TrafficPolicy, Vip},
    serving::local_nodes,
};

/// How many different answers are kept while one view is looked at; most VIPs have the same few.
const MAX_KEPT: usize = 64;

/// The nodes that may own each desired VIP, perhaps none.
#[must_use]
pub fn eligible(desired: &Desired, view: &View) -> Candidates {
    let mut reach = Reach::new(view);
    let by_vip = by_vip(desired);
    let may_own = |vip, uses: &[Use<'_>], reaching| preferred(uses, with_local_pods(vip, uses, view, reaching));
    by_vip.into_iter().map(|(vip, uses)| (vip, may_own(vip, &uses, reach.nodes(vip, &uses)))).collect()
}

/// The node that a service prefers, alone, if it is one of those; so another hands over to it as if it drained. Of services
/// that share a VIP the first by name that prefers such a node decides.
fn preferred(uses: &[Use<'_>], nodes: Arc<BTreeSet<NodeName>>) -> Arc<BTreeSet<NodeName>> {
    let mut wished = uses.iter().filter_map(|user| user.service.preferred.as_ref());
    match wished.find(|node| nodes.contains(*node)) {
        Some(node) => Arc::new(BTreeSet::from([node.clone()])),
        None => nodes,
    }
}

/// The uplinks of a node on which it announces a VIP, by what advertisements say; empty: it must not.
#[must_use]
pub fn interfaces_for(
    vip: IpAddr,
    advertise: &[Advertise],
    node: &NodeName,
    interfaces: &[Interface],
) -> BTreeSet<String> {
    let allows = |entry: &Advertise, interface: &Interface| {
        if entry.interfaces.is_empty() {
            interface.prefixes.iter().any(|prefix| prefix.contains(&vip))
        } else {
            entry.interfaces.contains(&interface.name)
        }
    };
    let here = || advertise.iter().filter(|entry| entry.nodes.as_ref().is_none_or(|nodes| nodes.contains(node)));
    let allowed = interfaces.iter().filter(|interface| here().any(|entry| allows(entry, interface)));
    allowed.map(|interface| interface.name.clone()).collect()
}

/// The names of the uplinks of all nodes that are up.
#[must_use]
pub fn uplinks(view: &View) -> BTreeSet<&str> {
    let interfaces = view.up().flat_map(|(_, member)| &member.document.facts.interfaces);
    interfaces.map(|interface| interface.name.as_str()).collect()
}

/// Why a VIP that has no owner has none, in words.
#[must_use]
pub fn why_unowned(vip: &Vip, view: &View) -> String {
    if vip.advertise.is_empty() {
        return "no L2Advertisement covers it".to_owned();
    }
    let uplinks = uplinks(view);
    let elsewhere = |one: &Advertise| {
        !one.interfaces.is_empty() && !one.interfaces.iter().any(|name| uplinks.contains(name.as_str()))
    };
    if !uplinks.is_empty() && vip.advertise.iter().all(elsewhere) {
        let asked: BTreeSet<&str> = vip.advertise.iter().flat_map(|one| &one.interfaces).map(String::as_str).collect();
        let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        return format!(
            "no node may own it: no node has the uplink that spec.interfaces of its L2Advertisement names ({}); uplinks are {}",
            list(asked),
            list(uplinks)
        );
    }
    "no node may own it: none is up, has an uplink for the address and, with externalTrafficPolicy Local, a usable pod"
        .to_owned()
}

/// The uplinks on which `node` announces each desired VIP when it owns it: of all services that share the VIP together.
/// VIPs it has no uplink for are absent.
#[must_use]
pub fn announce_on(desired: &Desired, node: &NodeName, interfaces: &[Interface]) -> BTreeMap<IpAddr, BTreeSet<String>> {
    let mut result: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for vip in desired.services.values().flat_map(|service| &service.vips) {
        let names = interfaces_for(vip.address, &vip.advertise, node, interfaces);
        if !names.is_empty() {
            result.entry(vip.address).or_default().extend(names);
        }
    }
    result
}

/// The VIPs behind which `node` has a usable pod of its own, so that it serves them even if it reaches no other node.
#[must_use]
pub fn served_by(desired: &Desired, view: &View, node: &NodeName) -> BTreeSet<IpAddr> {
    let served =
        |service: &Service, vip: IpAddr| service.ports.iter().any(|port| local_nodes(port, vip, view).contains(node));
    let of = |service: &Service| -> Vec<IpAddr> {
        service.vips.iter().map(|vip| vip.address).filter(|vip| served(service, *vip)).collect()
    };
    desired.services.values().flat_map(of).collect()
}

/// A service as one user of a VIP.
struct Use<'a> {
    service: &'a Service,
    advertise: &'a [Advertise],
}

fn by_vip(desired: &Desired) -> BTreeMap<IpAddr, Vec<Use<'_>>> {
    let mut result: BTreeMap<IpAddr, Vec<Use<'_>>> = BTreeMap::new();
    for service in desired.services.values() {
        for vip in &service.vips {
            result.entry(vip.address).or_default().push(Use { service, advertise: &vip.advertise });
        }
    }
    result
}

/// What an answer depends on: the advertisements, and the segments that contain the VIP.
type Question<'a> = (Vec<&'a [Advertise]>, Vec<IpNet>);

/// Which nodes could announce a VIP, as far as facts and advertisements go. Equal questions share one answer, so that
/// thousands of VIPs from one pool cost little more than one.
struct Reach<'a> {
    able: Vec<(&'a NodeName, &'a [Interface])>,
    segments: BTreeSet<IpNet>,
    kept: Vec<(Question<'a>, Arc<BTreeSet<NodeName>>)>,
}

impl<'a> Reach<'a> {
    fn new(view: &'a View) -> Self {
        let awake =
            || view.up().filter(|(_, member)| !member.document.facts.draining && !member.document.facts.listening);
        let some_forward = awake().any(|(_, member)| member.document.facts.forwarding);
        let able: Vec<_> = awake()
            .filter(|(_, member)| !some_forward || member.document.facts.forwarding)
            .map(|(name, member)| (name, member.document.facts.interfaces.as_slice()))
            .collect();
        let prefixes = able.iter().flat_map(|(_, interfaces)| interfaces.iter()).flat_map(|uplink| &uplink.prefixes);
        Self { segments: prefixes.map(IpNet::trunc).collect(), able, kept: Vec::new() }
    }

    fn nodes(&mut self, vip: IpAddr, uses: &[Use<'a>]) -> Arc<BTreeSet<NodeName>> {
        let advertised = uses.iter().map(|user| user.advertise).collect();
        let segments = self.segments.iter().filter(|segment| segment.contains(&vip)).copied().collect();
        let question: Question<'a> = (advertised, segments);
        if let Some((_, answer)) = self.kept.iter().find(|(kept, _)| *kept == question) {
            return Arc::clone(answer);
        }
        let allowed = |advertise: &[Advertise]| -> BTreeSet<NodeName> {
            let may =
                |node: &NodeName, uplinks: &[Interface]| !interfaces_for(vip, advertise, node, uplinks).is_empty();
            self.able.iter().filter(|(node, uplinks)| may(node, uplinks)).map(|(node, _)| (*node).clone()).collect()
        };
        let conditions: Vec<_> = question.0.iter().map(|advertise| allowed(advertise)).collect();
        let answer = Arc::new(meeting_most(&conditions));
        if self.kept.len() < MAX_KEPT {
            self.kept.push((question, Arc::clone(&answer)));
        }
        answer
    }
}

/// Of the nodes that could announce the VIP, those with pods for its Local services.
fn with_local_pods(
    vip: IpAddr,
    uses: &[Use<'_>],
    view: &View,
    reaching: Arc<BTreeSet<NodeName>>,
) -> Arc<BTreeSet<NodeName>> {
    let local: Vec<&Use<'_>> = uses.iter().filter(|user| user.service.traffic_policy == TrafficPolicy::Local).collect();
    if local.is_empty() {
        return reaching;
    }
    let ports = local.iter().flat_map(|user| &user.service.ports);
    let conditions: Vec<BTreeSet<NodeName>> =
        ports.map(|port| local_nodes(port, vip, view).intersection(&reaching).cloned().collect()).collect();
    let best = meeting_most(&conditions);
    if best.is_empty() && local.len() < uses.len() { reaching } else { Arc::new(best) }
}

/// The nodes that are in the greatest number of sets, and in one at least.
fn meeting_most(conditions: &[BTreeSet<NodeName>]) -> BTreeSet<NodeName> {
    let mut met: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for node in conditions.iter().flatten() {
        *met.entry(node).or_default() += 1;
    }
    let most = met.values().copied().max();
    met.into_iter().filter(|(_, count)| Some(*count) == most).map(|(node, _)| node.clone()).collect()
}

#[cfg(test)]
mod tests;
