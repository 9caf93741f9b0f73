//! Pings of VIPs, and errors about their connections.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use announcer::{forward::wanted::Socket, model::Protocol};
use forwarder_ebpf::{DropReason, Message};
use nix::sys::socket::{self as sys, AddressFamily, SockFlag, SockProtocol, SockType};

use crate::{
    Rig, eventually,
    frames::{self, icmp, icmp_error, udp_datagram},
    lan::{Host, pod_v4, pod_v6, socket},
    rig::{connect, echo, name, serve, vip4, vip6},
};

fn messages(rig: &Rig, node: usize, message: Message) -> u64 {
    rig.agents[node].counters().messages[&message]
}

/// Pings three times with so many bytes, not to be fragmented: all is answered, once.
fn ping(host: &Host, to: IpAddr, bytes: usize) {
    let (to, bytes) = (to.to_string(), bytes.to_string());
    let arguments = ["-n", "-c", "3", "-i", "0.01", "-W", "3", "-M", "do", "-s", &bytes, &to];
    let output = host.run(|| Command::new("ping").args(arguments).output().unwrap());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("DUP") && !text.contains("wrong"), "{text}");
    assert_eq!(text.matches("ttl=").count(), text.matches("ttl=64").count(), "{text}");
}

#[test]
fn a_ping_of_a_vip_is_answered_by_the_node_that_gets_it_up_to_the_mtu() {
    let mut rig = Rig::new();
    // Also where no pod is.
    rig.change(|_, wanted| wanted.services.clear());
    for (vip, largest) in [(vip4(), 1500 - 28), (vip6(), 1500 - 48)] {
        for node in [0, 1] {
            rig.lan.announce(vip, node);
            let before = [messages(&rig, 0, Message::EchoReply), messages(&rig, 1, Message::EchoReply)];
            for bytes in [0, 1, 56, largest] {
                ping(&rig.lan.client, vip, bytes);
            }
            assert_eq!(messages(&rig, node, Message::EchoReply), before[node] + 12);
            assert_eq!(messages(&rig, 1 - node, Message::EchoReply), before[1 - node]);
        }
    }
    let counters = rig.agents[0].counters();
    assert!(counters.drops.values().all(|&count| count == 0), "{:?}", counters.drops);
}

#[test]
fn a_ping_is_answered_while_no_agent_runs() {
    let mut rig = Rig::new();
    rig.agents[0].kill();
    for vip in [vip4(), vip6()] {
        ping(&rig.lan.client, vip, 56);
    }
}

#[test]
fn a_ping_for_another_mac_or_from_nobody_is_not_answered() {
    let rig = Rig::new();
    let (vip, own) = (frames::as_v4(vip4()), rig.lan.nodes[0].mac("eth0"));
    let request =
        |to| frames::V4 { to, vip, protocol: 1, ttl: 64, fragment: 0, payload: icmp([8, 0], &[1; 8]) }.bytes();
    let from_all = frames::from_v4(request(own), [224, 0, 0, 1]);
    let from_nobody = frames::from_v4(request(own), [0; 4]);
    frames::send(&rig.lan.client, &[request([2, 0, 0, 0, 0, 77]), from_all, from_nobody, request(own)]);
    eventually("the last is answered", || messages(&rig, 0, Message::EchoReply) > 0);
    assert_eq!(messages(&rig, 0, Message::EchoReply), 1);
    assert_eq!(rig.drops(0, DropReason::Malformed), 2);
}

/// Only the second node's pod serves, on this port; the VIPs have a second port that leads to it, too.
fn serve_from_the_second(rig: &mut Rig, protocol: Protocol, port: u16) {
    rig.change(|n, wanted| {
        for (vip, pod) in [(vip4(), pod_v4(2)), (vip6(), pod_v6(2))] {
            let pods = [socket(pod, port)];
            serve(wanted, vip, protocol, &[1], if n == 1 { &pods } else { &[] });
        }
        wanted.services.retain(|socket, _| socket.port == 80);
        for (socket, targets) in wanted.services.clone() {
            wanted.services.insert(Socket { port: 81, ..socket }, targets);
        }
    });
}

/// Every ICMP message that the pod gets.
fn listen(pod: &Host, v4: bool) -> UdpSocket {
    let (family, protocol) =
        if v4 { (AddressFamily::Inet, SockProtocol::Icmp) } else { (AddressFamily::Inet6, SockProtocol::IcmpV6) };
    let raw = pod.run(|| sys::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap());
    let raw = UdpSocket::from(raw);
    raw.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    raw
}

/// The ICMP error that the pod gets next.
fn next_error(raw: &UdpSocket, v4: bool) -> Vec<u8> {
    let mut buffer = [0; 2048];
    loop {
        let read = raw.recv(&mut buffer).unwrap();
        let message = &buffer[if v4 { 20 } else { 0 }..read];
        if message[0] == if v4 { 3 } else { 1 } {
            return message.to_vec();
        }
    }
}

/// Both the VIP's ports are known to the pod as one client's, so by two ports of the client's.
#[test]
fn an_error_reaches_the_pod_it_is_about_and_quotes_what_the_pod_has_sent() {
    let mut rig = Rig::new();
    let to = rig.lan.nodes[0].mac("eth0");
    for (vip, pod, any) in [(vip4(), pod_v4(2), "0.0.0.0:0"), (vip6(), pod_v6(2), "[::]:0")] {
        serve_from_the_second(&mut rig, Protocol::Udp, 9000);
        let v4 = vip.is_ipv4();
        let client: IpAddr = if v4 { "10.77.0.9" } else { "fd77::9" }.parse().unwrap();
        let server = rig.lan.pods[1].run(|| UdpSocket::bind(socket(pod, 9000)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let raw = listen(&rig.lan.pods[1], v4);
        let ours = rig.lan.client.run(|| UdpSocket::bind(any).unwrap());
        let our_port = ours.local_addr().unwrap().port();
        let mut known_by = Vec::new();
        for port in [80, 81] {
            ours.send_to(b"who?", socket(vip, port)).unwrap();
            known_by.push((port, server.recv_from(&mut [0; 64]).unwrap().1.port()));
        }
        assert_ne!(known_by[0].1, known_by[1].1);
        for serving in [1, 0] {
            // Also when new connections go to another node.
            rig.change(|_, wanted| {
                wanted.services.values_mut().for_each(|targets| targets.nodes = [(name(serving), 1)].into());
            });
            for (port, client_port) in &known_by {
                for whole in [true, false] {
                    let quoted = |from, to, checked| udp_datagram(from, to, b"who are you?", checked);
                    let sent = quoted(socket(vip, *port), socket(client, our_port), whole);
                    let expected = quoted(socket(pod, 9000), socket(client, *client_port), whole);
                    frames::send(&rig.lan.client, &[frames::packet(to, vip, &icmp_error(client, vip, &sent))]);
                    assert_eq!(next_error(&raw, v4), icmp_error(client, pod, &expected));
                }
            }
        }
        assert_eq!(messages(&rig, 0, Message::Error), 0);
    }
    assert_eq!(messages(&rig, 1, Message::Error), 16);
}

#[test]
fn an_error_about_no_known_connection_is_dropped_and_counted() {
    let mut rig = Rig::new();
    serve_from_the_second(&mut rig, Protocol::Udp, 9000);
    let to = rig.lan.nodes[0].mac("eth0");
    for (vip, client) in [(vip4(), "10.77.0.9"), (vip6(), "fd77::9")] {
        let client: IpAddr = client.parse().unwrap();
        // Of a service: where its flow would be. Of no service, of another address: where it arrives.
        for (node, from) in [(1, socket(vip, 80)), (0, socket(vip, 82)), (0, socket(client, 80))] {
            let before = rig.drops(node, DropReason::StrayError);
            let sent = udp_datagram(from, socket(client, 4000), b"hm", true);
            frames::send(&rig.lan.client, &[frames::packet(to, vip, &icmp_error(client, vip, &sent))]);
            eventually("it is counted", || rig.drops(node, DropReason::StrayError) == before + 1);
        }
    }
}

/// Answers with a datagram as large as the path to the client is known to take.
fn serve_large_datagrams(pod: &Host, at: SocketAddr) {
    let server = pod.run(|| UdpSocket::bind(at).unwrap());
    let (level, option) = if at.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    let never_fragment = libc::IP_PMTUDISC_DO;
    let size = size_of_val(&never_fragment) as libc::socklen_t;
    // SAFETY: the value is an int that lives until the call returns.
    let done = unsafe { libc::setsockopt(server.as_raw_fd(), level, option, (&raw const never_fragment).cast(), size) };
    assert_eq!(done, 0);
    thread::spawn(move || {
        while let Ok((_, peer)) = server.recv_from(&mut [0; 64]) {
            let _ = server.send_to(&[1; 1400], peer).or_else(|_| server.send_to(&[2; 1000], peer));
        }
    });
}

#[test]
fn pods_behind_another_node_than_the_owner_learn_the_mtu_of_a_clients_path() {
    let mut rig = Rig::new();
    serve_from_the_second(&mut rig, Protocol::Tcp, 8080);
    serve_from_the_second(&mut rig, Protocol::Udp, 9000);
    let far = rig.lan.far_client(1300);
    for (vip, pod) in [(vip4(), pod_v4(2)), (vip6(), pod_v6(2))] {
        far.announce(vip, rig.lan.nodes[0].mac("eth0"));
        let before = messages(&rig, 1, Message::Error);
        let (mut stream, greeting) = connect(&far.client, socket(vip, 80));
        assert!(greeting.starts_with("two"));
        echo(&mut stream, 1 << 18);
        assert!(messages(&rig, 1, Message::Error) > before, "the path's MTU was not too small at first");
        drop(stream);
        // What the pod's host has learned is forgotten, so that the datagrams have to learn it themselves.
        rig.lan.pods[1].ip(if vip.is_ipv4() { "route flush cache" } else { "-6 route flush cache" });
        datagrams_arrive(&rig, &far.client, vip, pod);
    }
    assert!(messages(&rig, 0, Message::Error) == 0 && rig.drops(1, DropReason::StrayError) == 0);
}

/// The client asks until it gets an answer, which is as large as its path takes.
fn datagrams_arrive(rig: &Rig, client: &Host, vip: IpAddr, pod: IpAddr) {
    serve_large_datagrams(&rig.lan.pods[1], socket(pod, 9000));
    let before = messages(rig, 1, Message::Error);
    let asks = client.run(|| UdpSocket::bind(if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
    asks.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 2048];
    let read = loop {
        asks.send_to(b"?", socket(vip, 80)).unwrap();
        match asks.recv(&mut buffer) {
            Ok(read) => break read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(Instant::now() < deadline, "no answer from {vip}");
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((read, buffer[0]), (1000, 2));
    assert!(messages(rig, 1, Message::Error) > before);
}
