//! Slots that move several times in a row, and tables that disagree: connections go on, and nothing circles.

use std::net::{TcpStream, UdpSocket};

use announcer::model::Protocol;
use forwarder_ebpf::{Direction, DropReason};

use crate::{
    Rig, eventually, frames,
    lan::{pod_v4, pod_v6, socket},
    rig::{connect, echo, serve, vip4, vip6},
};

/// All nodes' tables give all slots to the nodes `serving`; every node's pod stays known to it.
fn serve_everywhere(rig: &mut Rig, serving: &[usize]) {
    for n in 0..rig.agents.len() {
        serve_as_seen_by(rig, n, serving);
    }
}

/// The same in the eyes of one node.
fn serve_as_seen_by(rig: &mut Rig, n: usize, serving: &[usize]) {
    for (vip, pod) in [(vip4(), pod_v4(n as u8 + 1)), (vip6(), pod_v6(n as u8 + 1))] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            serve(&mut rig.wanted[n], vip, protocol, serving, &[socket(pod, 8080)]);
        }
    }
    rig.agents[n].apply(&rig.lan.nodes[n], &rig.wanted[n]);
}

fn connections(rig: &Rig, count: usize) -> Vec<TcpStream> {
    let both = [vip4(), vip6()].into_iter().cycle().take(count);
    both.map(|vip| connect(&rig.lan.client, socket(vip, 80)).0).collect()
}

fn second_hops(rig: &Rig) -> u64 {
    rig.agents.iter().map(|agent| agent.counters().second_hops).sum()
}

#[test]
fn connections_survive_three_moves_of_their_slots_in_a_row_and_two_changes_of_the_owner() {
    let mut rig = Rig::of(4);
    let mut streams = Vec::new();
    for serving in [1, 2, 3] {
        serve_everywhere(&mut rig, &[serving]);
        streams.extend(connections(&rig, 4));
    }
    serve_everywhere(&mut rig, &[0]);
    let before = second_hops(&rig);
    for owner in [0, 2, 1, 3] {
        rig.lan.announce(vip4(), owner);
        rig.lan.announce(vip6(), owner);
        for stream in &mut streams {
            echo(stream, 1 << 13);
        }
    }
    assert!(second_hops(&rig) > before + 12, "the oldest are three nodes away from their slots' node");
}

/// Who comes back knows less than the others, and they have had the slots at other times.
#[test]
fn connections_survive_a_node_that_returns_and_sees_only_the_owner() {
    let mut rig = Rig::of(3);
    for serving in [1, 2] {
        serve_as_seen_by(&mut rig, 1, &[serving]);
        serve_as_seen_by(&mut rig, 2, &[serving]);
    }
    serve_as_seen_by(&mut rig, 0, &[0]);
    for vip in [vip4(), vip6()] {
        rig.lan.announce(vip, 1);
    }
    let mut streams = connections(&rig, 24);
    for seen in [&[0, 1][..], &[1], &[0]] {
        serve_as_seen_by(&mut rig, 0, seen);
        serve_as_seen_by(&mut rig, 1, &[0]);
        for stream in &mut streams {
            echo(stream, 1 << 12);
        }
    }
}

#[test]
fn connections_survive_a_join_and_a_drain_and_more_pods_while_the_vip_moves() {
    let mut rig = Rig::of(4);
    serve_everywhere(&mut rig, &[0, 1]);
    let mut streams = connections(&rig, 24);
    for (serving, owner) in [(&[0, 1, 2][..], 1), (&[1, 2], 2), (&[1, 2, 3], 3), (&[0, 3], 0)] {
        rig.lan.announce(vip4(), owner);
        rig.lan.announce(vip6(), owner);
        serve_everywhere(&mut rig, serving);
        for stream in &mut streams {
            echo(stream, 1 << 12);
        }
        streams.extend(connections(&rig, 8));
    }
}

#[test]
fn a_client_with_affinity_stays_with_its_pod_through_moves_until_its_time_is_over() {
    let mut rig = Rig::of(4);
    let serve_with = |rig: &mut Rig, serving: &[usize], seconds: u32| {
        for n in 0..4 {
            serve_as_seen_by(rig, n, serving);
            rig.wanted[n].services.values_mut().for_each(|targets| targets.affinity = seconds);
            rig.agents[n].apply(&rig.lan.nodes[n], &rig.wanted[n]);
        }
    };
    let who = |rig: &Rig, vip| connect(&rig.lan.client, socket(vip, 80)).1;
    serve_with(&mut rig, &[0, 1, 2, 3], 600);
    let pods = [vip4(), vip6()].map(|vip| who(&rig, vip));
    let again = |rig: &Rig| (0..6).all(|_| [vip4(), vip6()].map(|vip| who(rig, vip)) == pods);
    assert!(again(&rig), "one pod, from many ports");
    for serving in [&[0, 1][..], &[2, 3], &[1, 2]] {
        serve_with(&mut rig, serving, 600);
        for owner in [1, 3] {
            rig.lan.announce(vip4(), owner);
            rig.lan.announce(vip6(), owner);
            assert!(again(&rig), "{serving:?}, owner {owner}");
        }
    }
    let elsewhere = usize::from(pods[0].starts_with("one"));
    serve_with(&mut rig, &[elsewhere], 1);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_ne!(who(&rig, vip4()), pods[0], "its time is over");
}

/// Who answers a datagram.
fn ask(rig: &Rig, from: &UdpSocket, port: u16, packet: &[u8]) -> String {
    from.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    rig.lan.client.run(|| from.send_to(packet, socket(vip4(), port)).unwrap());
    let mut answer = [0; 64];
    let read = from.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).split(' ').next().unwrap_or_default().to_owned()
}

/// A QUIC packet with a short header, which says nothing but that it is one of a connection.
const SHORT: &[u8] = &[0x43, 1, 2, 3, 4, 5, 6, 7, 8];
/// One with a long header of type Initial, which begins a connection.
const INITIAL: &[u8] = &[0xc3, 0, 0, 0, 1, 0, 0];

#[test]
fn a_quic_connection_stays_with_its_pod_when_its_slot_moves_and_other_udp_moves_along() {
    let mut rig = Rig::of(3);
    let serve_both = |rig: &mut Rig, serving: usize| {
        for n in 0..3 {
            let pod = [socket(pod_v4(n as u8 + 1), 8080)];
            crate::rig::serve_at(&mut rig.wanted[n], vip4(), 443, Protocol::Udp, &[serving], &pod);
        }
        serve_everywhere(rig, &[serving]);
    };
    let client = || UdpSocket::bind("0.0.0.0:0").unwrap();
    let [quic, dns] = [0, 1].map(|_| rig.lan.client.run(client));
    serve_both(&mut rig, 1);
    assert_eq!([ask(&rig, &quic, 443, INITIAL), ask(&rig, &dns, 80, b"who?")], ["two", "two"]);
    for (serving, now) in [(2, "three"), (0, "one")] {
        serve_both(&mut rig, serving);
        assert_eq!(ask(&rig, &quic, 443, SHORT), "two", "it is one of a connection");
        assert_eq!(ask(&rig, &dns, 80, b"who?"), now, "it knows nothing of connections");
        let newcomer = rig.lan.client.run(client);
        assert_eq!(ask(&rig, &newcomer, 443, INITIAL), now);
    }
}

/// The pod is out, but its node still knows it: as when it terminates, or is gone from the service.
#[test]
fn a_quic_connection_stays_with_a_pod_that_takes_no_new_ones_and_other_udp_moves() {
    let mut rig = Rig::of(1);
    let other = socket(pod_v4(1), 8081);
    crate::rig::udp_server(&rig.lan.pods[0], other, "other");
    let serve_both = |rig: &mut Rig, pod| {
        for port in [443, 80] {
            crate::rig::serve_at(&mut rig.wanted[0], vip4(), port, Protocol::Udp, &[0], &[pod]);
        }
        rig.agents[0].apply(&rig.lan.nodes[0], &rig.wanted[0]);
    };
    serve_both(&mut rig, socket(pod_v4(1), 8080));
    let client = || rig.lan.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let [quic, dns, newcomer] = [0, 1, 2].map(|_| client());
    assert_eq!([ask(&rig, &quic, 443, INITIAL), ask(&rig, &dns, 80, b"who?")], ["one", "one"]);
    serve_both(&mut rig, other);
    assert_eq!(ask(&rig, &quic, 443, SHORT), "one", "it is one of a connection");
    assert_eq!(ask(&rig, &dns, 80, b"who?"), "other");
    assert_eq!(ask(&rig, &newcomer, 443, INITIAL), "other");
    assert_eq!(ask(&rig, &quic, 443, INITIAL), "other", "a new connection from its port");
    assert_eq!(ask(&rig, &quic, 443, SHORT), "other");
}

#[test]
fn however_tables_disagree_a_packet_ends_after_few_hops() {
    // Every way in which three nodes may each believe in one of them, after having believed in another.
    let mut rig = Rig::of(3);
    let mut worst = 0;
    for case in (0..27).step_by(2) {
        let believed = [case % 3, case / 3 % 3, case / 9];
        for (n, serving) in believed.into_iter().enumerate() {
            serve_as_seen_by(&mut rig, n, &[(serving + 1) % 3]);
            serve_as_seen_by(&mut rig, n, &[serving]);
        }
        let inbound = |rig: &Rig| packets(rig, Direction::Inbound) + drops(rig);
        let (ended, passed) = (inbound(&rig), packets(&rig, Direction::Forwarded));
        let port = 30_000 + case as u16;
        let acknowledgement = [&port.to_be_bytes()[..], &[0, 80], &[0; 8], &[0x50, 0x10], &[0; 6]].concat();
        let (to, vip) = (rig.lan.nodes[case % 3].mac("eth0"), frames::as_v4(vip4()));
        let frame = frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload: acknowledgement };
        frames::send(&rig.lan.client, &[frame.bytes()]);
        eventually("the packet ends", || inbound(&rig) > ended);
        worst = worst.max(packets(&rig, Direction::Forwarded) - passed);
    }
    assert!((1..=8).contains(&worst), "{worst}");
}

fn packets(rig: &Rig, way: Direction) -> u64 {
    let traffic = rig.agents.iter().flat_map(|agent| agent.counters().traffic);
    traffic.filter(|((_, direction), _)| *direction == way).map(|(_, seen)| seen.packets).sum()
}

fn drops(rig: &Rig) -> u64 {
    DropReason::ALL.iter().map(|reason| (0..rig.agents.len()).map(|n| rig.drops(n, *reason)).sum::<u64>()).sum()
}
