//! Backends that cannot answer past the client's own way: reached by full NAT, through a gateway.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use announcer::{forward::wanted::Socket, model::Protocol};
use forwarder_ebpf::{DropReason, Grant, Message, UDP, table::State};

use crate::{
    Rig, eventually,
    lan::{Far, Host, socket},
    rig::{Agent, ask, connect, echo, serve, tcp_server, udp_server, vip4, vip6},
};

/// The node that carries the backends; the VIPs' owner is the other.
const GATEWAY: usize = 1;

fn own(v4: bool) -> IpAddr {
    if v4 { "10.77.0.12" } else { "fd77::12" }.parse().unwrap()
}

/// Both VIPs are served by these backends alone, which the gateway carries.
fn carry(rig: &mut Rig, backends: [SocketAddr; 2]) {
    rig.change(|n, wanted| {
        for backend in backends {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let v4 = backend.is_ipv4();
                let vip = if v4 { vip4() } else { vip6() };
                serve(
                    wanted,
                    vip,
                    protocol,
                    &[GATEWAY],
                    if n == GATEWAY { std::slice::from_ref(&backend) } else { &[] },
                );
                if n == GATEWAY {
                    let targets = wanted.services.get_mut(&Socket { vip, port: 80, protocol }).unwrap();
                    targets.translated.insert((backend.ip(), backend.port()), own(v4));
                }
            }
        }
    });
}

fn servers(host: &Host, at: [&str; 2], who: &'static str) -> [SocketAddr; 2] {
    at.map(|address| {
        let server = socket(address.parse().unwrap(), 8080);
        tcp_server(host, server, who);
        udp_server(host, server, who);
        server
    })
}

/// Two nodes, and a backend on their segment that has no agent.
fn with_neighbour() -> (Rig, Host) {
    let mut rig = Rig::new();
    let host = rig.lan.neighbour(60);
    let backends = servers(&host, ["10.77.0.60", "fd77::60"], "neighbour");
    carry(&mut rig, backends);
    (rig, host)
}

fn udp(host: &Host, v4: bool) -> UdpSocket {
    host.run(|| UdpSocket::bind(if v4 { "0.0.0.0:0" } else { "[::]:0" }).unwrap())
}

fn nothing_dropped(rig: &Rig) {
    for agent in &rig.agents {
        let counters = agent.counters();
        assert!(counters.drops.values().all(|&count| count == 0), "{:?}", counters.drops);
    }
}

#[test]
fn a_backend_on_the_segment_without_an_agent_is_served_and_sees_its_gateway() {
    let (rig, _host) = with_neighbour();
    for vip in [vip4(), vip6()] {
        let expected = format!("neighbour {}", own(vip.is_ipv4()));
        let mut streams: Vec<TcpStream> = Vec::new();
        for _ in 0..8 {
            let (stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
            assert_eq!(greeting, expected);
            streams.push(stream);
            assert_eq!(ask(&udp(&rig.lan.client, vip.is_ipv4()), socket(vip, 80)), expected);
        }
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 20));
    }
    nothing_dropped(&rig);
    let entries = rig.agents[GATEWAY].flows();
    let answered = entries.iter().filter(|entry| entry.flow.protocol == UDP && !entry.state.has(State::HALF_OPEN));
    assert_eq!(answered.count(), 16, "their clients' entries know that they are answered");
}

#[test]
fn checksums_of_translated_packets_are_right_whoever_fills_them_in() {
    let (rig, host) = with_neighbour();
    for software in [&[&host, &rig.lan.client][..], &[&rig.lan.nodes[0], &rig.lan.nodes[GATEWAY]]] {
        software.iter().for_each(|host| host.checksum_in_software("eth0"));
        for vip in [vip4(), vip6()] {
            echo(&mut connect(&rig.lan.client, socket(vip, 80)).0, 1 << 20);
            ask(&udp(&rig.lan.client, vip.is_ipv4()), socket(vip, 80));
        }
    }
    nothing_dropped(&rig);
}

/// A backend behind a router, on whose way there only smaller packets pass than the client knows of.
fn with_far_backend(mtu: u16) -> (Rig, Far) {
    let mut rig = Rig::new();
    let far = rig.lan.far_client(mtu);
    let backends = servers(&far.client, ["10.99.0.9", "fd99::9"], "far");
    carry(&mut rig, backends);
    (rig, far)
}

#[test]
fn a_backend_behind_a_router_is_served_and_clients_learn_what_size_passes_to_it() {
    let (rig, _far) = with_far_backend(1300);
    for vip in [vip4(), vip6()] {
        let (mut stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
        assert_eq!(greeting, format!("far {}", own(vip.is_ipv4())));
        echo(&mut stream, 4 << 20);
        let udp = udp(&rig.lan.client, vip.is_ipv4());
        assert!(ask(&udp, socket(vip, 80)).starts_with("far"));
    }
    assert!(rig.agents[GATEWAY].counters().messages[&Message::Error] > 0, "the router said what is too big");
    nothing_dropped(&rig);
}

#[test]
fn a_translated_backend_learns_what_size_passes_to_the_client() {
    let (rig, _host) = with_neighbour();
    let far = rig.lan.far_client(1300);
    for vip in [vip4(), vip6()] {
        far.announce(vip, rig.lan.nodes[0].mac("eth0"));
        let (mut stream, greeting) = connect(&far.client, socket(vip, 80));
        assert_eq!(greeting, format!("neighbour {}", own(vip.is_ipv4())));
        echo(&mut stream, 4 << 20);
    }
    assert!(rig.agents[GATEWAY].counters().messages[&Message::Error] > 0, "the router said what is too big");
}

#[test]
fn a_client_hears_that_a_translated_backend_has_no_such_port() {
    let (mut rig, host) = with_neighbour();
    carry(&mut rig, ["10.77.0.60:9", "[fd77::60]:9"].map(|closed| closed.parse().unwrap()));
    for vip in [vip4(), vip6()] {
        let asking = udp(&rig.lan.client, vip.is_ipv4());
        asking.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        asking.connect(socket(vip, 80)).unwrap();
        asking.send(b"anyone?").unwrap();
        assert_eq!(asking.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let refused = rig.lan.client.run(|| TcpStream::connect_timeout(&socket(vip, 80), Duration::from_secs(3)));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    drop(host);
}

#[test]
fn connections_to_a_translated_backend_survive_another_owner_and_a_restart_of_the_gateway() {
    let (mut rig, _host) = with_neighbour();
    let mut streams = [vip4(), vip6()].map(|vip| connect(&rig.lan.client, socket(vip, 80)).0);
    for owner in [GATEWAY, 0] {
        rig.lan.announce(vip4(), owner);
        rig.lan.announce(vip6(), owner);
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 18));
    }
    rig.agents[GATEWAY].restart(&rig.lan.nodes[GATEWAY]);
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 16));
    // The backend is no longer wanted, and what it says to the gateway belongs to its connections all the same.
    rig.change(|_, wanted| wanted.services.values_mut().for_each(|targets| targets.translated.clear()));
    rig.change(|_, wanted| wanted.services.values_mut().for_each(|targets| targets.local.clear()));
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 16));
}

#[test]
fn another_gateway_leaves_connections_where_they_are() {
    let (mut rig, _host) = with_neighbour();
    let mut streams = [vip4(), vip6()].map(|vip| connect(&rig.lan.client, socket(vip, 80)).0);
    rig.change(|n, wanted| {
        for (socket, targets) in &mut wanted.services {
            targets.nodes = [(crate::rig::name(0), 1)].into();
            let backend: IpAddr = if socket.vip.is_ipv4() { "10.77.0.60" } else { "fd77::60" }.parse().unwrap();
            let other: IpAddr = if socket.vip.is_ipv4() { "10.77.0.11" } else { "fd77::11" }.parse().unwrap();
            let here = n == 0;
            targets.local = here.then_some(((backend, 8080), 1)).into_iter().collect();
            targets.translated = here.then_some(((backend, 8080), other)).into_iter().collect();
        }
    });
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 18));
    assert_eq!(connect(&rig.lan.client, socket(vip4(), 80)).1, "neighbour 10.77.0.11");
}

#[test]
fn without_a_free_port_a_connection_is_dropped_and_counted_and_those_that_are_there_go_on() {
    let (mut rig, _host) = with_neighbour();
    rig.agents[GATEWAY] = Agent::start_with_ports(&rig.lan.nodes[GATEWAY], 20_000..=20_003);
    rig.change(|_, _| {});
    let to = socket(vip4(), 80);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(&rig.lan.client, to).0).collect();
    let ports: BTreeSet<u16> = rig.agents[GATEWAY]
        .flows()
        .iter()
        .map(|entry| u16::from_be_bytes(Grant::from_word(entry.flow.grant).client_port))
        .collect();
    assert!(ports.into_iter().eq(20_000..=20_003));
    let late = rig.lan.client.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(rig.drops(GATEWAY, DropReason::NatPort) > 0);
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 16));
    assert_eq!(
        connect(&rig.lan.client, socket(vip6(), 80)).1,
        "neighbour fd77::12",
        "another backend's socket has its own"
    );
    assert!(ask(&udp(&rig.lan.client, true), to).starts_with("neighbour"), "and so has another protocol");
    drop(streams.pop());
    eventually("the port is used again", || {
        rig.lan.client.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(500))).is_ok()
    });
}

#[test]
fn the_gateways_own_connections_to_a_backend_are_its_own() {
    let (rig, _host) = with_neighbour();
    for vip in [vip4(), vip6()] {
        let v4 = vip.is_ipv4();
        let (mut stream, _) = connect(&rig.lan.client, socket(vip, 80));
        let backend = socket(if v4 { "10.77.0.60" } else { "fd77::60" }.parse().unwrap(), 8080);
        let (mut direct, greeting) = connect(&rig.lan.nodes[GATEWAY], backend);
        assert_eq!(greeting, format!("neighbour {}", own(v4)));
        // From a port of the range as well, as long as no connection of a client's has it.
        let from = rig.lan.nodes[GATEWAY].run(|| UdpSocket::bind(socket(own(v4), 12_345)).unwrap());
        assert_eq!(ask(&from, backend), format!("neighbour {}", own(v4)));
        echo(&mut direct, 1 << 18);
        echo(&mut stream, 1 << 18);
    }
}
