//! XDP: what is another node's goes on before the stack has it, and what is not Crier's stays.

use std::net::UdpSocket;

use announcer::forward::Mode;
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use forwarder_ebpf::{Direction, OBJECT, program};

use crate::{
    Rig,
    lan::{Host, socket},
    rig::{Agent, ask, connect, echo, vip4, vip6},
};

/// Somebody else's XDP program, which lets everything pass: Crier's own with empty maps.
fn passing(host: &Host, interface: &'static str) -> Ebpf {
    host.run(|| {
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let program: &mut Xdp = ebpf.program_mut(program::XDP).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(interface, XdpMode::Driver).unwrap();
        ebpf
    })
}

/// Two nodes of which the second serves, and the first, which owns the VIPs, is asked to use XDP. Checksums are filled in as by
/// a network card: a frame that XDP sends back must have them.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for host in [&rig.lan.client].into_iter().chain(&rig.lan.nodes).chain(&rig.lan.pods) {
        host.checksum_in_software("eth0");
    }
    rig.agents[0] = Agent::start_in(&rig.lan.nodes[0], Mode::Xdp);
    rig
}

fn serve_from_the_second(rig: &mut Rig) {
    rig.change(|_, wanted| {
        for targets in wanted.services.values_mut() {
            targets.nodes.retain(|node, _| node.as_str() == "n2");
        }
    });
}

fn all_is_served(rig: &Rig) {
    for vip in [vip4(), vip6()] {
        let (mut stream, greeting) = connect(&rig.lan.client, socket(vip, 80));
        assert!(greeting.starts_with("two"), "{greeting}");
        echo(&mut stream, 100_000);
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let udp = rig.lan.client.run(|| UdpSocket::bind(any).unwrap());
        assert!(ask(&udp, socket(vip, 80)).starts_with("two"));
    }
}

fn forwarded(rig: &Rig) -> u64 {
    let counters = rig.agents[0].counters();
    counters.traffic.iter().filter(|((_, way), _)| *way == Direction::Forwarded).map(|(_, seen)| seen.packets).sum()
}

#[test]
fn xdp_hands_on_what_is_another_nodes_without_the_stack() {
    let mut rig = rig();
    // A veth takes frames from its peer's XDP only while it has a program itself.
    let _port = passing(&rig.lan.switch, "n1");
    serve_from_the_second(&mut rig);
    let info = rig.agents[0].forwarder.info();
    assert_eq!((info.mode, info.ways["eth0"].as_str()), ("xdp", "xdp"));
    let pin = |hook: &str| rig.agents[0].pins.path().join(format!("link_{}_{hook}", rig.lan.nodes[0].index("eth0")));
    assert!(pin("xdp").exists());
    // Without TC nothing but XDP is left to carry it.
    std::fs::remove_file(pin("ingress")).unwrap();
    let before = forwarded(&rig);
    all_is_served(&rig);
    assert!(forwarded(&rig) > before + 20, "XDP counts as TC does");
}

#[test]
fn an_agent_that_uses_xdp_is_followed_by_one_without_a_gap_and_by_one_that_uses_none() {
    let mut rig = rig();
    let _port = passing(&rig.lan.switch, "n1");
    serve_from_the_second(&mut rig);
    let (mut stream, _) = connect(&rig.lan.client, socket(vip4(), 80));
    for (mode, way) in [(Mode::Xdp, "xdp"), (Mode::Tc, "tc: as configured"), (Mode::Xdp, "xdp")] {
        rig.agents[0].restart_in(&rig.lan.nodes[0], mode);
        echo(&mut stream, 10_000);
        rig.agents[0].apply(&rig.lan.nodes[0], &rig.wanted[0]);
        echo(&mut stream, 10_000);
        assert_eq!(rig.agents[0].forwarder.info().ways["eth0"], way);
        all_is_served(&rig);
    }
}

#[test]
fn somebody_elses_xdp_program_stays_and_tc_carries_everything() {
    let mut rig = rig();
    let theirs = passing(&rig.lan.nodes[0], "eth0");
    serve_from_the_second(&mut rig);
    let info = rig.agents[0].forwarder.info();
    assert_eq!((info.mode, info.ways["eth0"].as_str()), ("tc", "tc: another XDP program is there, and stays"));
    all_is_served(&rig);
    drop(theirs);
}

#[test]
fn a_veth_is_left_to_tc_unless_xdp_is_asked_for() {
    let rig = Rig::new();
    let info = rig.agents[0].forwarder.info();
    assert!(info.mode == "tc" && info.ways["eth0"].contains("veth"), "{info:?}");
}
