//! Datagrams that are larger than the MTU: both ways, whoever puts them together on the way.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use announcer::model::Protocol;
use forwarder_ebpf::{Direction, DropReason};

use crate::{
    Rig, eventually, frames,
    lan::{Host, pod_v4, pod_v6, socket},
    rig::{serve_at, vip4, vip6},
};

/// Bytes of a datagram: six fragments.
const LARGE: usize = 8000;
/// The port of QUIC, whose packets are searched for.
const PORT: u16 = 443;

/// Answers each datagram with its number of bytes, beginning with who it is.
fn large_server(host: &Host, address: SocketAddr, who: &'static str) {
    let socket = host.run(|| UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((read, peer)) = socket.recv_from(&mut buffer) {
            buffer[..who.len()].copy_from_slice(who.as_bytes());
            let _ = socket.send_to(&buffer[..read], peer);
        }
    });
}

/// Every node has such a server; all serve.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for (n, who) in ["one", "two"].into_iter().enumerate() {
        for pod in [pod_v4(n as u8 + 1), pod_v6(n as u8 + 1)] {
            large_server(&rig.lan.pods[n], socket(pod, 9090), who);
        }
    }
    serve_from(&mut rig, &[0, 1]);
    rig
}

fn serve_from(rig: &mut Rig, nodes: &[usize]) {
    rig.change(|n, wanted| {
        for (vip, pod) in [(vip4(), pod_v4(n as u8 + 1)), (vip6(), pod_v6(n as u8 + 1))] {
            serve_at(wanted, vip, PORT, Protocol::Udp, nodes, &[socket(pod, 9090)]);
        }
    });
}

fn client(rig: &Rig, vip: IpAddr) -> UdpSocket {
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let udp = rig.lan.client.run(|| UdpSocket::bind(any).unwrap());
    udp.connect(socket(vip, PORT)).unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    udp
}

/// Sends so many bytes, which look like QUIC's of a connection that has begun; who sends them back.
fn ask(udp: &UdpSocket, bytes: usize) -> String {
    let sent: Vec<u8> = (0..bytes).map(|n| 0x40 | (n % 61) as u8).collect();
    udp.send(&sent).unwrap();
    let mut back = vec![0; 1 << 16];
    let read = udp.recv(&mut back).unwrap();
    assert!(back[3..read] == sent[3..], "{read} of {bytes} bytes came back, or changed");
    String::from_utf8_lossy(&back[..3]).into_owned()
}

fn large_datagrams_reach_both_pods_and_come_back(rig: &Rig) {
    for vip in [vip4(), vip6()] {
        let who: BTreeSet<String> = (0..16).map(|_| ask(&client(rig, vip), LARGE)).collect();
        assert_eq!(who.len(), 2, "{who:?}");
        let udp = client(rig, vip);
        let first = ask(&udp, 3);
        for bytes in [LARGE, 1472, 1473, 60_000, 1452, 1453] {
            assert_eq!(ask(&udp, bytes), first, "the flow is known");
        }
    }
    for agent in &rig.agents {
        let drops = agent.counters().drops;
        assert!(drops.values().all(|&count| count == 0), "{drops:?}");
    }
}

#[test]
fn datagrams_in_fragments_reach_pods_on_both_nodes_and_come_back_unharmed() {
    let rig = rig();
    large_datagrams_reach_both_pods_and_come_back(&rig);
    let counted = |n: usize, way: Direction| -> u64 {
        let counters = rig.agents[n].counters();
        let traffic = counters.traffic.iter().filter(|((labels, other), _)| labels.port == PORT && *other == way);
        traffic.map(|(_, traffic)| traffic.packets).sum()
    };
    for n in [0, 1] {
        let (inbound, outbound) = (counted(n, Direction::Inbound), counted(n, Direction::Outbound));
        assert_eq!(inbound, outbound, "each fragment is counted, both ways");
    }
}

/// Connection tracking puts datagrams together, and they are taken apart again.
#[test]
fn nodes_that_put_datagrams_together_in_between_carry_them_as_well() {
    let rig = rig();
    for (n, node) in rig.lan.nodes.iter().enumerate() {
        let rules = "add table inet t; add chain inet t c { type filter hook forward priority 0; }; \
                     add rule inet t c ct state invalid drop";
        let done = node.run(|| Command::new("nft").arg(rules).output());
        match done {
            Ok(output) if output.status.success() => {}
            other => return println!("skipped: node {n} has no connection tracking: {other:?}"),
        }
    }
    large_datagrams_reach_both_pods_and_come_back(&rig);
}

#[test]
fn fragments_of_a_flow_that_has_to_be_searched_for_follow_it() {
    let mut rig = rig();
    for vip in [vip4(), vip6()] {
        serve_from(&mut rig, &[0, 1]);
        let mut sockets = (0..64).map(|_| client(&rig, vip));
        let udp = sockets.find(|udp| ask(udp, 3) == "two").unwrap();
        serve_from(&mut rig, &[0]);
        let before = rig.agents[0].counters().second_hops;
        assert_eq!(ask(&udp, LARGE), "two");
        assert!(rig.agents[0].counters().second_hops > before);
    }
}

#[test]
fn a_fragment_whose_first_was_not_carried_is_dropped() {
    let rig = rig();
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    let v4 = |fragment, payload: Vec<u8>| frames::V4 { to, vip, protocol: 17, ttl: 64, fragment, payload }.bytes();
    let later = || v4(0x0003, vec![7; 64]);
    let dropped = |reason| rig.drops(0, reason);
    let send = |frame: Vec<u8>| frames::send(&rig.lan.client, &[frame]);
    send(later());
    eventually("alone", || dropped(DropReason::Fragment) == 1);
    let first = |port: u16| v4(0x2000, [frames::udp(port), vec![1; 12]].concat());
    send(first(PORT));
    send(later());
    let carried = || -> u64 {
        let counted = |n: usize| rig.agents[n].counters();
        let inbound = |n| {
            counted(n)
                .traffic
                .iter()
                .filter(|((_, way), _)| *way == Direction::Inbound)
                .map(|(_, t)| t.packets)
                .sum::<u64>()
        };
        inbound(0) + inbound(1)
    };
    eventually("behind its first", || carried() == 2);
    // The same datagram's number, for a port that is not there.
    send(first(82));
    eventually("no service", || dropped(DropReason::NoService) == 1);
    send(later());
    eventually("behind one that was dropped", || dropped(DropReason::Fragment) == 2);
    // RFC 7112 for IPv6; RFC 1858 for IPv4.
    send(v4(0x2000, vec![0; 7]));
    send(frames::v6(to, frames::as_v6(vip6()), 44, &[17, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]));
    eventually("too short to have ports", || dropped(DropReason::Malformed) == 2);
    assert_eq!(carried(), 2);
}
