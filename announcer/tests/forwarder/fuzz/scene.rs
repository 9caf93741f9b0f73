//! A node's tables for packets that nobody sends: what the forwarder is told, and what of it a judge may know.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use announcer::{
    forward::{
        Labels, Wanted,
        wanted::{Node, Socket, Targets, Uplink},
    },
    model::{Protocol, ServiceName},
};
use ipnet::IpNet;

use super::anatomy::{SCTP, TCP, UDP};
use crate::rig::name;

/// This node's MAC, the other nodes', and that of the router by which clients come.
pub(crate) const OWN: [u8; 6] = [2, 0xc7, 0, 0, 0, 1];
pub(crate) const OTHERS: [[u8; 6]; 2] = [[2, 0xc7, 0, 0, 0, 2], [2, 0xc7, 0, 0, 0, 3]];
pub(crate) const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Where a service's pods are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Everywhere,
    Here,
    Away,
    Nowhere,
}

/// What is behind a VIP's port.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) place: Where,
    /// A client stays with its pod.
    pub(crate) affinity: bool,
    /// The only clients that are let in.
    pub(crate) sources: Option<IpNet>,
}

impl Service {
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.place, Where::Everywhere | Where::Here)
    }

    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.place, Where::Everywhere | Where::Away)
    }
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) vips: BTreeSet<IpAddr>,
    /// Those that this node answers for while no agent does: as in this scene.
    pub(crate) owned: BTreeSet<IpAddr>,
    /// By VIP, port and protocol number.
    pub(crate) services: BTreeMap<(IpAddr, u16, u8), Service>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let mut scene = Self { vips: BTreeSet::new(), owned: BTreeSet::new(), services: BTreeMap::new() };
        for v6 in [false, true] {
            for number in [100, 101, 102, 103, 104, 105, 106] {
                scene.vips.insert(address(v6, number));
            }
            scene.owned.extend([100, 101, 103, 106].map(|number| address(v6, number)));
            let sources = if v6 { "fd77::/124" } else { "10.77.0.0/28" };
            scene.add(v6, 100, Where::Everywhere, false, None);
            scene.add(v6, 101, Where::Away, false, None);
            scene.add(v6, 102, Where::Here, false, sources.parse().ok());
            scene.add(v6, 103, Where::Everywhere, true, None);
            scene.add(v6, 104, Where::Nowhere, false, None);
            scene.add(v6, 106, Where::Here, false, None);
        }
        scene
    }

    fn add(&mut self, v6: bool, number: u16, place: Where, affinity: bool, sources: Option<IpNet>) {
        for (port, protocol) in [(80, TCP), (80, UDP), (443, UDP), (8080, SCTP)] {
            let service = Service { place, affinity, sources };
            self.services.insert((address(v6, number), port, protocol), service);
        }
    }

    /// The pods of this node: all serve everything.
    pub(crate) fn pods(v6: bool) -> [SocketAddr; 2] {
        [1, 2].map(|number| {
            let ip = if v6 {
                IpAddr::from([0xfd78, 0, 0, 0, 0, 0, 0, number])
            } else {
                Ipv4Addr::new(10, 78, 0, number as u8).into()
            };
            SocketAddr::new(ip, 8080)
        })
    }

    /// What the forwarder is told.
    pub(crate) fn wanted(&self, interface: u32) -> Wanted {
        let macs = [OWN].into_iter().chain(OTHERS).enumerate();
        let nodes = macs.map(|(n, mac)| (name(n), Node { me: n == 0, macs: [(interface, mac)].into() })).collect();
        let services = self.services.iter().map(|((vip, port, protocol), service)| {
            let protocol = match *protocol {
                TCP => Protocol::Tcp,
                UDP => Protocol::Udp,
                _ => Protocol::Sctp,
            };
            (Socket { vip: *vip, port: *port, protocol }, targets(*vip, *port, protocol, service))
        });
        Wanted {
            uplinks: [(interface, Uplink { name: "eth0".into(), mac: OWN })].into(),
            nodes,
            vips: self.vips.clone(),
            services: services.collect(),
        }
    }
}

fn targets(vip: IpAddr, port: u16, protocol: Protocol, service: &Service) -> Targets {
    let number = vip.to_string().rsplit(['.', ':']).next().unwrap_or_default().to_owned();
    let here = service.is_here().then_some(0);
    let elsewhere = if service.is_elsewhere() { vec![1, 2] } else { Vec::new() };
    let pods = Scene::pods(vip.is_ipv6()).map(|pod| ((pod.ip(), pod.port()), 1));
    Targets {
        labels: Labels {
            service: ServiceName { namespace: "default".into(), name: format!("s{number}") },
            port,
            protocol,
        },
        nodes: here.into_iter().chain(elsewhere).map(|n| (name(n), 1)).collect(),
        standby: BTreeMap::new(),
        local: pods.into_iter().filter(|_| service.is_here()).collect(),
        translated: Default::default(),
        affinity: if service.affinity { 600 } else { 0 },
        sources: service.sources.into_iter().collect(),
    }
}

/// `10.77.0.N`, or `fd77::N` with the same digits.
pub(crate) fn address(v6: bool, number: u16) -> IpAddr {
    if v6 {
        let digits = number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10;
        Ipv6Addr::from([0xfd77, 0, 0, 0, 0, 0, 0, digits]).into()
    } else {
        Ipv4Addr::new(10, 77, 0, number as u8).into()
    }
}
