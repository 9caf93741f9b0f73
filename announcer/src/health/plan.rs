//! Who is probed how: a function of what is desired, of this node's name, and of who is a gateway for whom.

use std::collections::BTreeMap;

use membership::{NodeName, Target, View};

use crate::{
    gateway::{can_carry, gateway},
    model::{Backend, Check, Desired, Service, ServicePort, TrafficPolicy},
};

/// The probes of one node: every socket it asks, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The check of each target. Two services that ask one socket the same thing share a target.
    pub targets: BTreeMap<Target, Check>,
}

/// The key under which verdicts on `backend` by `check` are kept and gossiped.
#[must_use]
pub fn target_of(backend: &Backend, check: &Check) -> Target {
    Target { address: backend.address, port: check.port.unwrap_or(backend.port), check: check.id() }
}

/// The probes that node `me` makes: its own pods behind ports with a check, and backends whose [`gateway`](mod@crate::gateway) it is.
///
/// Pods that may not get new connections anyway (neither ready nor on their way out and still answering) are not asked: no
/// decision hangs on the answer, and a pod that failed while it started would have to succeed `rise` times after it became ready, whereas
/// the first answer of a target new to the plan decides at once. Unless they wait for that very answer to become ready.
#[must_use]
pub fn plan(desired: &Desired, view: &View, me: &NodeName) -> Plan {
    let mut targets = BTreeMap::new();
    let ports =
        desired.services.iter().flat_map(|(name, service)| service.ports.iter().map(move |port| (name, service, port)));
    for (name, service, port) in ports {
        let Some(check) = &port.check else { continue };
        let gated = desired.gated.contains(name);
        for backend in &port.backends {
            let counts = if backend.terminating { backend.serving } else { backend.ready || gated };
            let mine = || backend.node.as_ref() == Some(me) || is_gateway(service, port, backend, view, me);
            if counts && mine() {
                targets.entry(target_of(backend, check)).or_insert_with(|| check.clone());
            }
        }
    }
    Plan { targets }
}

/// Whether this node carries a backend's connections to any of the service's VIPs.
fn is_gateway(service: &Service, port: &ServicePort, backend: &Backend, view: &View, me: &NodeName) -> bool {
    let vips = service.vips.iter().map(|vip| vip.address).filter(|vip| vip.is_ipv4() == backend.address.is_ipv4());
    service.traffic_policy == TrafficPolicy::Cluster
        && can_carry(port.protocol)
        && vips.filter_map(|vip| gateway(backend, vip, view)).any(|gateway| gateway.node == me)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use membership::{Facts, Interface, Member, MemberState, NodeDocument};

    use super::*;
    use crate::model::{CheckKind, Protocol, ServiceName, Vip};

    fn check(port: Option<u16>) -> Check {
        Check {
            kind: CheckKind::Tcp,
            port,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            slow_start: Duration::ZERO,
        }
    }

    fn backend(last: u8, node: Option<&str>) -> Backend {
        Backend {
            address: [10, 1, 0, last].into(),
            port: 8080,
            node: node.map(|name| name.parse().unwrap()),
            ready: true,
            terminating: false,
            serving: true,
            weight: Backend::WEIGHT,
        }
    }

    fn desired(ports: Vec<(&str, Option<Check>, Vec<Backend>)>) -> Desired {
        let mut desired = Desired::default();
        for (name, check, backends) in ports {
            let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, backends, check };
            let service = Service {
                vips: vec![],
                ports: vec![port],
                traffic_policy: TrafficPolicy::Cluster,
                preferred: None,
                affinity: None,
                sources: std::collections::BTreeSet::new(),
            };
            desired.services.insert(ServiceName { namespace: "default".into(), name: name.into() }, service);
        }
        desired
    }

    fn addresses(plan: &Plan) -> Vec<String> {
        plan.targets.keys().map(|target| format!("{}:{}", target.address, target.port)).collect()
    }

    #[test]
    fn only_this_nodes_own_pods_are_probed() {
        let pods = vec![backend(1, Some("n1")), backend(2, Some("n2")), backend(3, None)];
        let plan = plan(&desired(vec![("web", Some(check(None)), pods)]), &View::default(), &"n1".parse().unwrap());
        assert_eq!(addresses(&plan), ["10.1.0.1:8080"]);
    }

    #[test]
    fn a_backend_without_a_node_is_probed_by_its_gateway_alone() {
        let member = |last: u8| {
            let prefixes = vec![format!("10.77.0.{last}/24").parse().unwrap()];
            let interfaces = vec![Interface { name: "eth0".into(), mac: [2; 6], prefixes }];
            let facts = Facts { interfaces, forwarding: true, ..Facts::default() };
            Member {
                address: "127.0.0.1:1".parse().unwrap(),
                generation: 1,
                state: MemberState::Alive,
                document: NodeDocument { facts, ..NodeDocument::default() },
            }
        };
        let members = [1, 2].map(|last| (format!("n{last}").parse().unwrap(), member(last)));
        let view = View { members: members.into(), caught_up: true };
        let mut desired = desired(vec![("web", Some(check(None)), vec![backend(3, None)])]);
        let vip = Vip { address: "10.77.0.100".parse().unwrap(), pool: String::new(), advertise: vec![] };
        desired.services.values_mut().for_each(|service| service.vips = vec![vip.clone()]);
        let probed = |desired: &Desired| {
            let plans = ["n1", "n2"].map(|node| plan(desired, &view, &node.parse().unwrap()).targets.len());
            plans.into_iter().sum::<usize>()
        };
        assert_eq!(probed(&desired), 1);
        let speak = |desired: &mut Desired, protocol| {
            desired
                .services
                .values_mut()
                .flat_map(|service| &mut service.ports)
                .for_each(|port| port.protocol = protocol);
        };
        speak(&mut desired, Protocol::Sctp);
        assert_eq!(probed(&desired), 0, "SCTP has no gateways");
        speak(&mut desired, Protocol::Tcp);
        desired.services.values_mut().for_each(|service| service.traffic_policy = TrafficPolicy::Local);
        assert_eq!(probed(&desired), 0);
    }

    #[test]
    fn pods_that_get_no_new_connections_are_not_probed() {
        let mut unready = backend(1, Some("n1"));
        unready.ready = false;
        let mut terminating = backend(2, Some("n1"));
        (terminating.terminating, terminating.serving) = (true, false);
        let plan = plan(
            &desired(vec![("web", Some(check(None)), vec![unready, terminating])]),
            &View::default(),
            &"n1".parse().unwrap(),
        );
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn pods_that_become_ready_by_their_probes_are_probed_before_they_are() {
        let unready = Backend { ready: false, serving: false, ..backend(1, Some("n1")) };
        let gone = Backend { terminating: true, address: [10, 1, 0, 2].into(), ..unready.clone() };
        let mut desired = desired(vec![("web", Some(check(None)), vec![unready, gone])]);
        desired.gated.extend(desired.services.keys().cloned());
        assert_eq!(addresses(&plan(&desired, &View::default(), &"n1".parse().unwrap())), ["10.1.0.1:8080"]);
    }

    #[test]
    fn a_terminating_pod_that_answers_is_probed_on_since_it_may_be_the_last() {
        let leaving = Backend { ready: false, terminating: true, ..backend(1, Some("n1")) };
        let plan =
            plan(&desired(vec![("web", Some(check(None)), vec![leaving])]), &View::default(), &"n1".parse().unwrap());
        assert_eq!(addresses(&plan), ["10.1.0.1:8080"]);
    }

    #[test]
    fn a_port_without_a_check_is_not_probed() {
        let plan =
            plan(&desired(vec![("web", None, vec![backend(1, Some("n1"))])]), &View::default(), &"n1".parse().unwrap());
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn the_checks_own_port_wins_over_the_backends() {
        let pods = vec![backend(1, Some("n1"))];
        let plan =
            plan(&desired(vec![("web", Some(check(Some(9000))), pods)]), &View::default(), &"n1".parse().unwrap());
        assert_eq!(addresses(&plan), ["10.1.0.1:9000"]);
    }

    #[test]
    fn services_with_equal_checks_share_a_probe_and_others_do_not() {
        let pods = || vec![backend(1, Some("n1"))];
        let mut slower = check(None);
        slower.interval = Duration::from_secs(9);
        let all = desired(vec![
            ("a", Some(check(None)), pods()),
            ("b", Some(check(None)), pods()),
            ("c", Some(slower), pods()),
        ]);
        assert_eq!(plan(&all, &View::default(), &"n1".parse().unwrap()).targets.len(), 2);
    }
}
