//! Ports that a VIP does not have.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use forwarder_ebpf::{DropReason, Message, limits};

use crate::{
    Rig, connect_to, eventually, frames,
    lan::socket,
    rig::{vip4, vip6},
};

fn messages(rig: &Rig, message: Message) -> u64 {
    rig.agents[0].counters().messages[&message]
}

/// The client hears at once, of each protocol and family. A wrong checksum would go unheard.
fn all_is_refused(rig: &Rig) {
    for vip in [vip4(), vip6()] {
        let to = socket(vip, 82);
        let before = messages(rig, Message::Reset);
        let error = rig.lan.client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap_err();
        assert_eq!((error.kind(), messages(rig, Message::Reset)), (ErrorKind::ConnectionRefused, before + 1));
        for bytes in [0, 1, 1400] {
            let udp = udp(rig, vip);
            udp.connect(to).unwrap();
            udp.send(&vec![7; bytes]).unwrap();
            assert_eq!(udp.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{bytes} to {vip}");
        }
    }
    assert_eq!(rig.drops(0, DropReason::NoService), 0);
}

fn udp(rig: &Rig, vip: IpAddr) -> UdpSocket {
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let udp = rig.lan.client.run(|| UdpSocket::bind(any).unwrap());
    udp.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    udp
}

#[test]
fn a_port_without_a_service_is_refused_at_once_whoever_fills_in_checksums() {
    let rig = Rig::new();
    all_is_refused(&rig);
    rig.lan.nodes[0].checksum_in_software("eth0");
    all_is_refused(&rig);
    rig.lan.client.checksum_in_software("eth0");
    all_is_refused(&rig);
    assert_eq!(messages(&rig, Message::Unreachable), 18);
}

#[test]
fn a_connection_to_a_service_that_is_gone_is_reset() {
    let mut rig = Rig::new();
    rig.lan.client.checksum_in_software("eth0");
    let mut streams = [vip4(), vip6()].map(|vip| connect_to(&rig, vip, "two"));
    rig.change(|_, wanted| wanted.services.clear());
    for stream in &mut streams {
        let _ = stream.write_all(&[1; 5000]);
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn resets_and_what_another_node_handed_on_are_not_refused() {
    let rig = Rig::new();
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    let packet = |protocol, payload| frames::V4 { to, vip, protocol, ttl: 64, fragment: 0, payload }.bytes();
    let reset = [&[0x9c, 0x40, 0, 82][..], &[0; 8], &[0x50, 0x04], &[0; 6]].concat();
    let mut handed_on = packet(17, frames::udp(82));
    handed_on[6..12].copy_from_slice(&rig.lan.nodes[1].mac("eth0"));
    frames::send(&rig.lan.client, &[packet(6, reset)]);
    frames::send(&rig.lan.nodes[1], &[handed_on]);
    eventually("both are dropped", || rig.drops(0, DropReason::NoService) == 2);
    assert_eq!(messages(&rig, Message::Reset) + messages(&rig, Message::Unreachable), 0);
}

#[test]
fn a_flood_to_a_port_without_a_service_is_answered_in_part_and_all_of_it_is_counted() {
    let rig = Rig::new();
    let (to, vip) = (rig.lan.nodes[0].mac("eth0"), frames::as_v4(vip4()));
    let frame = frames::V4 { to, vip, protocol: 17, ttl: 64, fragment: 0, payload: frames::udp(82) }.bytes();
    let begin = Instant::now();
    frames::send(&rig.lan.client, &vec![frame; 20_000]);
    let answered = || messages(&rig, Message::Unreachable);
    eventually("all are counted", || answered() + rig.drops(0, DropReason::NoService) == 20_000);
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let most = limits::REFUSALS_AT_ONCE + limits::REFUSALS_PER_SECOND * (begin.elapsed().as_secs() + 1);
    assert!((limits::REFUSALS_AT_ONCE..=cpus * most).contains(&answered()), "{} answered", answered());
}
