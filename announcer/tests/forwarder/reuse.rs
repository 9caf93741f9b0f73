//! Ports that clients use again: what was remembered of an earlier connection must not touch a later one.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use announcer::model::Protocol;
use forwarder_ebpf::{Direction, DropReason, Eviction, Grant, limits::MIN_FLOWS, table::State};
use nix::sys::{
    socket::{self as sys, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt},
    time::{TimeVal, TimeValLike},
};

use crate::{
    Rig, eventually, frames,
    lan::{Host, pod_v4, socket},
    rig::{Entry, ask, echo, greeting, serve, tcp_server, vip4},
    tap::Tap,
};

const PORT: u16 = 40_000;

/// A connection from a port of the host's own choice.
pub(crate) fn connect_from(host: &Host, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    host.run(|| {
        let client = sys::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        sys::setsockopt(&client, sockopt::ReuseAddr, &true)?;
        sys::setsockopt(&client, sockopt::SendTimeout, &TimeVal::seconds(3))?;
        sys::bind(client.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        sys::connect(client.as_raw_fd(), &SockaddrIn::from(to))?;
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(client)
    })
}

/// Ends a connection by a reset, so that its port can be used again at once.
fn reset(stream: TcpStream) {
    sys::setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}

/// Whom a connection from the port reaches; it is reset then.
fn visit(rig: &Rig, to: SocketAddr) -> String {
    let mut stream = connect_from(&rig.lan.client, PORT, to).unwrap();
    let greeting = greeting(&mut stream);
    echo(&mut stream, 1 << 12);
    reset(stream);
    greeting
}

/// Only this node serves, with its pod.
fn serve_only(rig: &mut Rig, serving: usize) {
    serve_by(rig, Some(serving));
}

/// Only this node serves, or none.
fn serve_by(rig: &mut Rig, serving: Option<usize>) {
    rig.change(|n, wanted| {
        let pods = [socket(pod_v4(n as u8 + 1), 8080)];
        serve(wanted, vip4(), Protocol::Tcp, serving.as_slice(), if serving == Some(n) { &pods } else { &[] });
    });
}

/// As if the end of the connections had never been seen.
fn unclosed(entry: &mut Entry) {
    entry.state = entry.state.with(0, State::CLOSED);
}

#[test]
fn a_connection_that_begins_elsewhere_is_not_caught_by_the_old_one_from_its_port() {
    let mut rig = Rig::new();
    for ends_seen in [true, false] {
        serve_only(&mut rig, 0);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("one"));
        if !ends_seen {
            rig.agents[0].edit_flows(unclosed);
        }
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
    }
}

#[test]
fn what_a_new_owner_remembers_of_a_port_is_forgotten_after_a_while() {
    for (closed, seconds) in [(true, 61), (false, 3 * 3600 + 1)] {
        let mut rig = Rig::new();
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
        rig.agents[1].edit_flows(|entry| {
            assert_eq!(entry.closed(), [true; 2]);
            entry.state = entry.state.with(0, if closed { 0 } else { State::BY_POD });
            entry.age(seconds);
        });
        serve_only(&mut rig, 0);
        let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
        assert!(greeting(&mut stream).starts_with("one"));
        rig.lan.announce(vip4(), 1);
        echo(&mut stream, 1 << 12);
    }
}

/// The slot moves from the node of the port's earlier connection and back, while the later one lives elsewhere.
#[test]
fn a_connection_is_not_caught_by_a_closed_one_from_its_port_where_its_slot_comes_back_to() {
    for owner in 0..3 {
        let mut rig = Rig::of(3);
        rig.lan.announce(vip4(), owner);
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
        rig.agents[1].edit_flows(|entry| entry.age(2));
        // The owner, by whom the SYN comes, forgets the port's old connection; here it is not where that was.
        rig.lan.announce(vip4(), if owner == 1 { 0 } else { owner });
        serve_only(&mut rig, 2);
        let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
        assert!(greeting(&mut stream).starts_with("three"));
        rig.lan.announce(vip4(), owner);
        serve_only(&mut rig, 1);
        echo(&mut stream, 1 << 14);
    }
}

/// As long as its pod may wait for them.
#[test]
fn what_a_client_says_late_on_a_closed_connection_reaches_its_pod_though_its_slot_has_moved() {
    for serving in [Some(1), Some(0), None] {
        let mut rig = Rig::new();
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
        serve_by(&mut rig, serving);
        rig.agents[1].edit_flows(|entry| entry.age(2));
        let seen = Tap::new(&rig.lan.pods[1], "eth0");
        let [sent, late] = [80, 8080].map(|port| frames::tcp(PORT, port, 0x10));
        let client: IpAddr = "10.77.0.9".parse().unwrap();
        frames::send(&rig.lan.client, &[frames::ip(rig.lan.nodes[0].mac("eth0"), client, vip4(), 6, &sent)]);
        let ends = |packet: &[u8]| packet[..4].to_vec();
        let is_it = |frame: &[u8]| {
            frame.len() >= 54 && frame[23] == 6 && frame[26..30] == [10, 77, 0, 9] && ends(&frame[34..]) == ends(&late)
        };
        assert!(seen.next(is_it).is_some(), "served by {serving:?}");
        assert_eq!(rig.agents[1].flows().iter().map(Entry::closed).collect::<Vec<_>>(), [[true; 2]]);
    }
}

#[test]
fn the_ends_of_a_connection_are_noted() {
    use std::io::{Read, Write};

    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    stream.write_all(b"last words").unwrap();
    assert_eq!(rig.agents[0].flows().iter().map(Entry::closed).collect::<Vec<_>>(), [[false; 2]]);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 10);
    assert_eq!(rig.agents[0].flows().iter().map(Entry::closed).collect::<Vec<_>>(), [[true; 2]]);
}

#[test]
fn a_pod_behind_two_vips_answers_as_the_one_that_was_asked() {
    let mut rig = Rig::new();
    let other: IpAddr = "10.77.0.101".parse().unwrap();
    rig.lan.announce(other, 0);
    rig.change(|n, wanted| {
        let pods = [socket(pod_v4(1), 8080)];
        for vip in [vip4(), other] {
            serve(wanted, vip, Protocol::Tcp, &[0], if n == 0 { &pods } else { &[] });
        }
    });
    for vip in [vip4(), other, vip4(), other] {
        assert!(visit(&rig, socket(vip, 80)).starts_with("one"));
        rig.agents[0].edit_flows(unclosed);
    }
}

#[test]
fn connections_from_one_port_through_several_vips_to_one_pod_live_side_by_side() {
    let mut rig = Rig::new();
    let vips: Vec<IpAddr> = (0..4).map(|n| IpAddr::from([10, 77, 0, 100 + n])).collect();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        rig.change(|n, wanted| {
            let pods = [socket(pod_v4(1), 8080)];
            for vip in &vips {
                serve(wanted, *vip, protocol, &[0], if n == 0 { &pods } else { &[] });
            }
        });
    }
    vips.iter().for_each(|vip| rig.lan.announce(*vip, 0));
    let open = |vip: &IpAddr| {
        let mut stream = connect_from(&rig.lan.client, PORT, socket(*vip, 80)).unwrap();
        assert_eq!(greeting(&mut stream), "one 10.77.0.9");
        stream
    };
    let mut streams: Vec<_> = vips.iter().map(open).collect();
    // Each packet more than a second after the one before makes sure of its flow's replies.
    for _ in 0..2 {
        rig.agents[0].edit_flows(|entry| entry.age(2));
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 12));
    }
    let udp = rig.lan.client.run(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    for vip in vips.iter().chain(&vips) {
        assert_eq!(ask(&udp, socket(*vip, 80)), "one 10.77.0.9");
    }
    assert_eq!(rig.drops(0, DropReason::ClientPort), 0);
    let known_by = |entry: &Entry| Grant::from_word(entry.flow.grant).client_port;
    let ports: BTreeSet<_> = rig.agents[0].flows().iter().map(known_by).collect();
    assert_eq!((rig.agents[0].flows().len(), ports.contains(&PORT.to_be_bytes())), (8, true));
    assert!(ports.len() >= 4, "{ports:?}");
    // A port is the client's own again once the connection that had it is over.
    streams.into_iter().for_each(reset);
    rig.agents[0].edit_flows(|entry| entry.age(61));
    echo(&mut open(&vips[3]), 1 << 12);
    let own = rig.agents[0].flows().iter().filter(|entry| known_by(entry) == PORT.to_be_bytes()).count();
    assert!(own >= 2, "that of the VIP asked first, which is over, and this one");
}

#[test]
fn a_repeated_syn_is_counted_once() {
    let mut rig = Rig::new();
    // Nobody has this address, so nobody answers.
    rig.change(|_, wanted| serve(wanted, vip4(), Protocol::Tcp, &[0], &[socket([10, 77, 101, 99].into(), 8080)]));
    let syn = frames::tcp(40_000, 80, 2);
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    let frame = frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload: syn }.bytes();
    frames::send(&rig.lan.client, &[frame.clone(), frame]);
    let inbound = || {
        let counters = rig.agents[0].counters();
        let mut traffic = counters.traffic.into_iter();
        traffic.find(|((labels, way), _)| labels.protocol == Protocol::Tcp && *way == Direction::Inbound).unwrap().1
    };
    eventually("both have come", || inbound().packets == 2);
    assert_eq!(inbound().flows, 1);
}

#[test]
fn a_connection_past_the_vip_is_answered_by_the_pod_itself() {
    let mut rig = Rig::new();
    let own: SocketAddr = "10.77.0.12:9090".parse().unwrap();
    tcp_server(&rig.lan.nodes[1], own, "host");
    rig.change(|n, wanted| {
        serve(wanted, vip4(), Protocol::Tcp, &[1], if n == 1 { std::slice::from_ref(&own) } else { &[] });
    });
    for to in [socket(vip4(), 80), own] {
        assert!(visit(&rig, to).starts_with("host"));
    }
}

#[test]
fn a_pods_own_connection_from_its_service_port_keeps_its_source() {
    let mut rig = Rig::new();
    let pod = socket(pod_v4(1), 8082);
    rig.change(|n, wanted| {
        serve(wanted, vip4(), Protocol::Tcp, &[0], if n == 0 { std::slice::from_ref(&pod) } else { &[] });
    });
    rig.lan.client.ip("route add 10.77.101.0/24 via 10.77.0.11");
    assert!(connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).is_err(), "nobody listens there");
    let client = SocketAddr::from(([10, 77, 0, 9], PORT));
    let listener = rig.lan.client.run(|| TcpListener::bind(client).unwrap());
    let _stream = connect_from(&rig.lan.pods[0], 8082, client).unwrap();
    assert_eq!(listener.accept().unwrap().1, pod);
}

#[test]
fn a_pods_datagrams_are_its_own_when_the_client_has_long_been_silent() {
    let mut rig = Rig::new();
    let pod = socket(pod_v4(1), 8080);
    rig.change(|n, wanted| {
        serve(wanted, vip4(), Protocol::Udp, &[0], if n == 0 { std::slice::from_ref(&pod) } else { &[] });
    });
    rig.lan.client.ip("route add 10.77.101.0/24 via 10.77.0.11");
    let udp = rig.lan.client.run(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    ask(&udp, socket(vip4(), 80));
    rig.agents[0].edit_flows(|entry| entry.age(181));
    ask(&udp, pod);
    ask(&udp, socket(vip4(), 80));
}

#[test]
fn replies_that_were_forgotten_are_known_again_within_a_second() {
    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    rig.agents[0].edit_flows(|entry| {
        entry.state = entry.state.with(0, State::REVERSE);
        entry.age(2);
    });
    echo(&mut stream, 1 << 12);
}

/// As many half-open connections as the table has room for ten times over, and one that is in use.
#[test]
fn a_flood_of_opening_packets_pushes_out_itself_and_no_connection_in_use() {
    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    // Nobody has this address, so nobody answers the flood.
    let other: IpAddr = "10.77.0.101".parse().unwrap();
    rig.change(|_, wanted| serve(wanted, other, Protocol::Tcp, &[0], &[socket([10, 77, 101, 99].into(), 8080)]));
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(other));
    let syn = |port| {
        let payload = frames::tcp(port, 80, 2);
        frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload }.bytes()
    };
    let flood: Vec<Vec<u8>> = (1024..1024 + 10 * MIN_FLOWS as u16).map(syn).collect();
    frames::send(&rig.lan.client, &flood);
    let pushed_out = || rig.agents[0].counters().evictions;
    eventually("the table is full", || pushed_out()[&Eviction::HalfOpen] > u64::from(8 * MIN_FLOWS));
    assert_eq!(pushed_out()[&Eviction::Quiet], 0);
    assert_eq!(rig.agents[0].flows().len(), MIN_FLOWS as usize);
    let own = |entry: &Entry| entry.flow.client_port == PORT.to_be_bytes() && !entry.state.has(State::HALF_OPEN);
    assert_eq!(rig.agents[0].flows().iter().filter(|entry| own(entry)).count(), 1);
    echo(&mut stream, 1 << 14);
}

#[test]
fn where_only_connections_in_use_lie_a_newcomer_is_dropped_and_counted() {
    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    rig.agents[0].fill(|state| state.with(State::FORWARD | State::TCP, 0));
    let dropped = rig.drops(0, DropReason::FlowTable);
    let to = rig.lan.nodes[0].mac("eth0");
    let payload = frames::tcp(1024, 80, 2);
    let syn = frames::V4 { to, vip: frames::as_v4(vip4()), protocol: 6, ttl: 64, fragment: 0, payload }.bytes();
    frames::send(&rig.lan.client, &[syn]);
    eventually("dropped", || rig.drops(0, DropReason::FlowTable) == dropped + 1);
    echo(&mut stream, 1 << 14);
}

#[test]
fn a_successor_with_another_number_of_flows_starts_and_connections_go_on() {
    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    let wanted = rig.wanted[0].clone();
    rig.agents[0].restart_with(&rig.lan.nodes[0], 2 * MIN_FLOWS);
    rig.agents[0].apply(&rig.lan.nodes[0], &wanted);
    echo(&mut stream, 1 << 14);
    assert_eq!(rig.agents[0].pins_of("flows").len(), 1, "what nobody can use is removed");
}
