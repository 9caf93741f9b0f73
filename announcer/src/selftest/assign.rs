//! Who tests which VIP: a function of the view, the candidates and the owners, alike on all nodes that see the same.
//!
//! The tester of a VIP is the candidate that ranks highest behind its owner, among those with an address on a segment
//! where the owner announces it: who claims the VIP if the owner is to be replaced, so two never do at once. Where no other
//! node may own the VIP, one that has an address there still looks, and only reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use membership::{
    Candidates, Interface, MemberState, NodeName, View,
    claims::{Owner, avoided},
    election,
};

use super::{Controls, Directory, vigil::Post};
use crate::{
    model::{Advertise, Desired},
    ownership::interfaces_for,
    wire::MacAddr,
};

/// Where a tester sits on the VIP's segment: what its questions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Its uplink.
    pub interface: String,
    /// The uplink's Ethernet address.
    pub mac: MacAddr,
    /// Its own address there, of the VIP's family.
    pub address: IpAddr,
}

/// A node's own address, and where it is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// A VIP to be tested by this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Who owns the VIP.
    pub owner: NodeName,
    /// The epoch of its claim.
    pub epoch: u64,
    /// Whether this node may take the VIP from it: it is a candidate, and the owner is not known to be in trouble, which
    /// is the membership's matter.
    pub may_replace: bool,
    /// The owner's Ethernet addresses.
    pub owner_macs: BTreeSet<MacAddr>,
    /// The owner itself on this segment.
    pub owner_host: Host,
    /// Another peer there, if there is one.
    pub witness: Option<Host>,
    /// From where to ask.
    pub seat: Seat,
}

/// All that this node tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// By VIP.
    pub jobs: BTreeMap<IpAddr, Job>,
    /// How many VIPs this node owns that nobody can test.
    pub untested: usize,
    /// The members that restart, and that this node is to watch meanwhile.
    pub posts: BTreeMap<NodeName, Post>,
    /// Who has which Ethernet address.
    pub members: Directory,
}

impl Assignment {
    /// The nodes' own addresses that the jobs ask for.
    #[must_use]
    pub fn controls(&self) -> Controls {
        let mut controls = Controls::new();
        for job in self.jobs.values() {
            for host in [Some(job.owner_host), job.witness].into_iter().flatten() {
                controls.entry(host.address).or_default().insert(host.mac);
            }
        }
        controls
    }
}

/// What tests are assigned by.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The cluster.
    pub view: Arc<View>,
    /// Who may own what.
    pub candidates: Candidates,
    /// Who owns what.
    pub owners: Arc<BTreeMap<IpAddr, Owner>>,
}

/// What `me` tests. `desired` is what the scene was made of; `usable` knows which of this node's uplinks frames get out of.
#[must_use]
pub fn assign(me: &NodeName, scene: &Scene, desired: &Desired, usable: impl Fn(&str) -> bool) -> Assignment {
    let view = &scene.view;
    let advertise = advertisements(desired);
    let room = Room { view, candidates: &scene.candidates, avoided: avoided(view) };
    let posts = room.posts(me, &scene.owners, &advertise, &usable);
    let mut assignment = Assignment { members: directory(view), posts, ..Assignment::default() };
    for (vip, owner) in scene.owners.iter() {
        // Of one that restarts no answer by its agent is to be had.
        let Some(member) = view.members.get(&owner.node).filter(|member| member.state.is_running()) else { continue };
        let advertise = advertise.get(vip).map(Vec::as_slice).unwrap_or_default();
        let announcing = announcing(*vip, advertise, &owner.node, &member.document.facts.interfaces);
        let tester = room.tester(*vip, &owner.node, &announcing);
        if owner.node == *me {
            assignment.untested += usize::from(tester.is_none());
        }
        let Some((tester, may_replace)) = tester.filter(|(node, _)| *node == me) else { continue };
        let Some((seat, owner_host)) = room.seat(*vip, tester, &announcing) else { continue };
        if !usable(&seat.interface) {
            continue;
        }
        let job = Job {
            owner: owner.node.clone(),
            epoch: owner.epoch,
            may_replace: may_replace && member.state == MemberState::Alive,
            owner_macs: member.document.facts.interfaces.iter().map(|uplink| uplink.mac.into()).collect(),
            owner_host,
            witness: room.witness(&seat, [me, &owner.node]),
            seat,
        };
        assignment.jobs.insert(*vip, job);
    }
    assignment
}

fn advertisements(desired: &Desired) -> BTreeMap<IpAddr, Vec<&[Advertise]>> {
    let mut result: BTreeMap<IpAddr, Vec<&[Advertise]>> = BTreeMap::new();
    for vip in desired.services.values().flat_map(|service| &service.vips) {
        result.entry(vip.address).or_default().push(&vip.advertise);
    }
    result
}

/// The uplinks on which the owner announces the VIP.
fn announcing<'a>(
    vip: IpAddr,
    advertise: &[&[Advertise]],
    owner: &NodeName,
    uplinks: &'a [Interface],
) -> Vec<&'a Interface> {
    let names: BTreeSet<String> =
        advertise.iter().flat_map(|advertise| interfaces_for(vip, advertise, owner, uplinks)).collect();
    uplinks.iter().filter(|uplink| names.contains(&uplink.name)).collect()
}

fn directory(view: &View) -> Directory {
    let uplinks = |(name, member): (&NodeName, &membership::Member)| -> Vec<(MacAddr, NodeName)> {
        member.document.facts.interfaces.iter().map(|uplink| (uplink.mac.into(), name.clone())).collect()
    };
    view.members.iter().flat_map(uplinks).collect()
}

struct Room<'a> {
    view: &'a View,
    candidates: &'a Candidates,
    avoided: BTreeSet<&'a NodeName>,
}

impl<'a> Room<'a> {
    /// Who tests the VIP, and whether it may replace the owner.
    fn tester(&self, vip: IpAddr, owner: &NodeName, announcing: &[&Interface]) -> Option<(&'a NodeName, bool)> {
        let can_ask = |node: &&NodeName| *node != owner && self.seat(vip, node, announcing).is_some();
        let candidates = self.candidates.get(&vip).into_iter().flat_map(|nodes| nodes.iter());
        let heirs = candidates.filter(|node| !self.avoided.contains(node));
        let awake = self.view.up().filter(|(_, member)| !member.document.facts.listening).map(|(name, _)| name);
        let heir = election::first(vip, heirs.filter(can_ask)).map(|node| (node, true));
        heir.or_else(|| election::first(vip, awake.filter(can_ask)).map(|node| (node, false)))
    }

    /// The members that restart and that `me` is to watch: of those on a segment with one, and whose agents run, who comes
    /// first by the hash of its address. It asks for a VIP of that member's, or else for its own address.
    fn posts(
        &self,
        me: &NodeName,
        owners: &BTreeMap<IpAddr, Owner>,
        advertise: &BTreeMap<IpAddr, Vec<&[Advertise]>>,
        usable: &impl Fn(&str) -> bool,
    ) -> BTreeMap<NodeName, Post> {
        let away = self.view.members.iter().filter(|(_, member)| member.state == MemberState::Restarting);
        let mut posts = BTreeMap::new();
        for (name, member) in away {
            let uplinks: Vec<&Interface> = member.document.facts.interfaces.iter().collect();
            let Some(own) = uplinks.iter().flat_map(|uplink| &uplink.prefixes).next().map(IpNet::addr) else {
                continue;
            };
            let vips = owners.iter().filter(|(_, owner)| owner.node == *name).map(|(vip, _)| *vip);
            for target in vips.chain([own]) {
                // Its hooks answer for a VIP where it announced it.
                let told = advertise
                    .get(&target)
                    .map(|told| announcing(target, told, name, &member.document.facts.interfaces));
                let uplinks = told.as_ref().unwrap_or(&uplinks);
                let running = self.view.members.iter().filter(|(_, member)| member.state.is_running());
                let near = running.map(|(node, _)| node).filter(|node| self.seat(target, node, uplinks).is_some());
                let watcher = election::first(own, near);
                let Some((seat, host)) = watcher.and_then(|watcher| self.seat(target, watcher, uplinks)) else {
                    continue;
                };
                if watcher == Some(me) && usable(&seat.interface) {
                    posts.insert(name.clone(), Post { seat, target, mac: host.mac, generation: member.generation });
                }
                break;
            }
        }
        posts
    }

    /// Where the node sits on a segment with the owner, and where the owner is to be found there: an on-link prefix of
    /// the VIP's family that both have, best one that contains the VIP.
    fn seat(&self, vip: IpAddr, node: &NodeName, announcing: &[&Interface]) -> Option<(Seat, Host)> {
        let member = self.view.members.get(node).filter(|member| member.state.is_up())?;
        let mut found = None;
        for (theirs, uplink) in announcing.iter().flat_map(|uplink| segments(uplink, vip).map(move |net| (net, uplink)))
        {
            for own in &member.document.facts.interfaces {
                let Some(ours) = segments(own, vip).find(|net| net.trunc() == theirs.trunc()) else { continue };
                let seat = Seat { interface: own.name.clone(), mac: own.mac.into(), address: ours.addr() };
                let host = Host { address: theirs.addr(), mac: uplink.mac.into() };
                if ours.contains(&vip) {
                    return Some((seat, host));
                }
                found.get_or_insert((seat, host));
            }
        }
        found
    }

    /// Another peer on the segment, by name.
    fn witness(&self, seat: &Seat, except: [&NodeName; 2]) -> Option<Host> {
        let own = except[0];
        let uplinks = &self.view.members.get(own)?.document.facts.interfaces;
        let uplink = uplinks.iter().find(|uplink| uplink.name == seat.interface)?;
        let segment = uplink.prefixes.iter().find(|net| net.addr() == seat.address)?.trunc();
        let others = self.view.up().filter(|(name, _)| !except.contains(name));
        let mut uplinks = others.flat_map(|(_, member)| &member.document.facts.interfaces);
        uplinks.find_map(|uplink| {
            let net = uplink.prefixes.iter().find(|net| net.trunc() == segment)?;
            Some(Host { address: net.addr(), mac: uplink.mac.into() })
        })
    }
}

/// The uplink's prefixes of the VIP's family that others can share: not those of a single address.
fn segments(uplink: &Interface, vip: IpAddr) -> impl Iterator<Item = IpNet> {
    let family = move |net: &&IpNet| net.addr().is_ipv4() == vip.is_ipv4() && net.prefix_len() < net.max_prefix_len();
    uplink.prefixes.iter().filter(family).copied()
}

#[cfg(test)]
mod tests;
