//! The forwarder with the real eBPF program in network namespaces. Needs root; makes and removes its own namespaces.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "edge: a test of the real thing, in real time")]

mod lan;
mod rig;

use std::{collections::BTreeSet, net::UdpSocket};

use announcer::{forward::Wanted, model::Protocol};
use forwarder_ebpf::{Direction, DropReason};

use crate::{
    lan::{Lan, pod_v4, pod_v6, socket},
    rig::{Agent, ask, connect, echo, nodes, serve, tcp_server, udp_server, vip4, vip6},
};

/// Two nodes, a pod behind each, all four services.
struct Rig {
    lan: Lan,
    agents: Vec<Agent>,
    wanted: Vec<Wanted>,
}

impl Rig {
    fn new() -> Self {
        let lan = Lan::new(2);
        let (mut agents, mut wanted) = (Vec::new(), Vec::new());
        for n in 0..2 {
            let who = ["one", "two"][n];
            let number = n as u8 + 1;
            for pod in [socket(pod_v4(number), 8080), socket(pod_v6(number), 8080)] {
                tcp_server(&lan.pods[n], pod, who);
                udp_server(&lan.pods[n], pod, who);
            }
            let mut want = nodes(&lan, n);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                serve(&mut want, vip4(), protocol, &[0, 1], &[socket(pod_v4(number), 8080)]);
                serve(&mut want, vip6(), protocol, &[0, 1], &[socket(pod_v6(number), 8080)]);
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
