//! A successor whose flow table is another: its predecessor's flows are taken over, and nothing is lost meanwhile. Another number
//! of flows is another table; one whose records are laid out otherwise needs another program, see `e2e/tests/restart.rs`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use announcer::{
    forward::{Wanted, plan::Limit, wanted::Uplink},
    model::Protocol,
};
use forwarder_ebpf::{
    Grant,
    limits::MIN_FLOWS,
    table::{State, WAYS},
};

use crate::{
    Rig, eventually,
    lan::{Lan, pod_v4, pod_v6, socket},
    reuse::connect_from,
    rig::{Agent, Entry, ask, connect, echo, greeting, nodes, serve, tcp_server, udp_server, vip4, vip6},
};

/// Other numbers than that before, and more or fewer.
const SIZES: [u32; 3] = [2 * MIN_FLOWS, 8 * MIN_FLOWS, MIN_FLOWS];

/// New connections get other pods from now on: one that is not known goes astray.
fn replace_pods(rig: &mut Rig) {
    for n in 0..rig.agents.len() {
        let number = n as u8 + 1;
        for pod in [socket(pod_v4(number), 8081), socket(pod_v6(number), 8081)] {
            tcp_server(&rig.lan.pods[n], pod, "new");
            udp_server(&rig.lan.pods[n], pod, "new");
        }
    }
    rig.change(|n, wanted| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            serve(wanted, vip4(), protocol, &[0, 1], &[socket(pod_v4(n as u8 + 1), 8081)]);
            serve(wanted, vip6(), protocol, &[0, 1], &[socket(pod_v6(n as u8 + 1), 8081)]);
        }
    });
}

/// A successor with room for another number of flows on each node.
fn upgrade(rig: &mut Rig, flows: u32) {
    for n in 0..rig.agents.len() {
        rig.agents[n].restart_with(&rig.lan.nodes[n], flows);
        let wanted = rig.wanted[n].clone();
        rig.agents[n].apply(&rig.lan.nodes[n], &wanted);
    }
}

/// What is remembered of each connection, wherever it lies.
fn remembered(rig: &Rig) -> Vec<impl Ord + std::fmt::Debug + use<>> {
    let ends = |entry: &Entry| {
        let grant = Grant::from_word(entry.flow.grant);
        let flags = entry.state.0 & !(State::TAG | State::HEARD);
        (entry.flow.vip, entry.flow.client, entry.flow.client_port, grant.client_port, entry.flow.protocol, flags)
    };
    let mut all: Vec<_> = rig.agents.iter().flat_map(Agent::flows).map(|entry| ends(&entry)).collect();
    all.sort_unstable();
    all
}

#[test]
fn connections_whose_pods_get_no_new_ones_go_on_with_a_successor_of_another_size() {
    let mut rig = Rig::new();
    let open = |vip: IpAddr| (0..12).map(|_| connect(&rig.lan.client, socket(vip, 80)).0).collect::<Vec<TcpStream>>();
    let mut streams: Vec<TcpStream> = [vip4(), vip6()].into_iter().flat_map(open).collect();
    replace_pods(&mut rig);
    let mut before = remembered(&rig);
    for flows in SIZES {
        upgrade(&mut rig, flows);
        assert_eq!(remembered(&rig), before);
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 14));
        let (stream, greeting) = connect(&rig.lan.client, socket(vip4(), 80));
        assert!(greeting.starts_with("new"));
        streams.push(stream);
        // One that is closed stays closed.
        let closed = streams.remove(0);
        closed.shutdown(std::net::Shutdown::Both).unwrap();
        drop(closed);
        let is_closed = |entry: &Entry| entry.closed() == [true; 2];
        let count = || rig.agents.iter().flat_map(Agent::flows).filter(is_closed).count();
        let already = SIZES.iter().position(|size| *size == flows).unwrap();
        eventually("the end is noted", || count() == already + 1);
        before = remembered(&rig);
    }
}

#[test]
fn nothing_is_lost_of_what_begins_and_goes_on_while_flows_are_taken_over() {
    let mut rig = Rig::new();
    let client = &rig.lan.client;
    let stop = AtomicBool::new(false);
    let exchanged: [AtomicU64; 3] = Default::default();
    let mut streams: Vec<TcpStream> =
        (0..8).map(|n| connect(client, socket(if n % 2 == 0 { vip4() } else { vip6() }, 80)).0).collect();
    let sockets: Vec<UdpSocket> = client.run(|| (0..64).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect());
    let goes_on = || !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let (agents, nodes, wanted) = (&mut rig.agents, &rig.lan.nodes, &rig.wanted);
        let tcp = scope.spawn(|| {
            while goes_on() {
                streams.iter_mut().for_each(|stream| echo(stream, 1 << 10));
                exchanged[0].fetch_add(1, Ordering::Relaxed);
            }
        });
        let udp = scope.spawn(|| {
            for udp in sockets.iter().cycle().take_while(|_| goes_on()) {
                ask(udp, socket(vip4(), 80));
                exchanged[1].fetch_add(1, Ordering::Relaxed);
            }
        });
        let opening = scope.spawn(|| {
            for round in (0..).take_while(|_: &u32| goes_on()) {
                // Few: a datagram's flow stays for a minute, and where a small table is full of them the next one may push out one
                // that waits for its first answer.
                if round % 16 == 0 {
                    let fresh = client.run(|| UdpSocket::bind("[::]:0").unwrap());
                    ask(&fresh, socket(vip6(), 80));
                }
                echo(&mut connect(client, socket(vip4(), 80)).0, 1 << 10);
                exchanged[2].fetch_add(1, Ordering::Relaxed);
            }
        });
        for flows in SIZES {
            let before: Vec<u64> = exchanged.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            for (n, agent) in agents.iter_mut().enumerate() {
                agent.restart_with(&nodes[n], flows);
                agent.apply(&nodes[n], &wanted[n]);
            }
            let failed = || tcp.is_finished() || udp.is_finished() || opening.is_finished();
            let go_on =
                || exchanged.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) > before + 3);
            eventually("traffic goes on", || go_on() || failed());
            if failed() {
                break;
            }
        }
        let pushed_out: Vec<_> = agents.iter().map(|agent| agent.counters().evictions).collect();
        println!("pushed out: {pushed_out:?}");
        stop.store(true, Ordering::Relaxed);
    });
    println!("rounds: {exchanged:?}");
}

#[test]
fn a_port_that_a_pod_knows_in_the_place_of_a_clients_own_stays_so() {
    const PORT: u16 = 40_000;
    let mut rig = Rig::new();
    let vips: Vec<IpAddr> = (0..4).map(|n| IpAddr::from([10, 77, 0, 100 + n])).collect();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        rig.change(|n, wanted| {
            let pods = [socket(pod_v4(1), 8080)];
            vips.iter().for_each(|vip| serve(wanted, *vip, protocol, &[0], if n == 0 { &pods } else { &[] }));
        });
    }
    vips.iter().for_each(|vip| rig.lan.announce(*vip, 0));
    let open = |vip: &IpAddr| {
        let mut stream = connect_from(&rig.lan.client, PORT, socket(*vip, 80)).unwrap();
        greeting(&mut stream);
        stream
    };
    let mut streams: Vec<_> = vips.iter().map(open).collect();
    let udp = rig.lan.client.run(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    vips.iter().for_each(|vip| drop(ask(&udp, socket(*vip, 80))));
    let before = remembered(&rig);
    assert_eq!(before.len(), 8);
    for flows in SIZES {
        upgrade(&mut rig, flows);
        assert_eq!(remembered(&rig), before);
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 12));
        vips.iter().for_each(|vip| drop(ask(&udp, socket(*vip, 80))));
    }
}

#[test]
fn a_client_that_stays_with_its_pod_does_so_with_a_successor_of_another_size() {
    let mut rig = Rig::new();
    tcp_server(&rig.lan.pods[0], socket(pod_v4(1), 8081), "uno");
    let affine = |rig: &mut Rig, pods: &[u16]| {
        let pods: Vec<_> = pods.iter().map(|port| socket(pod_v4(1), *port)).collect();
        rig.change(|n, wanted| {
            serve(wanted, vip4(), Protocol::Tcp, &[0], if n == 0 { &pods } else { &[] });
            wanted.services.values_mut().for_each(|targets| targets.affinity = 600);
        });
    };
    let visit = |rig: &Rig| connect(&rig.lan.client, socket(vip4(), 80)).1;
    affine(&mut rig, &[8080, 8081]);
    let by_table = visit(&rig);
    affine(&mut rig, &[if by_table.starts_with("one") { 8081 } else { 8080 }]);
    let stays_with = visit(&rig);
    affine(&mut rig, &[8080, 8081]);
    assert_ne!(by_table, stays_with);
    for flows in SIZES {
        assert_eq!(visit(&rig), stays_with);
        upgrade(&mut rig, flows);
        assert_eq!(visit(&rig), stays_with);
    }
}

#[test]
fn an_agent_that_ends_before_it_takes_over_leaves_it_to_the_next() {
    let mut rig = Rig::new();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| connect(&rig.lan.client, socket(vip4(), 80)).0).collect();
    replace_pods(&mut rig);
    let before = remembered(&rig);
    for flows in [2 * MIN_FLOWS, 4 * MIN_FLOWS] {
        for n in 0..2 {
            rig.agents[n].restart_with(&rig.lan.nodes[n], flows);
            streams.iter_mut().for_each(|stream| echo(stream, 1 << 10));
        }
    }
    upgrade(&mut rig, MIN_FLOWS);
    assert_eq!(remembered(&rig), before);
    streams.iter_mut().for_each(|stream| echo(stream, 1 << 10));
}

/// An uplink that nothing can be attached to.
fn add_missing_uplink(wanted: &mut Wanted) {
    wanted.uplinks.insert(i32::MAX as u32, Uplink { name: "missing".into(), mac: [2, 0, 0, 0, 0, 9] });
}

#[test]
fn an_uplink_that_cannot_be_attached_to_holds_up_no_takeover() {
    let mut rig = Rig::new();
    let mut stream = connect(&rig.lan.client, socket(vip4(), 80)).0;
    rig.wanted.iter_mut().for_each(add_missing_uplink);
    for n in 0..rig.agents.len() {
        let (agent, node, number) = (&mut rig.agents[n], &rig.lan.nodes[n], n as u8 + 1);
        agent.restart_with(node, 2 * MIN_FLOWS);
        assert!(agent.fails_to_apply(node, &rig.wanted[n]).contains("missing"));
        let pod = socket(pod_v4(number), 8081);
        tcp_server(&rig.lan.pods[n], pod, "new");
        serve(&mut rig.wanted[n], vip4(), Protocol::Tcp, &[0, 1], &[pod]);
        assert!(agent.fails_to_apply(node, &rig.wanted[n]).contains("missing"));
    }
    // The predecessor's tables know nothing of the new pods.
    for _ in 0..12 {
        assert!(connect(&rig.lan.client, socket(vip4(), 80)).1.starts_with("new"));
    }
    echo(&mut stream, 1 << 14);
    assert_eq!(rig.agents[0].pins_of("flows").len(), 2, "the predecessor may run on the other uplink");
    rig.change(|_, wanted| drop(wanted.uplinks.remove(&(i32::MAX as u32))));
    assert_eq!(rig.agents[0].pins_of("flows").len(), 1);
    echo(&mut stream, 1 << 14);
}

#[test]
fn programs_that_are_given_up_before_they_are_attached_leave_no_pin() {
    let lan = Lan::new(1);
    let mut agent = Agent::start(&lan.nodes[0]);
    let mut nowhere = nodes(&lan, 0);
    nowhere.uplinks.clear();
    add_missing_uplink(&mut nowhere);
    agent.fails_to_apply(&lan.nodes[0], &nowhere);
    agent.kill();
    assert!(agent.pins_of("stages").is_empty());
    agent.restart_with(&lan.nodes[0], MIN_FLOWS);
    agent.apply(&lan.nodes[0], &nodes(&lan, 0));
    let attached = agent.pins_of("stages");
    assert_eq!(attached.len(), 1);
    for _ in 0..3 {
        agent.restart_with(&lan.nodes[0], MIN_FLOWS);
    }
    agent.kill();
    assert_eq!(agent.pins_of("stages"), attached);
}

#[test]
fn flows_whose_description_nobody_can_read_are_left_and_the_agent_starts() {
    let mut rig = Rig::new();
    let mut stream = connect(&rig.lan.client, socket(vip4(), 80)).0;
    rig.agents.iter().for_each(Agent::spoil_description);
    upgrade(&mut rig, 2 * MIN_FLOWS);
    assert!(remembered(&rig).is_empty());
    // The tables lead to the same pod still.
    echo(&mut stream, 1 << 14);
    assert_eq!(rig.agents[0].pins_of("flows").len(), 1);
}

#[test]
fn a_hundred_thousand_flows_are_taken_over_and_of_too_many_those_stay_that_are_in_use() {
    const FLOWS: u32 = 100_000;
    let lan = Lan::new(1);
    tcp_server(&lan.pods[0], socket(pod_v4(1), 8080), "one");
    let mut wanted = nodes(&lan, 0);
    serve(&mut wanted, vip4(), Protocol::Tcp, &[0], &[socket(pod_v4(1), 8080)]);
    let mut agent = Agent::start_with(&lan.nodes[0], announcer::forward::Mode::Auto, 4 * FLOWS);
    agent.apply(&lan.nodes[0], &wanted);
    lan.announce(vip4(), 0);
    let mut stream = connect(&lan.client, socket(vip4(), 80)).0;
    // Half of them are half-open.
    agent.multiply(FLOWS);
    agent.restart_with(&lan.nodes[0], 8 * FLOWS);
    let start = Instant::now();
    let applied = agent.try_apply(&lan.nodes[0], &wanted);
    println!("{FLOWS} flows taken over in {:?}", start.elapsed());
    assert!(applied.limits.is_empty(), "{:?}", applied.limits);
    let kinds = |agent: &Agent| {
        let mut kinds: BTreeMap<bool, u32> = BTreeMap::new();
        agent.flows().iter().for_each(|entry| *kinds.entry(entry.state.has(State::HALF_OPEN)).or_default() += 1);
        [false, true].map(|half_open| kinds.get(&half_open).copied().unwrap_or_default())
    };
    assert_eq!(kinds(&agent), [FLOWS / 2 + 1, FLOWS / 2]);
    echo(&mut stream, 1 << 14);

    let small = (FLOWS / 2 + FLOWS / 10).next_multiple_of(WAYS);
    agent.restart_with(&lan.nodes[0], small);
    let left_out = agent.try_apply(&lan.nodes[0], &wanted).limits[&Limit::Flows];
    let [in_use, half_open] = kinds(&agent);
    println!("of {FLOWS} flows, {left_out} found no room among {small}: {in_use} are in use, {half_open} half-open");
    assert_eq!(in_use + half_open + left_out, FLOWS + 1);
    let again = agent.try_apply(&lan.nodes[0], &wanted);
    assert!(again.limits.is_empty(), "they are reported once: {:?}", again.limits);
    assert!(in_use > FLOWS / 2 * 9 / 10 && half_open < in_use / 3, "{in_use} in use, {half_open} half-open");
    echo(&mut stream, 1 << 14);
}
