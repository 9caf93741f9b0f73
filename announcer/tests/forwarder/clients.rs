//! Clients: those that stay with their pods, more than there is room for; and those that are shut out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use announcer::forward::Mode;
use forwarder_ebpf::{DropReason, limits::AFFINITIES};

use crate::{
    Rig, connect_to, eventually,
    frames::{self, V4, from_v4},
    fuzz::{
        kernel::{Kernel, Way},
        scene::{OWN, Scene, address},
    },
    lan::{Lan, socket},
    rig::{Agent, Entry, ask, echo, vip4, vip6},
};

/// A SYN of a client's to a service with affinity whose pods are here.
fn syn(client: u32) -> Vec<u8> {
    let vip = frames::as_v4(address(false, 106));
    let frame = V4 { to: OWN, vip, protocol: 6, ttl: 64, fragment: 0, payload: frames::tcp(40_000, 80, 2) }.bytes();
    let [_, b, c, d] = client.to_be_bytes();
    from_v4(frame, [100, b, c, d])
}

#[test]
fn clients_with_affinity_beyond_the_room_are_counted_but_not_those_whose_time_was_over() {
    const BEYOND: u32 = 5_000;
    let lan = Lan::new(1);
    let host = &lan.nodes[0];
    let mut agent = Agent::start_in(host, Mode::Xdp);
    let mut wanted = Scene::new().wanted(host.index("eth0"));
    let serve_for = |agent: &mut Agent, wanted: &mut announcer::forward::Wanted, seconds: u32| {
        for (socket, targets) in &mut wanted.services {
            targets.affinity = if socket.vip == address(false, 106) { seconds } else { 0 };
        }
        agent.apply(host, wanted);
    };
    serve_for(&mut agent, &mut wanted, 600);
    let kernel = Kernel::of(host, agent.pins.path());
    let come = |from: u32, to: u32| host.run(|| (from..to).for_each(|n| drop(kernel.run(Way::Ingress, &syn(n)))));
    let mut now = Instant::now();
    let mut lost = |agent: &mut Agent| {
        now += Duration::from_secs(10);
        agent.forwarder.forget_clients(now).unwrap()
    };
    come(0, AFFINITIES / 2);
    assert_eq!(lost(&mut agent), 0);
    // Each comes once more, which takes no room.
    come(0, AFFINITIES / 2);
    assert_eq!(lost(&mut agent), 0);
    come(AFFINITIES / 2, AFFINITIES + BEYOND);
    let gone = lost(&mut agent);
    // The kernel keeps a few places free on each CPU.
    assert!((BEYOND..BEYOND + AFFINITIES / 16).contains(&(gone as u32)), "{gone}");
    assert_eq!(lost(&mut agent), 0, "counted once");

    // A successor finds the map full, and others come.
    agent.restart_in(host, Mode::Xdp);
    serve_for(&mut agent, &mut wanted, 600);
    assert_eq!(lost(&mut agent), 0, "nobody came yet");
    let kernel = Kernel::of(host, agent.pins.path());
    let come = |from: u32, to: u32| host.run(|| (from..to).for_each(|n| drop(kernel.run(Way::Ingress, &syn(n)))));
    come(2 * AFFINITIES, 2 * AFFINITIES + BEYOND);
    let gone = lost(&mut agent);
    assert!((BEYOND - AFFINITIES / 16..BEYOND + AFFINITIES / 16).contains(&(gone as u32)), "{gone}");

    // The same clients, of a service whose time is short: they make room for others by themselves.
    let mut agent = Agent::start_in(host, Mode::Xdp);
    serve_for(&mut agent, &mut wanted, 1);
    let kernel = Kernel::of(host, agent.pins.path());
    let come = |from: u32, to: u32| host.run(|| (from..to).for_each(|n| drop(kernel.run(Way::Ingress, &syn(n)))));
    for round in 0..3 {
        let half = AFFINITIES / 2;
        come(round * half, (round + 1) * half);
        std::thread::sleep(Duration::from_millis(2_100));
        assert_eq!(lost(&mut agent), 0, "round {round}");
    }
}

#[test]
fn a_client_that_is_shut_out_loses_its_connections_and_one_inside_keeps_them() {
    let mut rig = Rig::new();
    let let_in = |rig: &mut Rig, ranges: &[&str]| {
        let ranges: BTreeSet<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        rig.change(|_, wanted| {
            wanted.services.values_mut().for_each(|targets| targets.sources.clone_from(&ranges));
        });
    };
    // As if it was silent for a second: that often it is looked at whether a client is let in.
    let later = |rig: &Rig| rig.agents.iter().for_each(|agent| agent.edit_flows(|entry: &mut Entry| entry.age(2)));
    let drops = |rig: &Rig| (0..2).map(|n| rig.drops(n, DropReason::SourceRange)).sum::<u64>();
    // To pods of the VIP's owner: what goes to another node is looked at packet by packet.
    let own = |vip| connect_to(&rig, vip, "one");
    let mut streams: Vec<_> = [vip4(), vip6()].repeat(4).into_iter().map(|vip| (vip, own(vip))).collect();
    let udp = || rig.lan.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let udp = (0..64).map(|_| udp()).find(|udp| ask(udp, socket(vip4(), 80)).starts_with("one")).unwrap();
    let mut all_echo = |of: &dyn Fn(&IpAddr) -> bool| {
        streams.iter_mut().filter(|(vip, _)| of(vip)).for_each(|(_, stream)| echo(stream, 1 << 12));
    };
    let_in(&mut rig, &["10.77.0.9/32", "fd77::/64"]);
    later(&rig);
    all_echo(&|_| true);
    assert_eq!(drops(&rig), 0);

    let_in(&mut rig, &["10.99.0.0/16", "fd77::9/128"]);
    later(&rig);
    all_echo(&|vip| vip.is_ipv6());
    assert_eq!(drops(&rig), 0);
    udp.send_to(b"who?", socket(vip4(), 80)).unwrap();
    eventually("its datagram is dropped", || drops(&rig) == 1);
    let (_, shut_out) = streams.iter_mut().find(|(vip, _)| vip.is_ipv4()).unwrap();
    std::io::Write::write_all(shut_out, b"anyone?").unwrap();
    eventually("so is what it sends on a connection", || drops(&rig) >= 2);
    shut_out.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(std::io::Read::read(shut_out, &mut [0]).is_err(), "nothing comes back");

    // Let in again in time it goes on.
    let_in(&mut rig, &[]);
    shut_out.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut back = [0; 7];
    std::io::Read::read_exact(shut_out, &mut back).unwrap();
    assert_eq!(&back, b"anyone?");
    ask(&udp, socket(vip4(), 80));
}
