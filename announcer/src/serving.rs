//! Which pods are usable: the one place that says so, for the forwarder's tables, for elections under
//! `externalTrafficPolicy: Local` and for the status page alike.

use std::{collections::BTreeSet, net::IpAddr};

use membership::{Member, NodeName, Target, Verdict, View};

use crate::{
    gateway::{self, Gateway, on_segment},
    model::{Backend, ServicePort},
};

/// The pods of a service port that get new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving<'a> {
    /// The usable ones, in the order of the port's backends (by address and port).
    pub backends: Vec<&'a Backend>,
    /// No pod is known to be good, so those that may be are used: better to try than to refuse.
    pub failed_open: bool,
}

/// The pods behind `port` that a connection to `vip` may be carried to: of the VIP's family, with a weight, ready, not
/// terminating, on a node that is up and forwarding, and not found unhealthy. If there are none, those that are
/// terminating and still answer, as kube-proxy does it; if their health speaks against them too, all that are ready, and
/// then all of the others. If there are none on nodes that are up, those on nodes that were, since hooks outlive their agent.
///
/// A node that has lost the VIP's segment (its card, or its address there) can neither be handed the VIP's frames nor
/// answer its clients: while others are on the segment, pods there are left out, unless they have a [`gateway`](mod@gateway).
#[must_use]
pub fn serving<'a>(port: &'a ServicePort, vip: IpAddr, view: &View) -> Serving<'a> {
    chosen(port, vip, view, true)
}

fn chosen<'a>(port: &'a ServicePort, vip: IpAddr, view: &View, translated: bool) -> Serving<'a> {
    let carries = |carrier: &Carrier<'_>| {
        let up = carrier.member.state.is_up() && carrier.member.document.facts.forwarding;
        up && (translated || !carrier.translated)
    };
    let near = select(port, vip, view, |carrier| carries(carrier) && on_segment(carrier.member, vip));
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

/// The pods of node `me` that a connection may be carried to under `externalTrafficPolicy: Local`; none by way of a gateway. If it has none of the
/// [`serving`] ones, those of its own that are terminating and still answer: while the VIP moves away from a node
/// that has no others any more, connections still arrive there.
#[must_use]
pub fn serving_here<'a>(port: &'a ServicePort, vip: IpAddr, view: &View, me: &NodeName) -> Vec<&'a Backend> {
    let mine = |backend: &&Backend| backend.node.as_ref() == Some(me);
    let here: Vec<&Backend> = chosen(port, vip, view, false).backends.into_iter().filter(mine).collect();
    if !here.is_empty() {
        return here;
    }
    let leaving = |backend: &&Backend| mine(backend) && is_leaving(backend) && is_sound(port, backend, vip, view);
    candidates(port, vip).filter(leaving).collect()
}

/// What a pod counts for among others: the eighths of its weight. A pod in its slow start has fewer than 8.
#[must_use]
pub fn share(port: &ServicePort, backend: &Backend, vip: IpAddr, view: &View) -> u32 {
    let eighths = verdict(port, backend, vip, view).map_or(Verdict::FULL, Verdict::eighths);
    u32::from(backend.weight) * u32::from(eighths)
}

/// The pods that would be usable if the nodes that are away were all there were: what such nodes use, if it is not
/// they that are away but this one.
#[must_use]
pub fn standby<'a>(port: &'a ServicePort, vip: IpAddr, view: &View) -> Vec<&'a Backend> {
    select(port, vip, view, |carrier| !carrier.member.state.is_up() && carrier.member.document.facts.forwarding)
        .backends
}

/// The nodes with a usable pod of their own behind `port`. Pods on nodes that only announce count too: there something
/// else, such as kube-proxy, carries connections to local pods.
#[must_use]
pub fn local_nodes(port: &ServicePort, vip: IpAddr, view: &View) -> BTreeSet<NodeName> {
    select(port, vip, view, |carrier| !carrier.translated && carrier.member.state.is_up())
        .backends
        .into_iter()
        .filter_map(|backend| backend.node.clone())
        .collect()
}

/// What the prober of the node that carries a pod's connections to `vip` says of it; `None`: nothing yet, or it is not probed.
#[must_use]
pub fn verdict(port: &ServicePort, backend: &Backend, vip: IpAddr, view: &View) -> Option<Verdict> {
    judged(port, backend, carrier(port, backend, vip, view)?.member)
}

/// Who carries a backend's connections.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'a> {
    /// Its own node, or its [`gateway`](mod@gateway).
    pub node: &'a NodeName,
    /// What is known of the node.
    pub member: &'a Member,
    /// By full NAT, as a gateway.
    pub translated: bool,
}

/// Who carries the connections to `vip` that a backend gets; `None`: nobody can.
#[must_use]
pub fn carrier<'a>(port: &ServicePort, backend: &Backend, vip: IpAddr, view: &'a View) -> Option<Carrier<'a>> {
    if let Some(gateway) = gateway::gateway(backend, vip, view) {
        let Gateway { node, member, if_proven } = gateway;
        let able = gateway::can_carry(port.protocol);
        let proven = || judged(port, backend, member).is_some_and(|verdict| verdict != Verdict::Unhealthy);
        if !able && !if_proven {
            return None;
        }
        if able && (!if_proven || proven()) {
            return Some(Carrier { node, member, translated: true });
        }
    }
    let (node, member) = view.members.get_key_value(backend.node.as_ref()?)?;
    Some(Carrier { node, member, translated: false })
}

fn judged(port: &ServicePort, backend: &Backend, by: &Member) -> Option<Verdict> {
    let check = port.check.as_ref()?;
    let target = Target { address: backend.address, port: check.port.unwrap_or(backend.port), check: check.id() };
    by.document.health.get(&target).copied()
}

fn select<'a>(port: &'a ServicePort, vip: IpAddr, view: &View, fit: impl Fn(&Carrier<'_>) -> bool) -> Serving<'a> {
    let reachable = |backend: &&Backend| carrier(port, backend, vip, view).is_some_and(|carrier| fit(&carrier));
    let (ready, others): (Vec<&Backend>, Vec<&Backend>) =
        candidates(port, vip).filter(reachable).partition(|backend| backend.ready && !backend.terminating);
    let leaving: Vec<&Backend> = others.into_iter().filter(|backend| is_leaving(backend)).collect();
    let sound = |pods: &[&'a Backend]| -> Vec<&'a Backend> {
        pods.iter().copied().filter(|backend| is_sound(port, backend, vip, view)).collect()
    };
    let good = [sound(&ready), sound(&leaving)].into_iter().find(|pods| !pods.is_empty());
    if let Some(backends) = good {
        return Serving { failed_open: false, backends };
    }
    let backends = if ready.is_empty() { leaving } else { ready };
    Serving { failed_open: !backends.is_empty(), backends }
}

/// The pods that could serve a VIP if they were in a state for it.
fn candidates(port: &ServicePort, vip: IpAddr) -> impl Iterator<Item = &Backend> {
    port.backends.iter().filter(move |backend| backend.weight > 0 && backend.address.is_ipv4() == vip.is_ipv4())
}

/// On its way out, and still answering.
fn is_leaving(backend: &Backend) -> bool {
    backend.terminating && backend.serving
}

fn is_sound(port: &ServicePort, backend: &Backend, vip: IpAddr, view: &View) -> bool {
    verdict(port, backend, vip, view) != Some(Verdict::Unhealthy)
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
        let (ready, terminating, serving, weight) = (true, false, true, Backend::WEIGHT);
        Backend { address: IpAddr::from([10, 244, 0, n]), port: 8080, node, ready, terminating, serving, weight }
    }

    fn check() -> Check {
        let second = Duration::from_secs(1);
        let slow_start = Duration::ZERO;
        Check { kind: CheckKind::Tcp, port: None, interval: second, timeout: second, rise: 1, fall: 1, slow_start }
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
    fn a_pod_on_a_node_that_is_no_member_is_used_once_its_gateway_has_found_it_healthy() {
        let mut view = view(&["n1", "n2"]);
        for (member, prefix) in view.members.values_mut().zip(["10.77.0.1/24", "10.77.0.2/24"]) {
            let prefixes = vec![prefix.parse().unwrap()];
            member.document.facts.interfaces = vec![Interface { name: "eth0".into(), mac: [2; 6], prefixes }];
        }
        let port = port(vec![backend(1, Some("n1")), backend(2, Some("n9"))]);
        assert_eq!(used(&port, &view), [1]);
        let gateway = gateway::gateway(&port.backends[1], VIP, &view).unwrap().node.as_str().to_owned();
        judge(&mut view, &gateway, target(2, 8080), Verdict::Unhealthy);
        assert_eq!(used(&port, &view), [1]);
        judge(&mut view, &gateway, target(2, 8080), Verdict::Healthy);
        assert_eq!(used(&port, &view), [1, 2]);
        assert!(carrier(&port, &port.backends[1], VIP, &view).is_some_and(|carrier| carrier.translated));
        assert_eq!(serving_here(&port, VIP, &view, &gateway.parse().unwrap()).len(), usize::from(gateway == "n1"));
        assert_eq!(local_nodes(&port, VIP, &view), ["n1".parse().unwrap()].into());
    }

    #[test]
    fn sctp_is_carried_to_no_backend_behind_full_nat_whatever_probes_say() {
        let mut view = view(&["n1", "n2"]);
        for (member, prefix) in view.members.values_mut().zip(["10.77.0.1/24", "10.77.0.2/24"]) {
            let prefixes = vec![prefix.parse().unwrap()];
            member.document.facts.interfaces = vec![Interface { name: "eth0".into(), mac: [2; 6], prefixes }];
        }
        let macvlan = Backend { address: [10, 77, 0, 4].into(), ..backend(4, Some("n2")) };
        let mut port = port(vec![backend(1, Some("n1")), backend(2, Some("n9")), backend(3, None), macvlan.clone()]);
        for node in ["n1", "n2"] {
            (1..4).for_each(|n| judge(&mut view, node, target(n, 8080), Verdict::Healthy));
            judge(&mut view, node, Target { address: macvlan.address, ..target(4, 8080) }, Verdict::Healthy);
        }
        assert_eq!(used(&port, &view), [1, 2, 3, 4]);
        port.protocol = Protocol::Sctp;
        assert_eq!(used(&port, &view), [1]);
        assert!(port.backends[1..].iter().all(|backend| carrier(&port, backend, VIP, &view).is_none()));
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

    /// On its way out: answers still, or not any more.
    fn leaving(n: u8, node: &str, serving: bool) -> Backend {
        Backend { ready: false, terminating: true, serving, ..backend(n, Some(node)) }
    }

    #[test]
    fn terminating_pods_get_new_connections_only_while_no_other_is_good_and_they_answer() {
        let mut view = view(&["n1", "n2"]);
        let pods = |pods: &[Backend]| port(pods.to_vec());
        let (going, gone) = (leaving(1, "n1", true), leaving(2, "n2", false));
        assert_eq!(used(&pods(&[going.clone(), backend(3, Some("n2"))]), &view), [3]);
        let not_ready = Backend { ready: false, ..backend(4, Some("n2")) };
        let all_leave = pods(&[going.clone(), gone.clone(), not_ready]);
        assert_eq!(used(&all_leave, &view), [1], "they go before what is not ready");
        assert!(!serving(&all_leave, VIP, &view).failed_open);
        assert_eq!(used(&pods(&[gone]), &view), [0; 0]);

        judge(&mut view, "n2", target(3, 8080), Verdict::Unhealthy);
        let replaced = pods(&[going, backend(3, Some("n2"))]);
        assert_eq!(used(&replaced, &view), [1], "better on its way out than unhealthy");
        judge(&mut view, "n1", target(1, 8080), Verdict::Unhealthy);
        assert_eq!(used(&replaced, &view), [3], "both unhealthy: the one that stays");
        assert!(serving(&replaced, VIP, &view).failed_open);
    }

    #[test]
    fn under_the_local_policy_a_node_whose_pods_all_terminate_serves_by_them_and_may_not_own() {
        let mut view = view(&["n1", "n2"]);
        let port = port(vec![leaving(1, "n1", true), backend(2, Some("n2")), leaving(3, "n2", true)]);
        let here = |view: &View, node: &str| serving_here(&port, VIP, view, &node.parse().unwrap()).len();
        assert_eq!((here(&view, "n1"), here(&view, "n2")), (1, 1));
        assert_eq!(serving_here(&port, VIP, &view, &"n2".parse().unwrap())[0], &port.backends[1]);
        assert_eq!(local_nodes(&port, VIP, &view), ["n2".parse().unwrap()].into());
        judge(&mut view, "n1", target(1, 8080), Verdict::Unhealthy);
        assert_eq!(here(&view, "n1"), 0);
        let last = ServicePort { backends: vec![leaving(1, "n1", true)], check: None, ..port.clone() };
        assert_eq!(local_nodes(&last, VIP, &view), ["n1".parse().unwrap()].into(), "somebody has to");
    }

    #[test]
    fn a_pod_without_weight_gets_nothing_even_if_all_others_are_bad() {
        let mut view = view(&["n1"]);
        let still = Backend { weight: 0, ..backend(1, Some("n1")) };
        assert_eq!(used(&port(vec![still.clone(), backend(2, Some("n1"))]), &view), [2]);
        judge(&mut view, "n1", target(2, 8080), Verdict::Unhealthy);
        assert_eq!(used(&port(vec![still.clone(), backend(2, Some("n1"))]), &view), [2]);
        assert_eq!(used(&port(vec![still]), &view), [0; 0]);
    }

    #[test]
    fn a_share_is_the_weight_and_less_in_a_slow_start() {
        let mut view = view(&["n1"]);
        let port = port(vec![Backend { weight: 3, ..backend(1, Some("n1")) }]);
        for (verdict, expected) in [
            (None, 24),
            (Some(Verdict::Healthy), 24),
            (Some(Verdict::Unhealthy), 24),
            (Some(Verdict::Warming(1)), 3),
            (Some(Verdict::Warming(4)), 12),
            (Some(Verdict::Warming(0)), 3),
            (Some(Verdict::Warming(200)), 24),
        ] {
            verdict.into_iter().for_each(|verdict| judge(&mut view, "n1", target(1, 8080), verdict));
            assert_eq!(share(&port, &port.backends[0], VIP, &view), expected, "{verdict:?}");
        }
        assert_eq!(used(&port, &view), [1]);
    }
}
