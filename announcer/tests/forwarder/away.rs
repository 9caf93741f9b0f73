//! Mid-flow packets that reach a node without their flow: one that was away, that is new, or that lost its flows.

use std::net::TcpStream;

use announcer::model::Protocol;
use forwarder_ebpf::{Direction, DropReason};

use crate::{
    Rig, connect_to, eventually, frames,
    lan::{pod_v4, pod_v6, socket},
    rig::{Agent, connect, echo, name, serve, vip4, vip6},
};

/// Node `n` serves from these nodes, with its own pods.
fn serve_from(rig: &mut Rig, n: usize, serving: &[usize], standby: &[usize]) {
    for (vip, pod) in [(vip4(), pod_v4(n as u8 + 1)), (vip6(), pod_v6(n as u8 + 1))] {
        serve(&mut rig.wanted[n], vip, Protocol::Tcp, serving, &[socket(pod, 8080)]);
    }
    for targets in rig.wanted[n].services.values_mut() {
        targets.standby = standby.iter().map(|n| (name(*n), 1)).collect();
    }
    rig.agents[n].apply(&rig.lan.nodes[n], &rig.wanted[n]);
}

/// A new agent on a node, which knows neither history nor flows.
fn start_afresh(rig: &mut Rig, n: usize, serving: &[usize], standby: &[usize]) {
    rig.agents[n] = Agent::start(&rig.lan.nodes[n]);
    serve_from(rig, n, serving, standby);
}

/// Connections to the pods of nodes two and three, made while node one is away.
fn connections_without_the_first(rig: &mut Rig) -> Vec<TcpStream> {
    for n in [1, 2] {
        serve_from(rig, n, &[1, 2], &[]);
    }
    let mut streams = Vec::new();
    for vip in [vip4(), vip6()] {
        rig.lan.announce(vip, 1);
        streams.extend((0..12).map(|_| connect(&rig.lan.client, socket(vip, 80)).0));
        rig.lan.announce(vip, 0);
    }
    streams
}

fn all_go_on(streams: &mut [TcpStream]) {
    for stream in streams {
        echo(stream, 1 << 14);
    }
}

#[test]
fn connections_begun_without_a_node_survive_its_start_with_fresh_tables() {
    let mut rig = Rig::of(3);
    let mut streams = connections_without_the_first(&mut rig);
    start_afresh(&mut rig, 0, &[0, 1, 2], &[]);
    all_go_on(&mut streams);
    assert!(rig.agents[0].counters().second_hops > 0, "some slots are its own");
    for n in [1, 2] {
        serve_from(&mut rig, n, &[0, 1, 2], &[]);
        for owner in [0, 1, 2] {
            rig.lan.announce(vip4(), owner);
            rig.lan.announce(vip6(), owner);
            all_go_on(&mut streams);
        }
    }
}

#[test]
fn connections_of_the_only_pod_go_on_while_there_is_none_and_when_its_successor_is_elsewhere() {
    let mut rig = Rig::of(3);
    for n in [0, 1, 2] {
        serve_from(&mut rig, n, &[1], &[]);
    }
    let mut streams: Vec<TcpStream> =
        [vip4(), vip6()].iter().map(|vip| connect(&rig.lan.client, socket(*vip, 80)).0).collect();
    for serving in [&[][..], &[2]] {
        rig.change(|n, wanted| {
            for (vip, pod) in [(vip4(), pod_v4(n as u8 + 1)), (vip6(), pod_v6(n as u8 + 1))] {
                let pods = [socket(pod, 8080)];
                serve(wanted, vip, Protocol::Tcp, serving, if serving.contains(&n) { &pods } else { &[] });
            }
        });
        all_go_on(&mut streams);
    }
    for vip in [vip4(), vip6()] {
        assert!(connect(&rig.lan.client, socket(vip, 80)).1.starts_with("three"));
    }
}

#[test]
fn connections_begun_without_a_node_survive_its_belief_that_it_is_alone() {
    let mut rig = Rig::of(3);
    let mut streams = connections_without_the_first(&mut rig);
    start_afresh(&mut rig, 0, &[0], &[1, 2]);
    all_go_on(&mut streams);
    // It meets one before the other.
    serve_from(&mut rig, 0, &[0, 1], &[]);
    all_go_on(&mut streams);
    for n in [1, 2, 0] {
        serve_from(&mut rig, n, &[0, 1, 2], &[]);
        all_go_on(&mut streams);
    }
}

#[test]
fn a_connection_whose_flow_was_lost_comes_home_when_no_other_node_knows_it() {
    let mut rig = Rig::of(3);
    for owner in [0, 1] {
        rig.lan.announce(vip4(), owner);
        let mut streams: Vec<TcpStream> = (0..4).map(|_| connect_to(&rig, vip4(), "one")).collect();
        let before = rig.agents[1].counters().second_hops + rig.agents[2].counters().second_hops;
        start_afresh(&mut rig, 0, &[0, 1, 2], &[]);
        all_go_on(&mut streams);
        let after = rig.agents[1].counters().second_hops + rig.agents[2].counters().second_hops;
        assert!(owner == 1 || after >= before + 4, "each was looked for elsewhere");
    }
}

/// Sends node one a packet of a connection that nobody knows; says how often each node passed it on in search, and
/// on which node it ended.
fn stray(rig: &Rig) -> (Vec<u64>, usize) {
    let inbound = |n: usize| -> u64 {
        let counters = rig.agents[n].counters();
        let inbound = counters.traffic.iter().filter(|((_, direction), _)| *direction == Direction::Inbound);
        inbound.map(|(_, traffic)| traffic.packets).sum()
    };
    let nodes = 0..rig.agents.len();
    let ended = || nodes.clone().find(|n| inbound(*n) > 0);
    assert_eq!(ended(), None);
    let acknowledgement = [&[0x9c, 0x40, 0, 80][..], &[0; 8], &[0x50, 0x10], &[0; 6]].concat();
    let to = rig.lan.nodes[0].mac("eth0");
    let vip = frames::as_v4(vip4());
    let frame = frames::V4 { to, vip, protocol: 6, ttl: 64, fragment: 0, payload: acknowledgement }.bytes();
    frames::send(&rig.lan.client, &[frame]);
    eventually("a pod has the packet", || ended().is_some());
    for n in nodes.clone() {
        assert!(DropReason::ALL.iter().all(|reason| rig.drops(n, *reason) == 0));
    }
    (nodes.clone().map(|n| rig.agents[n].counters().second_hops).collect(), ended().unwrap())
}

#[test]
fn a_dead_connections_packet_ends_at_its_slots_node() {
    let mut rig = Rig::of(2);
    start_afresh(&mut rig, 0, &[0], &[1]);
    start_afresh(&mut rig, 1, &[0], &[]);
    assert_eq!(stray(&rig), (vec![1, 1], 0));
}

#[test]
fn two_nodes_that_disagree_send_a_packet_to_and_fro_once_at_most() {
    for (serving, standby, expected) in [
        (1, 0, (vec![1, 0], 1)),
        // The second believes the first has the slot, which does not.
        (0, 0, (vec![1, 1], 0)),
    ] {
        let mut rig = Rig::of(2);
        start_afresh(&mut rig, 0, &[0], &[1]);
        start_afresh(&mut rig, 1, &[serving], &[standby]);
        assert_eq!(stray(&rig), expected);
    }
    let mut rig = Rig::of(2);
    start_afresh(&mut rig, 0, &[1], &[]);
    start_afresh(&mut rig, 1, &[0], &[]);
    assert_eq!(stray(&rig), (vec![1, 1], 1), "each believes in the other, and asks it once");
}

#[test]
fn a_circle_of_three_that_disagree_ends_with_the_search() {
    let mut rig = Rig::of(3);
    start_afresh(&mut rig, 0, &[0], &[1]);
    start_afresh(&mut rig, 1, &[2], &[]);
    start_afresh(&mut rig, 2, &[0], &[]);
    assert_eq!(stray(&rig), (vec![1, 0, 0], 0));

    let mut rig = Rig::of(3);
    for (n, other) in [(0, 1), (1, 2), (2, 0)] {
        start_afresh(&mut rig, n, &[n], &[other]);
    }
    assert_eq!(stray(&rig), (vec![1, 1, 1], 0), "each has the slot, and another alternate");
}
