//! What is counted of connections, by service and by pod, and how long clients wait for a pod.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use announcer::{
    forward::{Active, Conversation, Counters, Labels, Phase, Wanted},
    model::Protocol,
};
use nix::sys::socket::{self as sys, sockopt};

use crate::{
    Rig, eventually, frames,
    lan::{pod_v4, pod_v6, socket},
    rig::{Agent, connect, echo, serve, tcp_server, vip4, vip6},
};

/// The first node serves, from these pods of its own.
fn serve_from(rig: &mut Rig, vip: IpAddr, pods: &[SocketAddr]) {
    rig.change(|n, wanted| serve(wanted, vip, Protocol::Tcp, &[0], if n == 0 { pods } else { &[] }));
}

fn labels(wanted: &Wanted) -> Labels {
    let tcp = |socket: &announcer::forward::wanted::Socket| socket.protocol == Protocol::Tcp;
    wanted.services.iter().find(|(socket, _)| tcp(socket)).unwrap().1.labels.clone()
}

/// What was counted for the TCP service.
fn service(rig: &Rig) -> Conversation {
    rig.agents[0].counters().conversations[&labels(&rig.wanted[0])]
}

/// The same for one of its pods.
fn of_pod(rig: &Rig, pod: SocketAddr) -> Option<Conversation> {
    rig.agents[0].counters().pods.get(&(labels(&rig.wanted[0]), pod)).copied()
}

fn begun(rig: &Rig, pod: SocketAddr) -> u64 {
    of_pod(rig, pod).map_or(0, |conversation| conversation.inbound.flows)
}

fn connects(counters: &Counters) -> u64 {
    counters.waits.values().map(announcer::forward::Connects::count).sum()
}

/// A port of a node where nobody listens.
fn nobody() -> SocketAddr {
    socket(pod_v4(1), 8099)
}

fn reset(stream: TcpStream) {
    sys::setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}

#[test]
fn each_pods_traffic_is_its_own_and_together_it_is_the_services() {
    let mut rig = Rig::new();
    for (vip, address) in [(vip4(), pod_v4(1)), (vip6(), pod_v6(1))] {
        let (one, other) = (socket(address, 8080), socket(address, 8081));
        tcp_server(&rig.lan.pods[0], other, "other");
        serve_from(&mut rig, vip, &[one, other]);
        let mut connected = [0_u64; 2];
        for _ in 0..16 {
            let (mut stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
            echo(&mut stream, 1 << 12);
            connected[usize::from(greeting.starts_with("other"))] += 1;
        }
        assert!(connected.iter().all(|&count| count > 0), "{connected:?}");
        assert_eq!([one, other].map(|pod| begun(&rig, pod)), connected);
        let bytes = |pod| of_pod(&rig, pod).map(|of| (of.inbound.bytes, of.outbound.bytes)).unwrap();
        for (pod, count) in [one, other].into_iter().zip(connected) {
            assert!(bytes(pod).0 > count << 12 && bytes(pod).1 > count << 12, "{:?}", bytes(pod));
        }
    }
    let pods = rig.agents[0].counters().pods;
    let mut sum = Conversation::default();
    pods.into_iter().filter(|((labels, _), _)| labels.protocol == Protocol::Tcp).for_each(|(_, pod)| sum += pod);
    assert_eq!(sum, service(&rig), "both VIPs are one service's");
}

#[test]
fn a_reset_is_counted_once_and_by_who_sent_it() {
    let mut rig = Rig::new();
    let resets = |rig: &Rig| (service(rig).resets_by_clients, service(rig).resets_by_pods);
    serve_from(&mut rig, vip4(), &[socket(pod_v4(1), 8080)]);
    reset(connect(&rig.lan.client, socket(vip4(), 80)).0);
    eventually("the client's", || resets(&rig) == (1, 0));

    // Bytes that nobody has read when the pod closes make it reset.
    let pod = socket(pod_v4(1), 8082);
    let listener = rig.lan.pods[0].run(|| std::net::TcpListener::bind(pod).unwrap());
    serve_from(&mut rig, vip4(), &[pod]);
    let mut stream = rig.lan.client.run(|| TcpStream::connect(socket(vip4(), 80)).unwrap());
    std::io::Write::write_all(&mut stream, b"unread").unwrap();
    let (served, _) = listener.accept().unwrap();
    served.peek(&mut [0]).unwrap();
    drop(served);
    eventually("the pod's", || resets(&rig) == (1, 1));

    serve_from(&mut rig, vip4(), &[nobody()]);
    let refused = rig.lan.client.run(|| TcpStream::connect(socket(vip4(), 80)));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    eventually("the pod's refusal", || resets(&rig) == (1, 2));

    // Closed by both ends, a connection is not ended once more.
    serve_from(&mut rig, vip4(), &[socket(pod_v4(1), 8080)]);
    drop(connect(&rig.lan.client, socket(vip4(), 80)));
    let over = |rig: &Rig| rig.agents[0].flows().iter().filter(|flow| flow.closed() == [true; 2]).count();
    eventually("all are closed", || over(&rig) == rig.agents[0].flows().len());
    assert_eq!(resets(&rig), (1, 2));
}

#[test]
fn a_repeated_syn_is_a_retransmit_while_the_connection_is_half_open() {
    let mut rig = Rig::new();
    // Nobody has this address, so nobody answers.
    serve_from(&mut rig, vip4(), &[socket([10, 77, 101, 99].into(), 8080)]);
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    let frame = |flags| {
        let payload = frames::tcp(40_000, 80, flags);
        frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload }.bytes()
    };
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let seen = |rig: &Rig| (service(rig).inbound.packets, service(rig).inbound.flows, service(rig).retransmits);
    frames::send(&rig.lan.client, &[frame(SYN), frame(SYN), frame(SYN)]);
    eventually("three have come", || seen(&rig) == (3, 1, 2));
    // A connection that another has begun from this port long ago.
    rig.agents[0].edit_flows(|entry| entry.age(76));
    frames::send(&rig.lan.client, &[frame(SYN)]);
    eventually("one more has come", || seen(&rig) == (4, 1, 2));
    frames::send(&rig.lan.client, &[frame(ACK), frame(SYN)]);
    eventually("the others have come", || seen(&rig) == (6, 1, 2));
}

#[test]
fn how_long_a_client_waits_for_its_pod_is_measured_once_for_each_connection() {
    let mut rig = Rig::new();
    for (vip, address) in [(vip4(), pod_v4(1)), (vip6(), pod_v6(1))] {
        let before = rig.agents[0].counters();
        serve_from(&mut rig, vip, &[socket(address, 8080)]);
        let (mut stream, _) = connect(&rig.lan.client, socket(vip, 80));
        echo(&mut stream, 1 << 14);
        reset(stream);
        let after = rig.agents[0].counters();
        assert_eq!(connects(&after) - connects(&before), 1);
        assert!(after.waits != before.waits);
    }
    // A pod that hears nothing for a while: the client repeats its SYN after a second.
    let quick = rig.agents[0].counters();
    rig.lan.pods[0].ip("link set eth0 down");
    let (client, agent) = (&rig.lan.client, &rig.agents[0]);
    let begun = |counters: &Counters| counters.conversations.values().map(|of| of.inbound.flows).sum::<u64>();
    let waited = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let start = Instant::now();
            drop(connect(client, socket(vip4(), 80)));
            start.elapsed()
        });
        eventually("the first SYN has come", || begun(&agent.counters()) > begun(&quick));
        rig.lan.pods[0].ip("link set eth0 up");
        rig.lan.pods[0].ip("route add default via 10.77.101.1");
        connecting.join().unwrap()
    });
    let slow = rig.agents[0].counters();
    let sum = |counters: &Counters| counters.waits.values().map(|waits| waits.sum).sum::<Duration>();
    let measured = sum(&slow) - sum(&quick);
    assert_eq!(connects(&slow) - connects(&quick), 1);
    assert!(measured > Duration::from_millis(500) && measured <= waited, "{measured:?} of {waited:?}");
    assert!(service(&rig).retransmits > 0);
}

#[test]
fn a_pod_that_has_the_number_of_another_is_not_counted_for_it() {
    let mut rig = Rig::new();
    let (one, other) = (socket(pod_v4(1), 8080), socket(pod_v4(1), 8081));
    tcp_server(&rig.lan.pods[0], other, "other");
    serve_from(&mut rig, vip4(), &[one]);
    let (mut stream, _) = connect(&rig.lan.client, socket(vip4(), 80));
    serve_from(&mut rig, vip4(), &[other]);
    // The tables are told that it is long afterwards: the counter of the pod that is gone is the other's, whose own is new.
    let later = Instant::now() + Duration::from_secs(700);
    let wanted = rig.wanted[0].clone();
    rig.agents[0].apply_at(&rig.lan.nodes[0], &wanted, later);
    assert!(of_pod(&rig, one).is_none(), "its series is gone");
    let third = socket(pod_v4(1), 8083);
    tcp_server(&rig.lan.pods[0], third, "third");
    let mut wanted = wanted;
    serve(&mut wanted, vip4(), Protocol::Tcp, &[0], &[third]);
    rig.agents[0].apply_at(&rig.lan.nodes[0], &wanted, later);
    let before = service(&rig);
    assert!(before.inbound.flows == 1, "what it carried is still its service's: {before:?}");

    echo(&mut stream, 1 << 14);
    let after = service(&rig);
    assert!(after.inbound.bytes > before.inbound.bytes + (1 << 14), "its last connection is its service's");
    assert!(after.outbound.bytes > before.outbound.bytes + (1 << 14));
    for pod in [other, third] {
        assert_eq!(of_pod(&rig, pod), Some(Conversation::default()), "{pod}");
    }
}

#[test]
fn connections_of_a_former_agent_are_counted_for_their_own_pods() {
    let mut rig = Rig::new();
    let pods: Vec<SocketAddr> = (0..3).map(|n| socket(pod_v4(1), 8090 + n)).collect();
    for (pod, who) in pods.iter().zip(["a", "b", "c"]) {
        tcp_server(&rig.lan.pods[0], *pod, who);
    }
    serve_from(&mut rig, vip4(), &pods[1..2]);
    let (mut stream, greeting) = connect(&rig.lan.client, socket(vip4(), 80));
    assert!(greeting.starts_with('b'));
    // The successor numbers them otherwise.
    rig.agents[0].restart(&rig.lan.nodes[0]);
    serve_from(&mut rig, vip4(), &pods);
    assert_eq!(service(&rig), Conversation::default());
    echo(&mut stream, 1 << 14);
    for (pod, carried) in pods.iter().zip([false, true, false]) {
        let of = of_pod(&rig, *pod).unwrap();
        assert_eq!((of.inbound.bytes > 1 << 14, of.outbound.bytes > 1 << 14), (carried, carried), "{pod}: {of:?}");
    }
    // One that the successor does not know.
    rig.agents[0].restart(&rig.lan.nodes[0]);
    serve_from(&mut rig, vip4(), &pods[..1]);
    echo(&mut stream, 1 << 14);
    assert_eq!(of_pod(&rig, pods[0]), Some(Conversation::default()));
    assert!(service(&rig).inbound.bytes > 1 << 14);
}

/// What the agent says of connections.
fn phases(agent: &Agent) -> [u64; 3] {
    let tally = agent.forwarder.flow_table().unwrap().tally().unwrap();
    Phase::ALL.map(|phase| tally.phases.get(&phase).copied().unwrap_or_default())
}

fn active(agent: &Agent) -> Active {
    agent.forwarder.active(&agent.forwarder.flow_table().unwrap().tally().unwrap()).unwrap()
}

#[test]
fn connections_in_use_are_counted_until_they_are_closed() {
    let mut rig = Rig::new();
    let (one, silent) = (socket(pod_v4(1), 8080), socket([10, 77, 101, 99].into(), 8080));
    serve_from(&mut rig, vip4(), &[one]);
    serve_from(&mut rig, vip6(), &[socket(pod_v6(1), 8080)]);
    assert_eq!(phases(&rig.agents[0]), [0; 3]);
    let mut streams: Vec<TcpStream> =
        [vip4(), vip4(), vip6()].map(|vip| connect(&rig.lan.client, socket(vip, 80)).0).into();
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 10));
    serve_from(&mut rig, vip4(), &[silent]);
    let syn = frames::tcp(40_000, 80, 2);
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    frames::send(&rig.lan.client, &[frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload: syn }.bytes()]);
    eventually("one half-open", || phases(&rig.agents[0]) == [1, 3, 0]);
    let now = active(&rig.agents[0]);
    let labels = labels(&rig.wanted[0]);
    assert_eq!(now.services[&labels], 3, "of both VIPs");
    assert_eq!(now.pods[&(labels.clone(), one)], 2, "of a pod that is gone too");

    let (found, more) = rig.agents[0].forwarder.flow_table().unwrap().connections(2, |_| true).unwrap();
    assert_eq!((found.len(), more), (2, true));
    let to_pod = |connection: &announcer::forward::Connection| connection.pod == Some(one);
    let (found, more) = rig.agents[0].forwarder.flow_table().unwrap().connections(2, to_pod).unwrap();
    assert!(!more && found.iter().all(|found| found.client.ip() == IpAddr::from([10, 77, 0, 9])));
    assert_eq!(found.len(), 2);

    streams.drain(..1).for_each(drop);
    eventually("one is closing", || phases(&rig.agents[0]) == [1, 2, 1]);
    assert_eq!(active(&rig.agents[0]).pods[&(labels, one)], 1);
    rig.agents[0].edit_flows(|entry| entry.age(70));
    eventually("it is over", || phases(&rig.agents[0])[2] == 0);
}
