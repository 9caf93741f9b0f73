//! From what is desired and seen to what the maps should hold.

use std::time::Duration;

use membership::{Facts, Interface, MemberState, NodeDocument, Target, Verdict};

use super::*;
use crate::model::{Backend, Check, CheckKind, Vip};

const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn member(host: u8, prefix: &str) -> Member {
    let interface =
        Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 1, host], prefixes: vec![prefix.parse().unwrap()] };
    let facts = Facts { interfaces: vec![interface], forwarding: true, ..Facts::default() };
    Member {
        address: ([10, 77, 0, host], 9651).into(),
        generation: 1,
        state: MemberState::Alive,
        document: NodeDocument { facts, ..NodeDocument::default() },
    }
}

fn view() -> View {
    let members = [("n1", 11), ("n2", 12), ("n3", 13)];
    View {
        members: members.map(|(node, host)| (name(node), member(host, &format!("10.77.0.{host}/24")))).into(),
        caught_up: true,
    }
}

fn links() -> Vec<Link> {
    vec![Link { name: "eth0".into(), index: 7, mac: MAC, prefixes: vec!["10.77.0.11/24".parse().unwrap()] }]
}

fn backend(address: &str, node: &str) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: 8080,
        node: Some(name(node)),
        ready: true,
        terminating: false,
        serving: true,
        weight: Backend::WEIGHT,
    }
}

fn desired(policy: TrafficPolicy) -> Desired {
    let backends = vec![backend("10.1.1.2", "n1"), backend("10.1.2.2", "n2"), backend("10.1.2.3", "n2")];
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, backends, check: None };
    let vip = Vip { address: "10.77.0.100".parse().unwrap(), pool: String::new(), advertise: Vec::new() };
    let service = Service {
        vips: vec![vip],
        ports: vec![port],
        traffic_policy: policy,
        preferred: None,
        affinity: None,
        sources: BTreeSet::new(),
    };
    Desired {
        services: [(ServiceName { namespace: "default".into(), name: "web".into() }, service)].into(),
        ..Desired::default()
    }
}

fn only(wanted: &Wanted) -> &Targets {
    assert_eq!(wanted.services.len(), 1);
    wanted.services.values().next().unwrap()
}

#[test]
fn a_node_weighs_what_its_usable_pods_weigh() {
    let wanted = wanted(&desired(TrafficPolicy::Cluster), &view(), &links(), &name("n1"));
    assert_eq!(only(&wanted).nodes, [(name("n1"), 8), (name("n2"), 16)].into());
    assert_eq!(only(&wanted).local, [(("10.1.1.2".parse().unwrap(), 8080), 8)].into());
    assert!(wanted.nodes[&name("n1")].me && !wanted.nodes[&name("n2")].me);
    assert_eq!(wanted.nodes[&name("n2")].macs, [(7, [2, 0, 0, 0, 1, 12])].into());
    assert_eq!(wanted.nodes[&name("n1")].macs, [(7, MAC)].into());
}

#[test]
fn the_local_policy_uses_this_nodes_pods_alone() {
    for (me, weight) in [("n1", Some(8)), ("n2", Some(16)), ("n3", None)] {
        let wanted = wanted(&desired(TrafficPolicy::Local), &view(), &links(), &name(me));
        let nodes: BTreeMap<_, _> = weight.map(|weight| (name(me), weight)).into_iter().collect();
        assert_eq!(only(&wanted).nodes, nodes, "{me}");
    }
}

#[test]
fn a_node_that_is_away_serves_nothing_but_keeps_its_place_until_it_is_forgotten() {
    for state in [MemberState::Down, MemberState::Left] {
        let mut view = view();
        view.members.get_mut(&name("n2")).unwrap().state = state;
        let wanted = wanted(&desired(TrafficPolicy::Cluster), &view, &links(), &name("n1"));
        assert_eq!(only(&wanted).nodes, [(name("n1"), 8)].into());
        assert_eq!(wanted.nodes[&name("n2")].macs, [(7, [2, 0, 0, 0, 1, 12])].into());
        view.members.remove(&name("n2"));
        assert!(!super::wanted(&Desired::default(), &view, &links(), &name("n1")).nodes.contains_key(&name("n2")));
    }
}

#[test]
fn nothing_is_handed_to_a_node_that_does_not_forward() {
    let mut view = view();
    view.members.get_mut(&name("n2")).unwrap().document.facts.forwarding = false;
    let wanted = wanted(&desired(TrafficPolicy::Cluster), &view, &links(), &name("n1"));
    assert_eq!(only(&wanted).nodes, [(name("n1"), 8)].into());
    assert_eq!(wanted.nodes.keys().collect::<Vec<_>>(), [&name("n1"), &name("n3")]);
    assert!(only(&wanted).standby.is_empty());
}

#[test]
fn only_a_node_that_serves_alone_has_others_stand_by() {
    let mut view = view();
    let mut desired = desired(TrafficPolicy::Cluster);
    let backends = |desired: &mut Desired, extra: Backend| {
        desired.services.values_mut().for_each(|service| service.ports[0].backends.push(extra.clone()));
    };
    backends(&mut desired, backend("10.1.3.2", "n3"));
    backends(&mut desired, Backend { ready: false, ..backend("10.1.2.4", "n2") });
    let standby = |desired: &Desired, view: &View| {
        only(&wanted(desired, view, &links(), &name("n1"))).standby.clone().into_iter().collect::<Vec<_>>()
    };
    view.members.get_mut(&name("n2")).unwrap().state = MemberState::Down;
    assert!(standby(&desired, &view).is_empty(), "n3 still serves");
    view.members.get_mut(&name("n3")).unwrap().state = MemberState::Down;
    assert_eq!(standby(&desired, &view), [(name("n2"), 16), (name("n3"), 8)]);
    view.members.remove(&name("n3"));
    assert_eq!(standby(&desired, &view), [(name("n2"), 16)]);
    for service in desired.services.values_mut() {
        service.traffic_policy = TrafficPolicy::Local;
    }
    assert!(standby(&desired, &view).is_empty());
}

#[test]
fn a_node_on_another_segment_is_left_out() {
    let mut view = view();
    view.members.insert(name("n2"), member(12, "10.78.0.12/24"));
    let wanted = wanted(&desired(TrafficPolicy::Cluster), &view, &links(), &name("n1"));
    assert_eq!(only(&wanted).nodes, [(name("n1"), 8)].into());
}

#[test]
fn a_service_without_pods_keeps_its_vip_and_its_port() {
    let mut desired = desired(TrafficPolicy::Cluster);
    for service in desired.services.values_mut() {
        service.ports[0].backends.clear();
    }
    let wanted = wanted(&desired, &view(), &links(), &name("n1"));
    assert!(only(&wanted).nodes.is_empty());
    assert_eq!(wanted.vips.len(), 1);
}

#[test]
fn a_host_route_shares_no_network() {
    let nets = |text: &str| vec![text.parse::<IpNet>().unwrap()];
    assert!(shares_network(&nets("10.77.0.12/24"), &nets("10.77.0.11/24")));
    assert!(!shares_network(&nets("10.77.0.12/25"), &nets("10.77.0.11/24")));
    assert!(!shares_network(&nets("10.77.0.11/32"), &nets("10.77.0.11/32")));
}

#[test]
fn weights_and_slow_starts_count_for_the_node_and_among_its_pods() {
    let (mut desired, mut view) = (desired(TrafficPolicy::Cluster), view());
    let second = Duration::from_secs(1);
    let (kind, slow_start) = (CheckKind::Tcp, second);
    let check = Check { kind, port: None, interval: second, timeout: second, rise: 1, fall: 1, slow_start };
    let target = |last| Target { address: [10, 1, 2, last].into(), port: 8080, check: check.id() };
    let health = [(target(2), Verdict::Warming(2)), (target(3), Verdict::Healthy)];
    view.members.get_mut(&name("n2")).unwrap().document.health = health.into();
    for service in desired.services.values_mut() {
        service.ports[0].check = Some(check.clone());
        service.ports[0].backends[1].weight = 5;
    }
    let nodes = BTreeMap::from([(name("n1"), 8), (name("n2"), 5 * 2 + 8)]);
    let shares = |me: &str| {
        let wanted = wanted(&desired, &view, &links(), &name(me));
        assert_eq!(only(&wanted).nodes, nodes, "{me} sees what all see");
        only(&wanted).local.values().copied().collect::<Vec<_>>()
    };
    assert_eq!([shares("n1"), shares("n2")], [vec![8], vec![10, 8]]);
}

#[test]
fn a_backend_without_a_node_is_its_gateways_own_and_translated_there_alone() {
    let mut desired = desired(TrafficPolicy::Cluster);
    let service = desired.services.values_mut().next().unwrap();
    let bare = Backend { node: None, ..backend("192.0.2.7", "n1") };
    service.ports[0].backends = vec![bare];
    let socket = ("192.0.2.7".parse().unwrap(), 8080);
    let mut carriers = Vec::new();
    for node in ["n1", "n2", "n3"] {
        let wanted = wanted(&desired, &view(), &links(), &name(node));
        let targets = only(&wanted);
        assert_eq!(targets.nodes.len(), 1, "all know the gateway");
        if targets.nodes.contains_key(&name(node)) {
            assert_eq!(targets.local, [(socket, 8)].into());
            assert_eq!(targets.translated, [(socket, "10.77.0.11".parse().unwrap())].into(), "the link's address");
            carriers.push(node);
        } else {
            assert!(targets.local.is_empty() && targets.translated.is_empty());
        }
    }
    assert_eq!(carriers.len(), 1, "{carriers:?}");
    desired.services.values_mut().for_each(|service| service.traffic_policy = TrafficPolicy::Local);
    let wanted = wanted(&desired, &view(), &links(), &name(carriers[0]));
    assert!(only(&wanted).nodes.is_empty(), "under Local only pods of the node itself count");
}
