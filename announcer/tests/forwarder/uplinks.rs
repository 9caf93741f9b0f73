//! Nodes with two uplinks, each on a segment of its own; and frames that are tagged for a VLAN on an uplink.

use std::{collections::BTreeSet, net::IpAddr, process::Command};

use announcer::{
    forward::{
        Mode, Wanted,
        wanted::{Node, Uplink},
    },
    model::Protocol,
};
use forwarder_ebpf::Message;

use crate::{
    Rig, eventually, frames,
    lan::{Lan, pod_v4, pod_v6, socket},
    rig::{Agent, connect, echo, name, nodes, serve, vip4, vip6},
    tap::Tap,
};

const TCP: u8 = 6;

/// The VIPs on the second segment.
fn second() -> [IpAddr; 2] {
    ["10.78.0.100", "fd78::100"].map(|vip| vip.parse().unwrap())
}

/// Adds a node's second uplink, and where the others are by it.
fn add_uplink(wanted: &mut Wanted, lan: &Lan, n: usize) {
    let index = lan.nodes[n].index("eth1");
    wanted.uplinks.insert(index, Uplink { name: "eth1".into(), mac: lan.nodes[n].mac("eth1") });
    for (other, host) in lan.nodes.iter().enumerate() {
        let node = wanted.nodes.entry(name(other)).or_insert_with(|| Node { me: other == n, macs: [].into() });
        node.macs.insert(index, host.mac("eth1"));
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.lan.second_segment();
    for n in 0..2 {
        add_uplink(&mut rig.wanted[n], &rig.lan, n);
    }
    rig.change(|n, wanted| {
        for vip in second() {
            let pod = if vip.is_ipv4() { pod_v4(n as u8 + 1) } else { pod_v6(n as u8 + 1) };
            serve(wanted, vip, Protocol::Tcp, &[0, 1], &[socket(pod, 8080)]);
        }
    });
    let mac = rig.lan.nodes[0].mac("eth1").map(|byte| format!("{byte:02x}")).join(":");
    for vip in second() {
        rig.lan.client.ip(&format!("neigh replace {vip} lladdr {mac} dev eth1 nud permanent"));
    }
    rig
}

/// The VIP's TCP packets that these interfaces have seen.
fn segments(taps: &[Tap], vip: IpAddr) -> usize {
    let is_its = |frame: &&Vec<u8>| match vip {
        IpAddr::V4(vip) => {
            frame[14] >> 4 == 4 && frame[23] == TCP && [26, 30].iter().any(|&at| frame[at..at + 4] == vip.octets())
        }
        IpAddr::V6(vip) => {
            frame[14] >> 4 == 6 && frame[20] == TCP && [22, 38].iter().any(|&at| frame[at..at + 16] == vip.octets())
        }
    };
    taps.iter().map(|tap| tap.all().iter().filter(is_its).count()).sum()
}

/// Connections to a VIP reach both nodes' pods and carry bytes; what their greetings say of the client.
fn both_pods_greet(rig: &Rig, vip: IpAddr) -> BTreeSet<String> {
    let greet = |_| {
        let (mut stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
        echo(&mut stream, 1 << 16);
        greeting
    };
    let greetings: BTreeSet<String> = (0..16).map(greet).collect();
    assert_eq!(greetings.len(), 2, "{greetings:?}");
    greetings.into_iter().map(|greeting| greeting.split(' ').next_back().unwrap().to_owned()).collect()
}

#[test]
fn each_segments_connections_stay_on_it_all_the_way_to_pods_of_both_nodes() {
    let rig = rig();
    let taps = |interface| rig.lan.nodes.iter().map(|node| Tap::new(node, interface)).collect::<Vec<_>>();
    let (first, other) = (taps("eth0"), taps("eth1"));
    for (vip, client) in second().into_iter().zip(["10.78.0.9", "fd78::9"]) {
        assert_eq!(both_pods_greet(&rig, vip), [client.to_owned()].into());
        assert_eq!(segments(&first, vip), 0, "to {vip}");
        assert!(segments(&other, vip) > 0);
    }
    for (vip, client) in [vip4(), vip6()].into_iter().zip(["10.77.0.9", "fd77::9"]) {
        assert_eq!(both_pods_greet(&rig, vip), [client.to_owned()].into());
        assert_eq!(segments(&other, vip), 0, "to {vip}");
        assert!(segments(&first, vip) > 0);
    }
}

/// As a client behind a router on each segment: the nodes' routing says by which uplink they answer.
#[test]
fn a_reply_has_the_vips_name_whichever_uplink_leads_to_its_client() {
    let rig = rig();
    for (vip, client, prefix) in [(second()[0], "10.77.0.9", 32), (second()[1], "fd77::9", 128)] {
        // The client asks by the second segment, from its address on the first.
        rig.lan.client.ip(&format!("route add {vip}/{prefix} dev eth1 src {client}"));
        let by = Tap::new(&rig.lan.client, "eth0");
        assert_eq!(both_pods_greet(&rig, vip), [client.to_owned()].into());
        assert!(segments(&[by], vip) > 0, "the answers come by the other segment");
    }
}

/// The same packet, tagged for VLAN 10.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0, 10], &frame[12..]].concat()
}

/// A VLAN is another segment, whatever the addresses in it.
#[test]
fn frames_tagged_for_a_vlan_are_left_alone_on_the_uplink_below_it() {
    for mode in [Mode::Tc, Mode::Xdp] {
        let lan = Lan::new(2);
        if mode == Mode::Xdp {
            // There the tag has to be in the frame.
            lan.switch.tag_in_software("n1");
        }
        let mut agent = Agent::start_in(&lan.nodes[0], mode);
        let mut wanted = nodes(&lan, 0);
        serve(&mut wanted, vip4(), Protocol::Udp, &[1], &[]);
        serve(&mut wanted, vip6(), Protocol::Udp, &[0], &[socket(pod_v6(1), 8080)]);
        agent.apply(&lan.nodes[0], &wanted);
        let own = lan.nodes[0].mac("eth0");
        let to = |vip: IpAddr, port| {
            let client = if vip.is_ipv4() { "10.77.0.9" } else { "fd77::9" };
            frames::ip(own, client.parse().unwrap(), vip, 17, &frames::udp(port))
        };
        let mut arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        arp.extend([2, 0, 0, 0, 0, 9, 10, 77, 0, 9, 0, 0, 0, 0, 0, 0, 10, 77, 0, 100]);
        let came = Tap::new(&lan.nodes[0], "eth0");
        let before = agent.counters();
        let tagged = [tagged(&to(vip4(), 80)), tagged(&to(vip6(), 80)), tagged(&to(vip4(), 82)), tagged(&arp)];
        frames::send(&lan.client, &tagged);
        // What follows on the same wire is seen, so what went before has been.
        frames::send(&lan.client, &[to(vip4(), 82)]);
        eventually("the marker", || agent.counters().messages[&Message::Unreachable] > 0);
        let after = agent.counters();
        assert_eq!((after.drops, after.messages[&Message::Unreachable]), (before.drops, 1));
        assert!(after.traffic.values().all(|traffic| traffic.packets == 0), "{mode:?}: {:?}", after.traffic);
        let arrived = came.all().iter().filter(|frame| frame[..6] == own).count();
        assert_eq!(arrived, 4, "{mode:?}");
    }
}

/// Node and client have VLAN 10 on their uplinks, by which they are on another segment, 10.79.0.0/24 and fd79::/64.
fn add_vlan(lan: &Lan) -> bool {
    let numbers = (0..lan.nodes.len()).map(|n| 11 + n);
    [(&lan.client, 9)].into_iter().chain(lan.nodes.iter().zip(numbers)).all(|(host, number)| {
        let made = host.run(|| {
            let arguments = ["link", "add", "link", "eth0", "name", "eth1", "type", "vlan", "id", "10"];
            Command::new("ip").args(arguments).output().unwrap().status.success()
        });
        if made {
            host.ip(&format!("addr add 10.79.0.{number}/24 dev eth1"));
            host.ip(&format!("addr add fd79::{number}/64 dev eth1 nodad"));
            host.ip("link set eth1 up");
        }
        made
    })
}

/// The VLAN's interface has the MAC of the one below it, which is an uplink, too; and a VIP of the same address, elsewhere.
#[test]
fn a_vlans_interface_is_an_uplink_like_any_other() {
    let mut rig = Rig::new();
    if !add_vlan(&rig.lan) {
        println!("skipped: this kernel has no VLANs (modprobe 8021q)");
        return;
    }
    let vips = ["10.79.0.100", "fd79::100"].map(|vip| vip.parse::<IpAddr>().unwrap());
    for n in 0..2 {
        add_uplink(&mut rig.wanted[n], &rig.lan, n);
    }
    rig.change(|n, wanted| {
        for vip in vips {
            let pod = if vip.is_ipv4() { pod_v4(n as u8 + 1) } else { pod_v6(n as u8 + 1) };
            serve(wanted, vip, Protocol::Tcp, &[0, 1], &[socket(pod, 8080)]);
        }
    });
    let mac = rig.lan.nodes[0].mac("eth1").map(|byte| format!("{byte:02x}")).join(":");
    let vlan: Vec<Tap> = rig.lan.nodes.iter().map(|node| Tap::new(node, "eth1")).collect();
    for (vip, client) in vips.into_iter().zip(["10.79.0.9", "fd79::9"]) {
        rig.lan.client.ip(&format!("neigh replace {vip} lladdr {mac} dev eth1 nud permanent"));
        assert_eq!(both_pods_greet(&rig, vip), [client.to_owned()].into());
        assert!(segments(&vlan, vip) > 0);
    }
    assert_eq!(both_pods_greet(&rig, vip4()), ["10.77.0.9".to_owned()].into(), "the segment below is served beside it");
    for agent in &rig.agents {
        let drops = agent.counters().drops;
        assert!(drops.values().all(|&count| count == 0), "{drops:?}");
    }
}
