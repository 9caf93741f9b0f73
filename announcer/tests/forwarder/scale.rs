//! As large as it gets: ten thousand services, a thousand nodes, a hundred thousand pods, in real maps; and what is beyond.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use announcer::{
    forward::{
        Labels, Mode, Wanted,
        plan::Limit,
        wanted::{Node, Socket, Targets, Uplink},
    },
    model::{Protocol, ServiceName},
};
use forwarder_ebpf::limits;

use crate::{
    frames,
    fuzz::kernel::{Kernel, Way},
    lan::{Host, Lan},
    rig::{Agent, name},
};

const SERVICES: u32 = 10_000;
const NODES: usize = 1_000;
/// Pods of a service, each on a node of its own.
const PODS: usize = 10;
/// What the agent may take for all of it.
const MEMORY: u64 = 200 << 20;
/// And where no two services have the same nodes: a table for each, and once all writes of a plan. Other tests run beside.
const MEMORY_APART: u64 = 400 << 20;
/// Map writes that a change of one service may take: 64 rows of its node table, 16 of its local one, its pods, its entry, its place in
/// the directory.
const WRITES: usize = 64 + 16 + 4;

fn mac(node: usize) -> [u8; 6] {
    let [high, low] = (node as u16).to_be_bytes();
    [2, 0xc7, 0, 0, high, low]
}

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a50_0000 + number)
}

/// This node and a thousand less one others.
fn nodes(interface: u32) -> Wanted {
    let node = |n: usize| (name(n), Node { me: n == 0, macs: [(interface, mac(n))].into() });
    Wanted {
        uplinks: [(interface, Uplink { name: "eth0".into(), mac: mac(0) })].into(),
        nodes: (0..NODES).map(node).collect(),
        ..Wanted::default()
    }
}

/// Adds a service with a pod on each of these nodes.
fn add(wanted: &mut Wanted, number: u32, nodes: impl Iterator<Item = usize>) {
    let service = ServiceName { namespace: "default".into(), name: format!("s{number}") };
    let socket = Socket { vip: vip(number).into(), port: 80, protocol: Protocol::Tcp };
    let nodes: Vec<usize> = nodes.collect();
    let local = nodes.contains(&0).then(|| (IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number)), 8080));
    wanted.vips.insert(socket.vip);
    wanted.services.insert(
        socket,
        Targets {
            labels: Labels { service, port: 80, protocol: Protocol::Tcp },
            nodes: nodes.into_iter().map(|n| (name(n), 1)).collect(),
            standby: BTreeMap::new(),
            local: local.into_iter().map(|pod| (pod, 1)).collect(),
            translated: Default::default(),
            affinity: 0,
            sources: Default::default(),
        },
    );
}

/// Adds a service on ten nodes that no other one has together: numbers beyond those of `add`, up to some ten thousand.
fn add_apart(wanted: &mut Wanted, number: u32) {
    let (first, step) = (number as usize % NODES, 11 + number as usize / NODES);
    add(wanted, number, (0..PODS).map(|pod| (first + pod * step) % NODES));
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A SYN to a service.
fn syn(number: u32) -> Vec<u8> {
    let payload = [&40_000_u16.to_be_bytes()[..], &[0, 80], &[0; 8], &[0x50, 2], &[0; 6]].concat();
    frames::V4 { to: mac(0), vip: vip(number), protocol: 6, ttl: 64, fragment: 0, payload }.bytes()
}

/// Whether a SYN to a service goes to a pod here, or on to another node; not back to its sender.
fn is_carried(host: &Host, kernel: &Kernel, number: u32) -> bool {
    let (came, ran) = (syn(number), host.run(|| kernel.run(Way::Ingress, &syn(number)).unwrap()));
    ran.frame != came && ran.frame[..6] != came[6..12]
}

#[test]
fn ten_thousand_services_fit_a_change_writes_one_and_what_is_too_much_is_said_and_leaves_the_rest_alone() {
    let lan = Lan::new(1);
    let host = &lan.nodes[0];
    let mut agent = Agent::start_in(host, Mode::Xdp);
    let mut wanted = nodes(host.index("eth0"));
    for number in 0..SERVICES {
        let first = number as usize * PODS % NODES;
        add(&mut wanted, number, first..first + PODS);
    }
    let (before, start) = (resident(), Instant::now());
    let applied = agent.try_apply(host, &wanted);
    let taken = resident().saturating_sub(before);
    println!("{} writes in {:?}, {} MiB", applied.writes, start.elapsed(), taken >> 20);
    assert!(applied.limits.is_empty(), "{:?}", applied.limits);
    assert!(taken < MEMORY, "{taken} bytes");

    // One pod more, elsewhere and here.
    for (number, node) in [(7, 500), (SERVICES - 1, 0), (100, 501)] {
        let socket = Socket { vip: vip(number).into(), port: 80, protocol: Protocol::Tcp };
        let targets = wanted.services.get_mut(&socket).unwrap();
        targets.nodes.insert(name(node), 1);
        if node == 0 {
            targets.local.insert((Ipv4Addr::from_bits(0x0a70_0000).into(), 8080), 1);
        }
        let start = Instant::now();
        let applied = agent.try_apply(host, &wanted);
        println!("one pod more: {} writes in {:?}, {:?}", applied.writes, start.elapsed(), applied.limits);
        assert!((1..=WRITES).contains(&applied.writes), "{} writes", applied.writes);
    }

    // More tables than there is room for, since no two of these services have the same nodes.
    let all_before: Vec<u32> = (0..SERVICES).step_by(97).collect();
    for number in SERVICES..limits::SERVICES {
        add_apart(&mut wanted, number);
    }
    let applied = agent.try_apply(host, &wanted);
    let left_out = applied.limits[&Limit::Rows];
    println!("{} services, of which {left_out} found no room", wanted.services.len());
    let kernel = Kernel::of(host, agent.pins.path());
    let carried = |number: u32| is_carried(host, &kernel, number);
    assert!(all_before.iter().all(|number| carried(*number)), "those that were there go on");

    // With fewer, the rest finds room.
    let others = (SERVICES..limits::SERVICES).map(|number| IpAddr::V4(vip(number)));
    for vip in others {
        wanted.vips.remove(&vip);
        wanted.services.retain(|socket, _| socket.vip != vip);
    }
    assert!(agent.try_apply(host, &wanted).limits.is_empty());
    assert!(all_before.iter().all(|number| carried(*number)));
}

#[test]
fn ten_thousand_services_each_on_nodes_of_its_own_fit_where_there_are_rows_for_them() {
    const ROWS: u32 = 176_000;
    let lan = Lan::new(1);
    let host = &lan.nodes[0];
    let mut wanted = nodes(host.index("eth0"));
    (0..SERVICES).for_each(|number| add_apart(&mut wanted, number));
    let mut agent = Agent::start_with_rows(host, ROWS);
    let (before, start) = (resident(), Instant::now());
    let applied = agent.try_apply(host, &wanted);
    let taken = resident().saturating_sub(before);
    println!("{} writes in {:?}, {} MiB", applied.writes, start.elapsed(), taken >> 20);
    assert!(applied.limits.is_empty(), "{:?}", applied.limits);
    assert!(taken < MEMORY_APART, "{taken} bytes");
    let kernel = Kernel::of(host, agent.pins.path());
    assert!((0..SERVICES).step_by(97).all(|number| is_carried(host, &kernel, number)));
}
