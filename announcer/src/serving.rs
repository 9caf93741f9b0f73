//! Which pods are usable: the one place that says so, for the forwarder's tables, for elections under
//! `externalTrafficPolicy: Local` and for the status page alike.

use std::{collections::BTreeSet, net::IpAddr};

use membership::{Member, NodeName, Target, Verdict, View};

use crate::model::{Backend, ServicePort};

/// The pods of a service port that get new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving<'a> {
    /// The usable ones, in the order of the port's backends (by address and port).
    pub backends: Vec<&'a Backend>,
    /// No pod is known to be good, so those that may be are used: better to try than to refuse.
    pub failed_open: bool,
}

/// The pods behind `port` that a connection to `vip` may be carried to: of the VIP's family, ready, not terminating, on
/// a node that is up and forwarding, and not found unhealthy. If only their health speaks against all of them, all; if
/// there are none on nodes that are up, those on nodes that were, since hooks outlive their agent.
///
/// A node that has lost the VIP's segment (its card, or its address there) can neither be handed the VIP's frames nor
/// answer its clients: while others are on the segment, pods there are left out.
#[must_use]
pub fn serving<'a>(port: &'a ServicePort, vip: IpAddr, view: &View) -> Serving<'a> {
    let carries = |member: &Member| member.state.is_up() && member.document.facts.forwarding;
    let near = select(port, vip, view, |member| carries(member) && on_segment(member, vip));
    if !near.backends.is_empty() {
        return near;
    }
    let usable = select(port, vip, view, carries);
    if !usable.backends.is_empty() {
        return usable;
    }
    let backends = standby(port, vip, view);
    Serving { failed_open: !backends.is_empty(), backends }
}

/// The pods that would be usable if the nodes that are away were all there were: what such nodes use, if it is not
/// they that are away but this one.
#[must_use]
pub fn standby<'a>(port: &'a ServicePort, vip: IpAddr, view: &View) -> Vec<&'a Backend> {
    select(port, vip, view, |member| !member.state.is_up() && member.document.facts.forwarding).backends
}

/// The nodes with a usable pod of their own behind `port`. Pods on nodes that only announce count too: there something
/// else, such as kube-proxy, carries connections to local pods.
#[must_use]
pub fn local_nodes(port: &ServicePort, vip: IpAddr, view: &View) -> BTreeSet<NodeName> {
    select(port, vip, view, |member| member.state.is_up())
        .backends
        .into_iter()
        .filter_map(|backend| backend.node.clone())
        .collect()
}

/// What the prober of a pod's node says of it; `None`: nothing yet, or it is not probed.
#[must_use]
pub fn verdict(port: &ServicePort, backend: &Backend, view: &View) -> Option<Verdict> {
    let check = port.check.as_ref()?;
    let target = Target { address: backend.address, port: check.port.unwrap_or(backend.port), check: check.id() };
    view.members.get(backend.node.as_ref()?)?.document.health.get(&target).copied()
}

/// Whether one of the node's uplinks that work is on the VIP's segment.
fn on_segment(member: &Member, vip: IpAddr) -> bool {
    member.document.facts.interfaces.iter().any(|uplink| uplink.prefixes.iter().any(|prefix| prefix.contains(&vip)))
}

fn select<'a>(port: &'a ServicePort, vip: IpAddr, view: &View, fit: impl Fn(&Member) -> bool) -> Serving<'a> {
    let reachable = |backend: &&Backend| {
        let member = backend.node.as_ref().and_then(|node| view.members.get(node));
        member.is_some_and(&fit)
    };
    let willing = |backend: &&Backend| {
        backend.ready && !backend.terminating && backend.address.is_ipv4() == vip.is_ipv4() && reachable(backend)
    };
    let ready: Vec<&Backend> = port.backends.iter().filter(willing).collect();
    let healthy: Vec<&Backend> =
        ready.iter().copied().filter(|backend| verdict(port, backend, view) != Some(Verdict::Unhealthy)).collect();
    if healthy.is_empty() {
        Serving { failed_open: !ready.is_empty(), backends: ready }
    } else {
        Serving { failed_open: false, backends: healthy }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use membership::{Facts, Interface, MemberState, NodeDocument};

    use super::*;
    use crate::model::{Check, CheckKind, Protocol};

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100));

    fn backend(n: u8, node: Option<&str>) -> Backend {
        let node = node.map(|name| name.parse().unwrap());
        Backend { address: IpAddr::from([10, 244, 0, n]), port: 8080, node, ready: true, terminating: false }
    }

    fn check() -> Check {
        let second = Duration::from_secs(1);
        Check { kind: CheckKind::Tcp, port: None, interval: second, timeout: second, rise: 1, fall: 1 }
    }

    fn port(backends: Vec<Backend>) -> ServicePort {
        ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, backends, check: Some(check()) }
    }

    fn view(nodes: &[&str]) -> View {
        let member = || Member {
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument { facts: Facts { forwarding: true, ..Facts::default() }, ..NodeDocument::default() },
        };
        View { members: nodes.iter().map(|name| (name.parse().unwrap(), member())).collect(), caught_up: true }
    }

    fn judge(view: &mut View, node: &str, target: Target, verdict: Verdict) {
        let member = view.members.get_mut(&node.parse().unwrap()).unwrap();
        member.document.health.insert(target, verdict);
    }

    fn target(n: u8, port: u16) -> Target {
        Target { address: IpAddr::from([10, 244, 0, n]), port, check: check().id() }
    }

    fn used(port: &ServicePort, view: &View) -> Vec<u8> {
        let last = |backend: &&Backend| match backend.address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => 0,
        };
        serving(port, VIP, view).backends.iter().map(last).collect()
    }

    #[test]
    fn pods_on_a_node_that_has_lost_the_vips_segment_are_left_out_while_others_are_on_it() {
        let mut view = view(&["n1", "n2"]);
        let interface =
            |prefix: &str| Interface { name: "eth0".into(), mac: [2; 6], prefixes: vec![prefix.parse().unwrap()] };
        let port = port(vec![backend(1, Some("n1")), backend(2, Some("n2"))]);
        let uplink = |view: &mut View, node: &str, prefix: &str| {
            let member = view.members.get_mut(&node.parse().unwrap()).unwrap();
            member.document.facts.interfaces = vec![interface(prefix)];
        };
        uplink(&mut view, "n1", "fd77::1/64");
        uplink(&mut view, "n2", "10.77.0.2/24");
        assert_eq!(used(&port, &view), [2]);
        uplink(&mut view, "n2", "fd77::2/64");
        assert_eq!(used(&port, &view), [1, 2], "the VIP is on no node's segment");
    }

    #[test]
    fn only_pods_that_are_ready_stay_and_are_on_a_node_that_can_carry_are_usable() {
        let mut view = view(&["n1", "n2", "n3", "n4"]);
        let state = |view: &mut View, node: &str, state| {
            view.members.get_mut(&node.parse().unwrap()).unwrap().state = state;
        };
        state(&mut view, "n2", MemberState::Down);
        state(&mut view, "n3", MemberState::Suspect);
        view.members.get_mut(&"n4".parse().unwrap()).unwrap().document.facts.forwarding = false;

        let not_ready = Backend { ready: false, ..backend(2, Some("n1")) };
        let terminating = Backend { terminating: true, ..backend(3, Some("n1")) };
        let v6 = Backend { address: "fd00::1".parse().unwrap(), ..backend(9, Some("n1")) };
        let (down, suspect, announces) = (backend(4, Some("n2")), backend(5, Some("n3")), backend(6, Some("n4")));
        let (nowhere, unknown) = (backend(7, None), backend(8, Some("n9")));
        let port = port(vec![
            backend(1, Some("n1")),
            not_ready,
            terminating,
            down,
            suspect,
            announces,
            nowhere,
            unknown,
            v6.clone(),
        ]);
        assert_eq!(used(&port, &view), [1, 5]);
        assert_eq!(standby(&port, VIP, &view), [&backend(4, Some("n2"))]);
        assert_eq!(serving(&port, "fd00::100".parse().unwrap(), &view).backends, [&v6]);
        let local: Vec<_> = local_nodes(&port, VIP, &view).into_iter().map(String::from).collect();
        assert_eq!(local, ["n1", "n3", "n4"], "a node that only announces may own under Local");
    }

    #[test]
    fn a_pod_found_unhealthy_is_out_and_one_not_probed_yet_is_in() {
        let mut view = view(&["n1", "n2"]);
        let port = port(vec![backend(1, Some("n1")), backend(2, Some("n2")), backend(3, Some("n2"))]);
        judge(&mut view, "n1", target(1, 8080), Verdict::Unhealthy);
        judge(&mut view, "n2", target(2, 8080), Verdict::Healthy);
        assert_eq!(used(&port, &view), [2, 3]);
        assert!(!serving(&port, VIP, &view).failed_open);
    }

    #[test]
    fn only_the_verdict_of_the_pods_own_node_by_the_same_check_counts() {
        let mut view = view(&["n1", "n2"]);
        let mut port = port(vec![backend(1, Some("n1")), backend(2, Some("n2"))]);
        judge(&mut view, "n2", target(1, 8080), Verdict::Unhealthy);
        judge(&mut view, "n1", Target { check: !check().id(), ..target(1, 8080) }, Verdict::Unhealthy);
        judge(&mut view, "n1", target(1, 9090), Verdict::Unhealthy);
        assert_eq!(used(&port, &view), [1, 2]);

        let check = Check { port: Some(9090), ..check() };
        judge(&mut view, "n1", Target { check: check.id(), ..target(1, 9090) }, Verdict::Unhealthy);
        port.check = Some(check);
        assert_eq!(used(&port, &view), [2], "a check on another port is looked up there");

        port.check = None;
        assert_eq!(used(&port, &view), [1, 2], "without a check readiness decides");
    }

    #[test]
    fn when_all_are_unhealthy_all_ready_ones_are_used() {
        let mut view = view(&["n1"]);
        let not_ready = Backend { ready: false, ..backend(3, Some("n1")) };
        let port = port(vec![backend(1, Some("n1")), backend(2, Some("n1")), not_ready]);
        judge(&mut view, "n1", target(1, 8080), Verdict::Unhealthy);
        judge(&mut view, "n1", target(2, 8080), Verdict::Unhealthy);
        assert_eq!(used(&port, &view), [1, 2]);
        assert!(serving(&port, VIP, &view).failed_open);
        assert!(!serving(&ServicePort { backends: vec![], ..port.clone() }, VIP, &view).failed_open, "nothing to open");
    }
}
