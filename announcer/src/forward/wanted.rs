//! What the kernel's maps should hold, as a function of what is desired, what is seen of the cluster and the links.
//!
//! Service tables are the same on every node: they come from what all nodes know alike. Only the MACs, and the
//! local tables, are each node's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use membership::{Member, NodeName, View, document::Mac};

use crate::{
    forward::counters::Labels,
    model::{Desired, Protocol, Service, ServiceName, ServicePort, TrafficPolicy},
    serving::{Carrier, carrier, serving, serving_here, share, standby},
};

/// An uplink of this node, as far as forwarding needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The interface's name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its on-link prefixes.
    pub prefixes: Vec<IpNet>,
}

/// A socket clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What the kernel's maps should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// This node's uplinks by interface index.
    pub uplinks: BTreeMap<u32, Uplink>,
    /// The nodes packets can be handed to, this one included; also those that are away but not yet forgotten, since
    /// connections may live there: to be away may only mean to be out of this node's sight.
    pub nodes: BTreeMap<NodeName, Node>,
    /// All VIPs, those of services without a usable pod included.
    pub vips: BTreeSet<IpAddr>,
    /// What is behind each socket.
    pub services: BTreeMap<Socket, Targets>,
}

/// An uplink of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name.
    pub name: String,
    /// Its MAC.
    pub mac: Mac,
}

/// A node packets can be handed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// It is this node.
    pub me: bool,
    /// Its MAC on the segments of this node's uplinks, by the uplink's interface index.
    pub macs: BTreeMap<u32, Mac>,
}

/// What is behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// What its traffic is counted by.
    pub labels: Labels,
    /// The nodes that serve, with the shares of their usable pods together.
    pub nodes: BTreeMap<NodeName, u32>,
    /// If this node serves alone: nodes that would serve too if they were not away, with the shares of their pods.
    pub standby: BTreeMap<NodeName, u32>,
    /// This node's usable pods with their shares ([`crate::serving::share`]).
    pub local: BTreeMap<(IpAddr, u16), u32>,
    /// Those of them whose connections are translated: this node's address by which they know the clients.
    pub translated: BTreeMap<(IpAddr, u16), IpAddr>,
    /// Seconds for which a client stays with its pod; 0: it need not.
    pub affinity: u32,
    /// The clients that are let in; empty: all.
    pub sources: BTreeSet<IpNet>,
}

/// What the kernel's maps should hold on node `me` with its uplinks `links`.
///
/// Nodes that share no segment with this one are left out: no frame can be handed to them.
#[must_use]
pub fn wanted(desired: &Desired, view: &View, links: &[Link], me: &NodeName) -> Wanted {
    let nodes = nodes(view, links, me);
    let here = Here { view, nodes: &nodes, links, me };
    let mut services = BTreeMap::new();
    for (name, service) in &desired.services {
        for port in &service.ports {
            for vip in &service.vips {
                let socket = Socket { vip: vip.address, port: port.port, protocol: port.protocol };
                services.insert(socket, here.targets(name, service, port, vip.address));
            }
        }
    }
    Wanted {
        uplinks: links.iter().map(|l| (l.index, Uplink { name: l.name.clone(), mac: l.mac })).collect(),
        vips: desired.services.values().flat_map(|s| s.vips.iter().map(|vip| vip.address)).collect(),
        nodes,
        services,
    }
}

/// What targets are made of beside a service.
struct Here<'a> {
    view: &'a View,
    nodes: &'a BTreeMap<NodeName, Node>,
    links: &'a [Link],
    me: &'a NodeName,
}

impl Here<'_> {
    fn targets(&self, name: &ServiceName, service: &Service, port: &ServicePort, vip: IpAddr) -> Targets {
        let Self { view, nodes, me, .. } = *self;
        let mut targets = Targets {
            labels: Labels { service: name.clone(), port: port.port, protocol: port.protocol },
            nodes: BTreeMap::new(),
            standby: BTreeMap::new(),
            local: BTreeMap::new(),
            translated: BTreeMap::new(),
            affinity: service.affinity.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
            sources: service.sources.clone(),
        };
        let usable = match service.traffic_policy {
            TrafficPolicy::Cluster => serving(port, vip, view).backends,
            TrafficPolicy::Local => serving_here(port, vip, view, me),
        };
        for backend in usable {
            let carrier = carrier(port, backend, vip, view).filter(|carrier| nodes.contains_key(carrier.node));
            let Some(Carrier { node, translated, .. }) = carrier else { continue };
            let share = share(port, backend, vip, view);
            if node == me {
                let socket = (backend.address, backend.port);
                if translated {
                    let Some(own) = self.own_address(backend.address, vip) else { continue };
                    targets.translated.insert(socket, own);
                }
                targets.local.insert(socket, share);
            }
            *targets.nodes.entry(node.clone()).or_default() += share;
        }
        if service.traffic_policy == TrafficPolicy::Cluster && targets.nodes.keys().eq([me]) {
            for backend in standby(port, vip, view) {
                let Some(node) = backend.node.as_ref().filter(|node| nodes.contains_key(node)) else { continue };
                *targets.standby.entry(node.clone()).or_default() += share(port, backend, vip, view);
            }
        }
        targets
    }

    /// The address by which a translated backend knows the clients: this node's on the backend's segment, or else on the VIP's.
    fn own_address(&self, backend: IpAddr, vip: IpAddr) -> Option<IpAddr> {
        let prefixes = || self.links.iter().flat_map(|link| &link.prefixes);
        let on = |address: IpAddr| prefixes().find(|prefix| prefix.contains(&address));
        on(backend).or_else(|| on(vip)).map(IpNet::addr)
    }
}

fn nodes(view: &View, links: &[Link], me: &NodeName) -> BTreeMap<NodeName, Node> {
    let own = Node { me: true, macs: links.iter().map(|link| (link.index, link.mac)).collect() };
    let peers = view.members.iter().filter(|(name, member)| *name != me && member.document.facts.forwarding);
    let peers = peers.map(|(name, member)| (name.clone(), Node { me: false, macs: macs(member, links) }));
    peers.filter(|(_, node)| !node.macs.is_empty()).chain([(me.clone(), own)]).collect()
}

/// A peer's MAC on each link's segment: that of its first interface that shares a network with the link.
fn macs(peer: &Member, links: &[Link]) -> BTreeMap<u32, Mac> {
    let on_segment = |link: &Link| {
        let mut interfaces = peer.document.facts.interfaces.iter();
        let interface = interfaces.find(|interface| shares_network(&interface.prefixes, &link.prefixes))?;
        Some((link.index, interface.mac))
    };
    links.iter().filter_map(on_segment).collect()
}

fn shares_network(theirs: &[IpNet], ours: &[IpNet]) -> bool {
    let host_only = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    let networks = ours.iter().filter(|net| !host_only(net)).map(IpNet::trunc);
    networks.into_iter().any(|network| theirs.iter().any(|net| net.trunc() == network))
}

#[cfg(test)]
mod tests;
