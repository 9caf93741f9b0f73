//! Pods on their way out, from the objects to the kernel: what they have goes on, and what is new goes elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpStream,
    time::Duration,
};

use announcer::{
    forward::{Link, wanted},
    model::{Backend, Desired, Protocol, Service, ServiceName, ServicePort, TrafficPolicy, Vip},
};
use membership::{Facts, Interface, Member, MemberState, NodeDocument, View};

use crate::{
    Rig,
    lan::{pod_v4, socket},
    rig::{connect, echo, name, tcp_server, vip4},
};

/// Two nodes with two pods each, all behind one port; and the client's connections to each.
struct Bed {
    rig: Rig,
    policy: TrafficPolicy,
    pods: BTreeMap<&'static str, Backend>,
    streams: BTreeMap<&'static str, Vec<TcpStream>>,
}

/// The pods with their nodes and ports.
const PODS: [(&str, usize, u16); 4] = [("one", 0, 8080), ("uno", 0, 8081), ("two", 1, 8080), ("due", 1, 8081)];

impl Bed {
    fn new(policy: TrafficPolicy) -> Self {
        let rig = Rig::of(2);
        let mut pods = BTreeMap::new();
        for (who, n, port) in PODS {
            let address = pod_v4(n as u8 + 1);
            if port != 8080 {
                tcp_server(&rig.lan.pods[n], socket(address, port), who);
            }
            let (ready, terminating, serving, weight) = (true, false, true, Backend::WEIGHT);
            pods.insert(who, Backend { address, port, node: Some(name(n)), ready, terminating, serving, weight });
        }
        let mut bed = Self { rig, policy, pods, streams: BTreeMap::new() };
        bed.apply();
        bed
    }

    fn with_connections(policy: TrafficPolicy) -> Self {
        let mut bed = Self::new(policy);
        while bed.streams.len() < PODS.len() {
            bed.connect();
        }
        bed
    }

    /// What the agents make of the objects and of each other.
    fn apply(&mut self) {
        let service = Service {
            vips: vec![Vip { address: vip4(), pool: String::new(), advertise: Vec::new() }],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                backends: self.pods.values().cloned().collect(),
                check: None,
            }],
            traffic_policy: self.policy,
            preferred: None,
            affinity: None,
            sources: BTreeSet::new(),
        };
        let name_of = ServiceName { namespace: "default".into(), name: "web".into() };
        let desired = Desired { services: [(name_of, service)].into(), ..Desired::default() };
        let view = self.view();
        for (n, host) in self.rig.lan.nodes.iter().enumerate() {
            let (index, mac) = (host.index("eth0"), host.mac("eth0"));
            let link = Link { name: "eth0".into(), index, mac, prefixes: vec!["10.77.0.0/24".parse().unwrap()] };
            let wanted = wanted(&desired, &view, &[link], &name(n));
            self.rig.agents[n].apply(host, &wanted);
        }
    }

    fn view(&self) -> View {
        let member = |(n, host): (usize, &crate::lan::Host)| {
            let prefixes = vec![format!("10.77.0.{}/24", 11 + n).parse().unwrap()];
            let interfaces = vec![Interface { name: "eth0".into(), mac: host.mac("eth0"), prefixes }];
            let facts = Facts { interfaces, forwarding: true, ..Facts::default() };
            let document = NodeDocument { facts, ..NodeDocument::default() };
            let address = ([10, 77, 0, 11 + n as u8], 9651).into();
            (name(n), Member { address, generation: 1, state: MemberState::Alive, document })
        };
        View { members: self.rig.lan.nodes.iter().enumerate().map(member).collect(), caught_up: true }
    }

    fn change(&mut self, pods: &[&str], change: impl Fn(&mut Backend)) {
        self.pods.iter_mut().filter(|(who, _)| pods.contains(who)).for_each(|(_, pod)| change(pod));
        self.apply();
    }

    fn terminate(&mut self, pods: &[&str], serving: bool) {
        self.change(pods, |pod| (pod.ready, pod.terminating, pod.serving) = (false, true, serving));
    }

    fn vanish(&mut self, pods: &[&str]) {
        self.pods.retain(|who, _| !pods.contains(who));
        self.apply();
    }

    /// A new connection, which is kept; to which pod.
    fn connect(&mut self) -> &'static str {
        let (stream, greeting) = connect(&self.rig.lan.client, socket(vip4(), 80));
        let who = PODS.iter().map(|(who, ..)| *who).find(|who| greeting.starts_with(who)).unwrap();
        self.streams.entry(who).or_default().push(stream);
        who
    }

    /// Whom new connections reach, in whichever node's hands the VIP is.
    fn reached(&mut self) -> Vec<&'static str> {
        let mut seen = BTreeSet::new();
        for owner in [0, 1] {
            self.rig.lan.announce(vip4(), owner);
            seen.extend((0..24).map(|_| self.connect()));
        }
        seen.into_iter().collect()
    }

    /// Every connection made so far still carries bytes both ways, in whichever node's hands the VIP is.
    fn all_go_on(&mut self) {
        for owner in [1, 0] {
            self.rig.lan.announce(vip4(), owner);
            self.streams.values_mut().flatten().for_each(|stream| echo(stream, 1 << 10));
        }
    }

    fn refuses_new_ones(&self) -> bool {
        let attempt = || TcpStream::connect_timeout(&socket(vip4(), 80), Duration::from_millis(300)).is_err();
        self.rig.lan.client.run(attempt)
    }
}

#[test]
fn a_terminating_pod_keeps_its_connections_and_gets_no_new_ones() {
    let mut bed = Bed::with_connections(TrafficPolicy::Cluster);
    bed.terminate(&["one"], true);
    assert_eq!(bed.reached(), ["due", "two", "uno"], "its node has another pod");
    bed.all_go_on();
    bed.terminate(&["uno"], true);
    assert_eq!(bed.reached(), ["due", "two"], "its node has no other");
    bed.all_go_on();
    bed.vanish(&["one", "uno"]);
    assert_eq!(bed.reached(), ["due", "two"]);
    bed.all_go_on();
}

#[test]
fn when_all_pods_terminate_those_that_still_answer_get_new_connections_until_another_is_there() {
    let mut bed = Bed::with_connections(TrafficPolicy::Cluster);
    bed.terminate(&["one", "uno", "two", "due"], true);
    assert_eq!(bed.reached(), ["due", "one", "two", "uno"]);
    bed.terminate(&["one", "two"], false);
    assert_eq!(bed.reached(), ["due", "uno"]);
    bed.all_go_on();
    bed.change(&["two"], |pod| (pod.ready, pod.terminating, pod.serving) = (true, false, true));
    assert_eq!(bed.reached(), ["two"]);
    bed.all_go_on();
    bed.vanish(&["one", "uno", "two", "due"]);
    assert!(bed.refuses_new_ones());
    bed.all_go_on();
}

#[test]
fn under_the_local_policy_a_node_with_terminating_pods_alone_serves_what_still_comes_to_it() {
    let mut bed = Bed::new(TrafficPolicy::Local);
    let from = |bed: &mut Bed, owner| {
        bed.rig.lan.announce(vip4(), owner);
        (0..16).map(|_| bed.connect()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!([from(&mut bed, 0), from(&mut bed, 1)], [["one", "uno"], ["due", "two"]]);
    bed.terminate(&["one"], true);
    assert_eq!(from(&mut bed, 0), ["uno"]);
    bed.terminate(&["uno"], true);
    assert_eq!([from(&mut bed, 0), from(&mut bed, 1)], [["one", "uno"], ["due", "two"]]);
    bed.terminate(&["one", "uno"], false);
    bed.rig.lan.announce(vip4(), 0);
    assert!(bed.refuses_new_ones());
    for who in ["one", "uno"] {
        bed.streams.get_mut(who).unwrap().iter_mut().for_each(|stream| echo(stream, 1 << 10));
    }
}

#[test]
fn a_pod_whose_weight_becomes_0_keeps_its_connections_and_gets_no_new_ones() {
    let mut bed = Bed::with_connections(TrafficPolicy::Cluster);
    bed.change(&["one", "two", "due"], |pod| pod.weight = 0);
    assert_eq!(bed.reached(), ["uno"]);
    bed.all_go_on();
    bed.change(&["one"], |pod| pod.weight = 1);
    assert_eq!(bed.reached(), ["one", "uno"]);
    bed.all_go_on();
}
