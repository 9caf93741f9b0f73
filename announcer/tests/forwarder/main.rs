//! The forwarder with the real eBPF program in network namespaces. Needs root; makes and removes its own namespaces.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "edge: a test of the real thing, in real time")]

mod answer;
mod away;
mod clients;
mod counters;
mod flood;
mod fragments;
mod frames;
mod fuzz;
mod icmp;
mod lan;
mod lease;
mod leaving;
mod moves;
mod nat;
mod refuse;
mod reuse;
mod rig;
mod scale;
mod sctp;
mod segments;
mod tap;
mod uplinks;
mod xdp;

use std::{
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use announcer::{
    forward::{Forwarder, Mode, Options, Wanted, detach_all},
    model::Protocol,
};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use forwarder_ebpf::{Direction, DropReason, Message, limits};

use crate::{
    lan::{Lan, pod_v4, pod_v6, socket},
    rig::{Agent, ask, attached, connect, echo, nodes, serve, tcp_server, udp_server, vip4, vip6},
};

/// Two nodes to four, a pod behind each, all four services.
struct Rig {
    lan: Lan,
    agents: Vec<Agent>,
    wanted: Vec<Wanted>,
}

impl Rig {
    fn new() -> Self {
        Self::of(2)
    }

    fn of(count: u8) -> Self {
        let lan = Lan::new(count);
        let all: Vec<usize> = (0..usize::from(count)).collect();
        let (mut agents, mut wanted) = (Vec::new(), Vec::new());
        for &n in &all {
            let who = ["one", "two", "three", "four"][n];
            let number = n as u8 + 1;
            for pod in [socket(pod_v4(number), 8080), socket(pod_v6(number), 8080)] {
                tcp_server(&lan.pods[n], pod, who);
                udp_server(&lan.pods[n], pod, who);
            }
            let mut want = nodes(&lan, n);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                serve(&mut want, vip4(), protocol, &all, &[socket(pod_v4(number), 8080)]);
                serve(&mut want, vip6(), protocol, &all, &[socket(pod_v6(number), 8080)]);
            }
            let mut agent = Agent::start(&lan.nodes[n]);
            agent.apply(&lan.nodes[n], &want);
            agents.push(agent);
            wanted.push(want);
        }
        lan.announce(vip4(), 0);
        lan.announce(vip6(), 0);
        Self { lan, agents, wanted }
    }

    /// Serves from other nodes and pods from now on.
    fn change(&mut self, change: impl Fn(usize, &mut Wanted)) {
        for n in 0..self.agents.len() {
            change(n, &mut self.wanted[n]);
            self.agents[n].apply(&self.lan.nodes[n], &self.wanted[n]);
        }
    }

    fn drops(&self, node: usize, reason: DropReason) -> u64 {
        self.agents[node].counters().drops[&reason]
    }
}

#[test]
fn tcp_and_udp_of_both_families_reach_pods_on_both_nodes_and_see_the_client() {
    let rig = Rig::new();
    for vip in [vip4(), vip6()] {
        let client = if vip.is_ipv4() { "10.77.0.9" } else { "fd77::9" };
        let expected: BTreeSet<String> = ["one", "two"].iter().map(|who| format!("{who} {client}")).collect();
        let to = socket(vip, 80);
        let tcp: BTreeSet<String> = (0..16).map(|_| connect(&rig.lan.client, to).1).collect();
        assert_eq!(tcp, expected);
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let udp: BTreeSet<String> =
            (0..16).map(|_| ask(&rig.lan.client.run(|| UdpSocket::bind(any).unwrap()), to)).collect();
        assert_eq!(udp, expected);
    }
    for agent in &rig.agents {
        let counters = agent.counters();
        assert!(counters.drops.values().all(|&count| count == 0), "{:?}", counters.drops);
    }
    let flows = |n: usize| -> u64 {
        let counters = rig.agents[n].counters();
        counters.traffic.iter().filter(|((_, d), _)| *d == Direction::Inbound).map(|(_, t)| t.flows).sum()
    };
    assert_eq!(flows(0) + flows(1), 64);
}

#[test]
fn megabytes_pass_unharmed_with_segmentation_offload_and_partial_checksums() {
    let rig = Rig::new();
    for vip in [vip4(), vip6()] {
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            let (mut stream, who) = connect(&rig.lan.client, socket(vip, 80));
            if seen.insert(who) {
                echo(&mut stream, 8 << 20);
            }
        }
    }
    let counters = rig.agents[1].counters();
    assert!(counters.drops.values().all(|&count| count == 0), "{:?}", counters.drops);
}

/// A connection of the client's to the pod of that name.
fn connect_to(rig: &Rig, vip: IpAddr, who: &str) -> std::net::TcpStream {
    (0..64)
        .map(|_| connect(&rig.lan.client, socket(vip, 80)))
        .find(|(_, greeting)| greeting.starts_with(who))
        .unwrap_or_else(|| panic!("no connection of 64 reached {who}"))
        .0
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Veth hands packets over with checksums nobody has filled in or looks at. Here the last sender fills them in, after
/// the program has changed what they will be made of.
#[test]
fn partial_checksums_are_right_when_they_are_filled_in() {
    let rig = Rig::new();
    for node in &rig.lan.nodes {
        node.checksum_in_software("pod0");
        node.checksum_in_software("eth0");
    }
    exchange_with_both_pods(&rig);
}

#[test]
fn whole_checksums_are_right_after_each_change() {
    let rig = Rig::new();
    for host in rig.lan.pods.iter().chain([&rig.lan.client]) {
        host.checksum_in_software("eth0");
    }
    exchange_with_both_pods(&rig);
}

/// TCP and UDP of both families; packets with a wrong checksum would be dropped by their receiver.
fn exchange_with_both_pods(rig: &Rig) {
    for vip in [vip4(), vip6()] {
        for who in ["one", "two"] {
            echo(&mut connect_to(rig, vip, who), 1 << 18);
        }
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        for _ in 0..8 {
            ask(&rig.lan.client.run(|| UdpSocket::bind(any).unwrap()), socket(vip, 80));
        }
    }
}

#[test]
fn connections_of_a_node_that_lost_its_slots_go_on_by_a_second_hop() {
    let mut rig = Rig::new();
    for vip in [vip4(), vip6()] {
        let mut stream = connect_to(&rig, vip, "two");
        rig.change(|n, wanted| {
            let pod = if vip.is_ipv4() { pod_v4(n as u8 + 1) } else { pod_v6(n as u8 + 1) };
            serve(wanted, vip, Protocol::Tcp, &[0], &[socket(pod, 8080)]);
        });
        let before = rig.agents[0].counters().second_hops;
        echo(&mut stream, 1 << 20);
        assert!(rig.agents[0].counters().second_hops > before);
        assert!(connect(&rig.lan.client, socket(vip, 80)).1.starts_with("one"), "new ones go to the slot's node");
    }
}

#[test]
fn connections_survive_another_node_taking_the_vip() {
    let rig = Rig::new();
    let mut streams = [connect_to(&rig, vip4(), "one"), connect_to(&rig, vip4(), "two")];
    rig.lan.announce(vip4(), 1);
    for stream in &mut streams {
        echo(stream, 1 << 16);
    }
}

#[test]
fn a_connection_whose_flow_was_lost_goes_on_to_the_same_pod() {
    let mut rig = Rig::new();
    let mut stream = connect_to(&rig, vip4(), "two");
    // Other pins, so none of the flows.
    rig.agents[1] = Agent::start(&rig.lan.nodes[1]);
    rig.agents[1].apply(&rig.lan.nodes[1], &rig.wanted[1].clone());
    echo(&mut stream, 1 << 16);
}

#[test]
fn a_connection_whose_pod_is_gone_is_reset_by_another() {
    let mut rig = Rig::new();
    let mut stream = connect_to(&rig, vip4(), "two");
    rig.agents[1] = Agent::start(&rig.lan.nodes[1]);
    let other = socket(pod_v4(2), 8081);
    tcp_server(&rig.lan.pods[1], other, "other");
    rig.change(|n, wanted| {
        if n == 1 {
            serve(wanted, vip4(), Protocol::Tcp, &[0, 1], &[other]);
        }
    });
    let _ = std::io::Write::write(&mut stream, b"anyone?");
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn an_agent_killed_and_started_again_disturbs_no_connection() {
    let mut rig = Rig::new();
    let mut stream = connect_to(&rig, vip4(), "two");
    for n in 0..2 {
        rig.agents[n].restart(&rig.lan.nodes[n]);
        echo(&mut stream, 1 << 16);
        assert!(!connect(&rig.lan.client, socket(vip4(), 80)).1.is_empty(), "served while the new one has no tables");
        rig.agents[n].apply(&rig.lan.nodes[n], &rig.wanted[n].clone());
        echo(&mut stream, 1 << 16);
    }
    assert_eq!(attached(&rig.lan.nodes[0]), [1, 1], "the new programs are in the old ones' place, not beside them");
}

#[test]
fn pods_on_the_nodes_own_address_are_served_like_any_other() {
    let mut rig = Rig::new();
    for (vip, own) in [(vip4(), "10.77.0.12"), (vip6(), "fd77::12")] {
        let own: SocketAddr = socket(own.parse().unwrap(), 9090);
        tcp_server(&rig.lan.nodes[1], own, "host");
        let own = [own];
        rig.change(|n, wanted| serve(wanted, vip, Protocol::Tcp, &[1], if n == 1 { &own } else { &[] }));
        let (mut stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
        assert!(greeting.starts_with("host "), "{greeting}");
        echo(&mut stream, 1 << 20);
    }
}

#[test]
fn a_removed_pod_keeps_its_connections_and_gets_no_new_ones_from_a_port_it_knows() {
    let mut rig = Rig::new();
    let other = socket(pod_v4(1), 8081);
    tcp_server(&rig.lan.pods[0], other, "other");
    udp_server(&rig.lan.pods[0], other, "other");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        rig.change(|_, wanted| serve(wanted, vip4(), protocol, &[0], &[socket(pod_v4(1), 8080)]));
    }
    let (mut stream, greeting) = connect(&rig.lan.client, socket(vip4(), 80));
    assert!(greeting.starts_with("one"));
    let udp = rig.lan.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    assert!(ask(&udp, socket(vip4(), 80)).starts_with("one"));

    for protocol in [Protocol::Tcp, Protocol::Udp] {
        rig.change(|_, wanted| serve(wanted, vip4(), protocol, &[0], &[other]));
    }
    echo(&mut stream, 1 << 16);
    assert!(ask(&udp, socket(vip4(), 80)).starts_with("other"), "UDP moves at once");
    assert!(connect(&rig.lan.client, socket(vip4(), 80)).1.starts_with("other"));
}

#[test]
fn each_unfit_packet_is_dropped_for_its_reason() {
    let mut rig = Rig::new();
    rig.change(|_, wanted| serve(wanted, vip4(), Protocol::Tcp, &[], &[]));
    let to = rig.lan.nodes[0].mac("eth0");
    let (vip, vip6) = (frames::as_v4(vip4()), frames::as_v6(vip6()));
    let v4 = |protocol, ttl, fragment, payload| frames::V4 { to, vip, protocol, ttl, fragment, payload }.bytes();
    let forwarded: Vec<u8> = frames::udp(80);
    let padding = [0_u8; 20].to_vec();
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let walk = [options(60), options(60), options(60), options(60), options(17)].concat();
    let cases: Vec<(DropReason, Vec<u8>)> = vec![
        (DropReason::Malformed, v4(6, 64, 0, vec![0; 8])),
        (DropReason::Fragment, v4(17, 64, 0x0010, forwarded.clone())),
        (DropReason::Fragment, frames::v6(to, vip6, 44, &[17, 0, 0, 8, 0, 0, 0, 1])),
        (DropReason::Malformed, frames::v6(to, vip6, 44, &[17, 0, 0, 1, 0, 0, 0, 1])),
        (DropReason::Extension, frames::v6(to, vip6, 60, &walk)),
        (DropReason::Protocol, v4(47, 64, 0, padding.clone())),
        (DropReason::Protocol, v4(1, 64, 0, frames::icmp([13, 0], &[0; 12]))),
        (DropReason::Malformed, v4(1, 64, 0, vec![8, 0, 0xf7, 0xff])),
        (DropReason::StrayError, v4(1, 64, 0, frames::icmp([3, 1], &[0; 4]))),
        (DropReason::Extension, frames::v6(to, vip6, 60, &[&options(58)[..], &[128, 0, 0, 0, 0, 0, 0, 0]].concat())),
        (DropReason::NoService, frames::from_v4(v4(17, 64, 0, frames::udp(81)), [0; 4])),
        (DropReason::NoBackend, v4(6, 64, 0, [&frames::udp(80)[..4], &[0; 9], &[2, 0, 0, 0, 0, 0, 0]].concat())),
    ];
    for (reason, frame) in cases {
        let before = rig.drops(0, reason);
        frames::send(&rig.lan.client, &[frame]);
        eventually(reason.as_str(), || rig.drops(0, reason) == before + 1);
    }
    // A packet with its last hop behind it reaches a pod here, but no other node.
    rig.change(|_, wanted| serve(wanted, vip4(), Protocol::Udp, &[1], &[]));
    frames::send(&rig.lan.client, &[v4(17, 1, 0, forwarded)]);
    eventually("ttl", || rig.drops(0, DropReason::TtlExpired) == 1);
}

#[test]
fn clients_outside_the_source_ranges_are_dropped_on_whichever_node_they_come_to() {
    let mut rig = Rig::new();
    let mut streams = [vip4(), vip6()].map(|vip| connect(&rig.lan.client, socket(vip, 80)).0);
    let let_in = |rig: &mut Rig, ranges: &[&str]| {
        rig.change(|_, wanted| {
            let ranges: BTreeSet<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            wanted.services.values_mut().for_each(|targets| targets.sources.clone_from(&ranges));
        });
    };
    let connects = |rig: &Rig, vip: IpAddr, patience: Duration| {
        let to = socket(vip, 80);
        rig.lan.client.run(|| std::net::TcpStream::connect_timeout(&to, patience)).is_ok()
    };
    let accepted = |rig: &Rig, vip: IpAddr| connects(rig, vip, Duration::from_secs(10));
    let refused = |rig: &Rig, vip: IpAddr| !connects(rig, vip, Duration::from_millis(300));
    for owner in [0, 1] {
        rig.lan.announce(vip4(), owner);
        rig.lan.announce(vip6(), owner);
        let_in(&mut rig, &["10.77.0.9/32", "fd77::/64"]);
        streams.iter_mut().for_each(|stream| echo(stream, 10_000));
        assert!([vip4(), vip6()].into_iter().all(|vip| accepted(&rig, vip)));
        let_in(&mut rig, &["10.77.0.0/29", "fd77::9/128"]);
        let before = rig.drops(owner, DropReason::SourceRange);
        assert!(refused(&rig, vip4()) && accepted(&rig, vip6()));
        assert!(rig.drops(owner, DropReason::SourceRange) > before);
        let_in(&mut rig, &["0.0.0.0/0"]);
        assert!(accepted(&rig, vip4()) && refused(&rig, vip6()), "all of one family");
        let_in(&mut rig, &[]);
    }
}

#[test]
fn frames_for_another_mac_and_other_addresses_are_left_alone() {
    let rig = Rig::new();
    let before = rig.agents[0].counters();
    let other = [2, 0, 0, 0, 0, 77];
    let frame = |to, vip| frames::V4 { to, vip, protocol: 17, ttl: 64, fragment: 0, payload: frames::udp(81) }.bytes();
    let own = rig.lan.nodes[0].mac("eth0");
    frames::send(&rig.lan.client, &[frame(other, frames::as_v4(vip4())), frame(own, "10.77.0.11".parse().unwrap())]);
    let discovery = frames::v6(own, frames::as_v6(vip6()), 58, &[135, 0, 0, 0, 0, 0, 0, 0]);
    frames::send(&rig.lan.client, &[discovery]);
    // What follows on the same wire is seen, so what went before has been.
    frames::send(&rig.lan.client, &[frame(own, frames::as_v4(vip4()))]);
    eventually("the marker", || rig.agents[0].counters().messages[&Message::Unreachable] > 0);
    let after = rig.agents[0].counters();
    assert_eq!((after.drops, after.messages[&Message::Unreachable]), (before.drops, 1));
}

#[test]
fn a_packet_from_the_slots_own_node_is_never_sent_back() {
    let mut rig = Rig::new();
    // Each node believes the other has the slots.
    rig.change(|n, wanted| serve(wanted, vip4(), Protocol::Udp, &[1 - n], &[]));
    let udp = rig.lan.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    udp.send_to(b"who?", socket(vip4(), 80)).unwrap();
    eventually("dropped where it would turn round", || rig.drops(1, DropReason::NoBackend) == 1);
    assert_eq!(rig.drops(0, DropReason::TtlExpired) + rig.drops(1, DropReason::TtlExpired), 0);
}

#[test]
fn a_successor_says_what_it_inherits_and_off_leaves_nothing_attached() {
    let lan = Lan::new(1);
    let mut agent = Agent::start(&lan.nodes[0]);
    assert!(!agent.forwarder.inherited());
    agent.apply(&lan.nodes[0], &nodes(&lan, 0));
    let first = agent.forwarder.info();
    assert_eq!(first.interfaces, ["eth0"]);
    assert!(["tcx", "clsact"].contains(&first.hook));
    agent.restart(&lan.nodes[0]);
    assert!(agent.forwarder.inherited());
    let inherited = agent.forwarder.info();
    assert_eq!((inherited.hook, inherited.interfaces), (first.hook, first.interfaces));
    agent.apply(&lan.nodes[0], &nodes(&lan, 0));
    assert!(!agent.forwarder.inherited());

    let options = Options {
        mode: Mode::Off,
        pin_dir: agent.pins.path().to_owned(),
        flows: limits::FLOWS,
        rows: limits::ROWS,
        nat_ports: None,
    };
    let off = lan.nodes[0].run(|| Forwarder::start(options).unwrap());
    assert!(!off.inherited());
    eventually("the kernel has let go of the links", || attached(&lan.nodes[0]) == [0, 0]);
}

#[test]
fn the_mode_off_needs_no_kernel() {
    let options = || Options {
        mode: Mode::Off,
        pin_dir: "/nonexistent/crier".into(),
        flows: limits::FLOWS,
        rows: limits::ROWS,
        nat_ports: None,
    };
    let lan = Lan::new(1);
    let mut off = lan.nodes[0].run(|| Forwarder::start(options()).unwrap());
    assert_eq!(off.apply(&Wanted::default(), Instant::now()).unwrap(), announcer::forward::Applied::default());
    assert_eq!((off.info().mode, off.info().hook), ("off", ""));
}

#[test]
fn a_pin_directory_that_cannot_be_made_is_named_with_the_way_out() {
    let options = Options {
        mode: Mode::Tc,
        pin_dir: "/proc/crier".into(),
        flows: limits::FLOWS,
        rows: limits::ROWS,
        nat_ports: None,
    };
    let error = Forwarder::start(options).unwrap_err().to_string();
    assert!(error.contains("/proc/crier") && error.contains("mount -t bpf"), "{error}");
}

#[test]
fn cleaning_up_leaves_nothing_attached() {
    let lan = Lan::new(1);
    let mut agent = Agent::start(&lan.nodes[0]);
    agent.apply(&lan.nodes[0], &nodes(&lan, 0));
    assert_eq!(attached(&lan.nodes[0]), [1, 1]);
    lan.nodes[0].run(|| detach_all(agent.pins.path()).unwrap());
    eventually("the kernel has let go of the links", || attached(&lan.nodes[0]) == [0, 0]);
    assert!(!agent.pins.path().exists());
}

/// An agent's start waits for the verifier, which gives up at a million. What it walks several times for no good reason is
/// found by asking what differs where the ways meet: see `bytes::unforeseen` in the kernel program.
#[test]
fn no_program_keeps_the_kernels_verifier_for_long() {
    let rig = Rig::new();
    let attached = rig.lan.nodes[0].run(|| SchedClassifier::query_tcx("eth0", TcAttachType::Ingress));
    // Older kernels do not tell what is attached.
    let Ok((_, attached)) = attached else { return };
    // The agent's programs are those that share maps with its ingress program: others' agents may be on this machine.
    let own = attached[0].map_ids().unwrap().unwrap();
    let shares = |program: &ProgramInfo| {
        program.map_ids().ok().flatten().is_some_and(|ids| ids.iter().any(|id| own.contains(id)))
    };
    let walked: Vec<_> = aya::programs::loaded_programs()
        .flatten()
        .filter(shares)
        .map(|program| (program.name_as_str().unwrap().to_owned(), program.verified_instruction_count().unwrap_or(0)))
        .collect();
    assert!(walked.len() >= 5, "{walked:?}");
    assert!(walked.iter().all(|(_, instructions)| *instructions < 200_000), "{walked:?}");
    println!("{walked:?}");
}
