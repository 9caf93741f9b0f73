//! Who may own a VIP, case by case.

use membership::{Facts, Member, MemberState, NodeDocument};

use super::*;
use crate::model::{Backend, Protocol, ServiceName, ServicePort, Vip};

const VIP: &str = "10.77.0.100";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn names<'a>(nodes: impl IntoIterator<Item = &'a str>) -> BTreeSet<NodeName> {
    nodes.into_iter().map(|node| node.parse().unwrap()).collect()
}

fn uplink(name: &str, prefixes: &[&str]) -> Interface {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Interface { name: name.into(), mac: [0; 6], prefixes }
}

/// Three nodes on one dual-stack segment.
fn view() -> View {
    let member = |n: u8| {
        let prefixes = [format!("10.77.0.{n}/24"), format!("fd77::{n}/64")];
        let interfaces = vec![uplink("eth0", &[&prefixes[0], &prefixes[1]])];
        Member {
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument { facts: Facts { interfaces, ..Facts::default() }, ..NodeDocument::default() },
        }
    };
    View { members: (1..=3).map(|n| (format!("n{n}").parse().unwrap(), member(n))).collect(), caught_up: true }
}

fn anywhere() -> Advertise {
    Advertise { nodes: None, interfaces: BTreeSet::new() }
}

fn on(nodes: &[&str]) -> Advertise {
    Advertise { nodes: Some(names(nodes.iter().copied())), ..anywhere() }
}

fn port(number: u16, pods_on: &[&str]) -> ServicePort {
    let pod = |(n, node): (usize, &&str)| Backend {
        address: IpAddr::from([10, 244, 0, u8::try_from(n).unwrap()]),
        port: 8080,
        node: Some(node.parse().unwrap()),
        ready: true,
        terminating: false,
        serving: true,
        weight: Backend::WEIGHT,
    };
    let backends = pods_on.iter().enumerate().map(pod).collect();
    ServicePort { name: String::new(), protocol: Protocol::Tcp, port: number, backends, check: None }
}

fn service(traffic_policy: TrafficPolicy, advertise: Vec<Advertise>, ports: Vec<ServicePort>) -> Service {
    Service {
        vips: vec![Vip { address: ip(VIP), pool: String::new(), advertise }],
        ports,
        traffic_policy,
        preferred: None,
        affinity: None,
        sources: BTreeSet::new(),
    }
}

fn desired(services: Vec<Service>) -> Desired {
    let name = |n: usize| ServiceName { namespace: "default".into(), name: format!("s{n}") };
    Desired {
        services: services.into_iter().enumerate().map(|(n, service)| (name(n), service)).collect(),
        ..Desired::default()
    }
}

fn eligible_nodes(services: Vec<Service>, view: &View) -> BTreeSet<NodeName> {
    eligible(&desired(services), view)[&ip(VIP)].as_ref().clone()
}

fn cluster(advertise: Vec<Advertise>) -> Service {
    service(TrafficPolicy::Cluster, advertise, vec![port(80, &["n1"])])
}

fn local(ports: Vec<ServicePort>) -> Service {
    service(TrafficPolicy::Local, vec![anywhere()], ports)
}

#[test]
fn nodes_that_are_down_draining_listening_or_off_the_segment_are_not_eligible() {
    type Change = fn(&mut Member);
    let changes: [(Change, bool); 8] = [
        (|_| {}, true),
        (|member| member.state = MemberState::Suspect, true),
        (|member| member.state = MemberState::Down, false),
        (|member| member.state = MemberState::Left, false),
        (|member| member.document.facts.draining = true, false),
        (|member| member.document.facts.listening = true, false),
        (|member| member.document.facts.interfaces.clear(), false),
        (|member| member.document.facts.interfaces = vec![uplink("eth0", &["192.168.0.1/24"])], false),
    ];
    for (n, (change, stays)) in changes.into_iter().enumerate() {
        let mut view = view();
        change(view.members.get_mut(&"n2".parse().unwrap()).unwrap());
        let expected = if stays { names(["n1", "n2", "n3"]) } else { names(["n1", "n3"]) };
        assert_eq!(eligible_nodes(vec![cluster(vec![anywhere()])], &view), expected, "change {n}");
    }
}

#[test]
fn advertisements_are_a_union_and_without_one_nobody_is_eligible() {
    let view = view();
    assert_eq!(eligible_nodes(vec![cluster(vec![])], &view), names([]));
    assert_eq!(eligible_nodes(vec![cluster(vec![on(&["n1"])])], &view), names(["n1"]));
    assert_eq!(eligible_nodes(vec![cluster(vec![on(&["n1"]), on(&["n3", "n9"])])], &view), names(["n1", "n3"]));
    let elsewhere = Advertise { interfaces: ["eth7".into()].into(), ..anywhere() };
    assert_eq!(eligible_nodes(vec![cluster(vec![elsewhere])], &view), names([]));
}

#[test]
fn under_local_only_nodes_with_a_usable_pod_are_eligible() {
    let mut view = view();
    assert_eq!(eligible_nodes(vec![local(vec![port(80, &["n1", "n3"])])], &view), names(["n1", "n3"]));
    assert_eq!(eligible_nodes(vec![local(vec![port(80, &[])])], &view), names([]));
    assert_eq!(
        eligible_nodes(vec![local(vec![port(80, &["n1", "n3"]), port(443, &["n3"])])], &view),
        names(["n3"]),
        "a node has to serve all ports"
    );
    assert_eq!(
        eligible_nodes(vec![local(vec![port(80, &["n1"]), port(443, &[])])], &view),
        names(["n1"]),
        "a port without pods anywhere does not stand in the way"
    );
    view.members.get_mut(&"n3".parse().unwrap()).unwrap().state = MemberState::Down;
    assert_eq!(eligible_nodes(vec![local(vec![port(80, &["n1", "n3"])])], &view), names(["n1"]));
}

#[test]
fn services_that_share_a_vip_narrow_each_other() {
    let view = view();
    let shared = |a, b| eligible_nodes(vec![a, b], &view);
    assert_eq!(shared(cluster(vec![anywhere()]), local(vec![port(81, &["n2"])])), names(["n2"]));
    assert_eq!(shared(cluster(vec![on(&["n1", "n2"])]), cluster(vec![on(&["n2", "n3"])])), names(["n2"]));
    assert_eq!(shared(local(vec![port(80, &["n1", "n2"])]), local(vec![port(81, &["n2", "n3"])])), names(["n2"]));
}

#[test]
fn where_no_node_meets_all_conditions_those_that_meet_most_are_eligible() {
    let view = view();
    let shared = |a, b| eligible_nodes(vec![a, b], &view);
    assert_eq!(shared(cluster(vec![on(&["n1"])]), cluster(vec![on(&["n2"])])), names(["n1", "n2"]));
    assert_eq!(shared(cluster(vec![on(&["n1"])]), cluster(vec![])), names(["n1"]), "one is not advertised at all");
    assert_eq!(shared(local(vec![port(80, &["n1"])]), local(vec![port(81, &["n3"])])), names(["n1", "n3"]));
    let without_pods = local(vec![port(81, &[])]);
    assert_eq!(shared(cluster(vec![anywhere()]), without_pods), names(["n1", "n2", "n3"]), "the other can be served");
    let off_limits = local(vec![port(81, &["n3"])]);
    assert_eq!(shared(cluster(vec![on(&["n1"])]), off_limits), names(["n1"]), "advertisements come before pods");
}

#[test]
fn a_vip_is_announced_on_named_uplinks_or_on_those_whose_segment_contains_it() {
    let node = "n1".parse().unwrap();
    let uplinks = [uplink("eth0", &["10.77.0.1/24", "fd77::1/64"]), uplink("eth1", &["192.168.0.1/24"])];
    let named = |name: &str| Advertise { interfaces: [name.to_owned()].into(), ..anywhere() };
    let on_vip = |vip: &str, advertise: &[Advertise]| {
        interfaces_for(ip(vip), advertise, &node, &uplinks).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(on_vip(VIP, &[anywhere()]), ["eth0"]);
    assert_eq!(on_vip("fd77::100", &[anywhere()]), ["eth0"]);
    assert!(on_vip("10.78.0.100", &[anywhere()]).is_empty());
    assert_eq!(on_vip("10.78.0.100", &[named("eth1")]), ["eth1"], "a named uplink needs no matching prefix");
    assert_eq!(on_vip(VIP, &[anywhere(), named("eth1")]), ["eth0", "eth1"]);
    assert!(on_vip(VIP, &[named("eth9")]).is_empty());
    assert!(on_vip(VIP, &[on(&["n2"])]).is_empty(), "the advertisement selects other nodes");
    assert!(on_vip(VIP, &[]).is_empty());
}

#[test]
fn an_owner_announces_where_any_of_the_services_asks_for_it() {
    let uplinks = [uplink("eth0", &["10.77.0.1/24"]), uplink("eth1", &["192.168.0.1/24"])];
    let named = Advertise { interfaces: ["eth1".into()].into(), ..anywhere() };
    let desired = desired(vec![cluster(vec![anywhere()]), cluster(vec![named]), cluster(vec![])]);
    let found = announce_on(&desired, &"n1".parse().unwrap(), &uplinks);
    assert_eq!(found, [(ip(VIP), ["eth0".into(), "eth1".into()].into())].into());
}

#[test]
fn vips_with_equal_conditions_share_one_set() {
    let vip = |n: u8| Vip { address: IpAddr::from([10, 77, 0, n]), pool: String::new(), advertise: vec![anywhere()] };
    let off_segment = Vip { address: ip("10.99.0.1"), pool: String::new(), advertise: vec![anywhere()] };
    let service = Service {
        vips: vec![vip(1), vip(2), off_segment],
        ports: vec![],
        traffic_policy: TrafficPolicy::Cluster,
        preferred: None,
        affinity: None,
        sources: BTreeSet::new(),
    };
    let found = eligible(&desired(vec![service]), &view());
    assert!(Arc::ptr_eq(&found[&ip("10.77.0.1")], &found[&ip("10.77.0.2")]));
    assert!(found[&ip("10.99.0.1")].is_empty());
}
