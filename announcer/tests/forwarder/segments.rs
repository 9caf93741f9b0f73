//! Segments are as large through a VIP as without one: nothing is put before a packet on its way, so nothing has to be cut
//! shorter, and no client's or pod's MSS is touched.

use std::{collections::BTreeSet, net::IpAddr};

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};

use crate::{
    Rig, connect_to,
    lan::socket,
    rig::{connect, echo, tcp_server, vip4, vip6},
    tap::Tap,
};

const MTU: usize = 1500;
const TCP: u8 = 6;

/// An IP packet's protocol, and whether it is a part of one.
fn protocol(frame: &[u8]) -> (u8, bool) {
    match frame[14] >> 4 {
        4 => (frame[23], frame[20] & 0x3f != 0 || frame[21] != 0),
        _ => (frame[20], frame[20] == 44),
    }
}

/// "Too big", of either family.
fn is_too_big(frame: &[u8]) -> bool {
    matches!((protocol(frame).0, &frame[14..]), (1, packet) if packet[20] == 3 && packet[21] == 4)
        || matches!((protocol(frame).0, &frame[14..]), (58, packet) if packet[40] == 2)
}

/// The largest TCP packet from one MAC to another.
fn largest(frames: &[Vec<u8>], from: [u8; 6], to: [u8; 6]) -> usize {
    let between = frames.iter().filter(|frame| frame[..6] == to && frame[6..12] == from && protocol(frame).0 == TCP);
    between.map(|frame| frame.len() - 14).max().unwrap_or(0)
}

#[test]
fn segments_fill_the_mtu_both_ways_to_a_pod_on_another_node_and_nobody_says_too_big() {
    let rig = Rig::new();
    let lan = &rig.lan;
    // Segments are cut before they are on the wire.
    for host in lan.pods.iter().chain(&lan.nodes).chain([&lan.client]) {
        host.checksum_in_software("eth0");
    }
    for node in &lan.nodes {
        node.checksum_in_software("pod0");
    }
    let [client, owner, other] = [&lan.client, &lan.nodes[0], &lan.nodes[1]].map(|host| host.mac("eth0"));
    for (vip, direct) in [(vip4(), "10.77.0.12"), (vip6(), "fd77::12")] {
        let direct: IpAddr = direct.parse().unwrap();
        tcp_server(&lan.nodes[1], socket(direct, 9090), "direct");
        let wires = ["c", "n1", "n2"].map(|port| Tap::new(&lan.switch, port));
        let mut stream = connect_to(&rig, vip, "two");
        echo(&mut stream, 1 << 18);
        let straight = connect(&lan.client, socket(direct, 9090)).0;
        let [mss, expected] = [&stream, &straight].map(|stream| getsockopt(stream, TcpMaxSeg).unwrap());
        assert_eq!(mss, expected, "{vip}");
        let seen = wires.each_ref().map(Tap::all);
        let ways = [(client, owner), (owner, other), (other, client)];
        for (way, wire) in ways.into_iter().zip([&seen[0], &seen[1], &seen[2]]) {
            assert_eq!(largest(wire, way.0, way.1), MTU, "{vip}: {way:02x?}");
        }
        for frame in seen.iter().flatten().filter(|frame| matches!(frame[14] >> 4, 4 | 6)) {
            assert!(!protocol(frame).1 && !is_too_big(frame) && frame.len() <= 14 + MTU, "{frame:02x?}");
        }
        let kinds: BTreeSet<u8> = seen.iter().flatten().map(|frame| protocol(frame).0).collect();
        assert!(kinds.contains(&TCP));
    }
}
