//! Which node carries a backend's connections in its own name, where the backend cannot answer the clients past it: by full NAT, so
//! that the backend sees that node instead of the client.
//!
//! Every node computes the same from what all know. So such a backend is one of its gateway's own pods: the gateway probes it and
//! gossips the verdict, and tables, weights and history need know nothing of it.

use std::{collections::BTreeMap, net::IpAddr};

use membership::{Interface, Member, NodeName, View, election};

use crate::model::{Backend, Protocol};

/// A backend's gateway.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// What is known of it.
    pub member: &'a Member,
    /// Used only once the gateway's probes have found the backend healthy: the node that it is said to run on may be gone, or about to
    /// start.
    pub if_proven: bool,
}

/// The gateway of a backend for connections to `vip`; `None`: it needs none, or there is none.
///
/// A backend without a node needs one. So does one on a node that is no member, or that does not forward, or is not on the VIP's
/// segment, if probes reach it from there. And so does one that is itself on a segment of its node's (a macvlan): what it says does not
/// pass the node's hooks; since it often cannot talk with its own node either, another node is its gateway if there is one. What
/// runs on a member that is down needs none: the hooks there may go on.
#[must_use]
pub fn gateway<'a>(backend: &Backend, vip: IpAddr, view: &'a View) -> Option<Gateway<'a>> {
    let Some(name) = &backend.node else { return elect(backend, vip, view, None, false) };
    let Some(member) = view.members.get(name) else { return elect(backend, vip, view, None, true) };
    if !member.state.is_up() {
        return None;
    }
    if !member.document.facts.forwarding || !on_segment(member, vip) {
        return elect(backend, vip, view, None, true);
    }
    if !is_neighbour(member, backend.address) {
        return None;
    }
    elect(backend, vip, view, Some(name), false).or_else(|| elect(backend, vip, view, None, false))
}

/// Whether a gateway can carry this protocol's connections. With SCTP a gateway could not have ports of its own.
#[must_use]
pub const fn can_carry(protocol: Protocol) -> bool {
    !matches!(protocol, Protocol::Sctp)
}

/// What the choice of gateways depends on beside the objects: of each node whether it is up, forwards and stays, and its uplinks.
pub type Standing = BTreeMap<NodeName, ([bool; 3], Vec<Interface>)>;

/// What the choice of gateways depends on now.
#[must_use]
pub fn standing(view: &View) -> Standing {
    let one = |(name, member): (&NodeName, &Member)| {
        let facts = &member.document.facts;
        let able = [member.state.is_up(), facts.forwarding, is_settled(member)];
        (name.clone(), (able, facts.interfaces.clone()))
    };
    view.members.iter().map(one).collect()
}

/// Whether one of the node's uplinks that work is on the VIP's segment.
#[must_use]
pub fn on_segment(member: &Member, vip: IpAddr) -> bool {
    member.document.facts.interfaces.iter().any(|uplink| uplink.prefixes.iter().any(|prefix| prefix.contains(&vip)))
}

/// By rendezvous hashing of the backend's address and the nodes' names, so that a node that leaves changes only what it carried.
fn elect<'a>(
    backend: &Backend,
    vip: IpAddr,
    view: &'a View,
    but: Option<&NodeName>,
    if_proven: bool,
) -> Option<Gateway<'a>> {
    let able = || {
        let able = |(name, member): &(&NodeName, &Member)| {
            Some(*name) != but && member.document.facts.forwarding && on_segment(member, vip)
        };
        view.up().filter(able)
    };
    let names = |(name, _)| name;
    let settled = able().filter(|(_, member)| is_settled(member)).map(names);
    let node =
        election::first(backend.address, settled).or_else(|| election::first(backend.address, able().map(names)));
    let (node, member) = view.members.get_key_value(node?)?;
    Some(Gateway { node, member, if_proven })
}

/// Neither about to go nor just come.
fn is_settled(member: &Member) -> bool {
    !member.document.facts.draining && !member.document.facts.listening
}

/// Whether an address is another's on one of the node's segments.
fn is_neighbour(member: &Member, address: IpAddr) -> bool {
    let prefixes = || member.document.facts.interfaces.iter().flat_map(|uplink| &uplink.prefixes);
    prefixes().any(|prefix| prefix.contains(&address)) && prefixes().all(|prefix| prefix.addr() != address)
}

#[cfg(test)]
mod tests {
    use membership::{Facts, MemberState, NodeDocument};

    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100));

    fn backend(address: [u8; 4], node: Option<&str>) -> Backend {
        Backend {
            address: address.into(),
            port: 8080,
            node: node.map(|name| name.parse().unwrap()),
            ready: true,
            terminating: false,
            serving: true,
            weight: Backend::WEIGHT,
        }
    }

    fn member(number: u8) -> Member {
        let prefixes = vec![format!("10.77.0.{number}/24").parse().unwrap()];
        let interfaces = vec![Interface { name: "eth0".into(), mac: [2; 6], prefixes }];
        let facts = Facts { interfaces, forwarding: true, ..Facts::default() };
        Member {
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument { facts, ..NodeDocument::default() },
        }
    }

    fn view(count: u8) -> View {
        let members = (1..=count).map(|number| (format!("n{number}").parse().unwrap(), member(number)));
        View { members: members.collect(), caught_up: true }
    }

    fn change(view: &mut View, node: &str, change: impl Fn(&mut Member)) {
        change(view.members.get_mut(&node.parse().unwrap()).unwrap());
    }

    fn chosen(backend: &Backend, view: &View) -> Option<String> {
        gateway(backend, VIP, view).map(|gateway| gateway.node.as_str().to_owned())
    }

    /// Backends without a node, and who carries them.
    fn carriers(view: &View) -> BTreeMap<u8, String> {
        (0..=255).map(|last| (last, chosen(&backend([192, 0, 2, last], None), view).unwrap())).collect()
    }

    #[test]
    fn gateways_spread_and_only_those_of_a_node_that_leaves_change() {
        let mut view = view(4);
        let before = carriers(&view);
        for node in ["n1", "n2", "n3", "n4"] {
            let carried = before.values().filter(|carrier| *carrier == node).count();
            assert!((40..90).contains(&carried), "{node} carries {carried} of 256");
        }
        change(&mut view, "n2", |member| member.state = MemberState::Down);
        for (backend, carrier) in carriers(&view) {
            assert!(carrier != "n2" && (carrier == before[&backend] || before[&backend] == "n2"));
        }
    }

    #[test]
    fn a_gateway_is_up_and_forwards_on_the_vips_segment_and_stays_if_others_can() {
        type Change = fn(&mut Member);
        let unfit: [Change; 5] = [
            |member| member.state = MemberState::Down,
            |member| member.document.facts.forwarding = false,
            |member| member.document.facts.interfaces.clear(),
            |member| member.document.facts.draining = true,
            |member| member.document.facts.listening = true,
        ];
        for (at, unfit) in unfit.into_iter().enumerate() {
            let mut view = view(3);
            change(&mut view, "n1", unfit);
            change(&mut view, "n3", unfit);
            assert!(carriers(&view).values().all(|carrier| carrier == "n2"), "{at}");
            change(&mut view, "n2", unfit);
            assert_eq!(chosen(&backend([192, 0, 2, 1], None), &view).is_some(), at >= 3, "{at}");
        }
    }

    #[test]
    fn pods_on_members_need_none_while_those_forward_on_the_segment_or_are_down() {
        let mut view = view(3);
        let pod = backend([10, 244, 0, 1], Some("n1"));
        assert_eq!(chosen(&pod, &view), None);
        change(&mut view, "n1", |member| member.document.facts.forwarding = false);
        assert!(gateway(&pod, VIP, &view).unwrap().if_proven);
        assert_ne!(chosen(&pod, &view).unwrap(), "n1");
        change(&mut view, "n1", |member| member.state = MemberState::Down);
        assert_eq!(chosen(&pod, &view), None, "its hooks may go on");
        let unknown = backend([10, 244, 0, 1], Some("n9"));
        assert!(gateway(&unknown, VIP, &view).unwrap().if_proven, "it may be about to start, or gone for long");
        assert!(!gateway(&backend([10, 244, 0, 1], None), VIP, &view).unwrap().if_proven);
    }

    #[test]
    fn a_pod_on_the_segment_itself_is_carried_by_another_node_than_its_own_if_there_is_one() {
        let neighbours: Vec<Backend> = (50..60).map(|last| backend([10, 77, 0, last], Some("n1"))).collect();
        assert!(neighbours.iter().all(|pod| chosen(pod, &view(3)).unwrap() != "n1"));
        assert!(neighbours.iter().all(|pod| chosen(pod, &view(1)).unwrap() == "n1"));
        assert!(!gateway(&neighbours[0], VIP, &view(3)).unwrap().if_proven);
        assert_eq!(chosen(&backend([10, 77, 0, 1], Some("n1")), &view(3)), None, "the node's own address");
    }
}
