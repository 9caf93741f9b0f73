//! Answers to captured and made-up frames.

use super::*;
use crate::wire::{fixtures, ndp::solicited_node};

const OWN: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x77);
const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x0b);
const VIP4: &str = "10.77.0.1";
const VIP6: &str = "fd77::1";

fn heard(frame: &[u8]) -> Heard {
    let owned = |ip: IpAddr| [VIP4, VIP6].iter().any(|vip| ip == vip.parse::<IpAddr>().unwrap());
    hear(frame, OWN, |mac| mac == OWN, owned, |vip, _| owned(vip)).unwrap()
}

fn arp_answer(frame: &[u8]) -> Option<ArpFrame> {
    let (kind, bytes) = heard(frame).answer?;
    assert_eq!(kind, Kind::ArpReply);
    Some(ArpFrame::parse(&bytes).unwrap())
}

fn ndp_answer(frame: &NdpFrame) -> Option<NdpFrame> {
    let (kind, bytes) = heard(&frame.emit()).answer?;
    assert_eq!(kind, Kind::Na);
    Some(NdpFrame::parse(&bytes).unwrap())
}

fn request() -> ArpFrame {
    ArpFrame::parse(&fixtures::bytes(include_str!("../../wire/fixtures/arp_arping_request.hex"))).unwrap()
}

fn solicit() -> NdpFrame {
    NdpFrame::parse(&fixtures::bytes(include_str!("../../wire/fixtures/ndp_ndisc6_ns.hex"))).unwrap()
}

/// A reply as the kernel sends it, but from us.
fn as_ours(mut bytes: Vec<u8>) -> ArpFrame {
    bytes[6..12].copy_from_slice(&OWN.octets());
    bytes[22..28].copy_from_slice(&OWN.octets());
    ArpFrame::parse(&bytes).unwrap()
}

#[test]
fn an_arp_request_is_answered_as_the_kernel_would() {
    let kernel = fixtures::bytes(include_str!("../../wire/fixtures/arp_kernel_reply.hex"));
    assert_eq!(arp_answer(&request().emit()), Some(as_ours(kernel)));
}

#[test]
fn an_arp_probe_is_answered_as_the_kernel_would() {
    let probe = fixtures::bytes(include_str!("../../wire/fixtures/arp_arping_probe.hex"));
    let kernel = fixtures::bytes(include_str!("../../wire/fixtures/arp_kernel_probe_reply.hex"));
    assert_eq!(arp_answer(&probe), Some(as_ours(kernel)));
    assert_eq!(heard(&probe).claimed, None);
}

#[test]
fn a_unicast_request_is_answered_too() {
    let probe = ArpFrame { destination: OWN, target_mac: OWN, ..request() };
    assert_eq!(arp_answer(&probe.emit()).map(|reply| reply.destination), Some(CLIENT));
}

#[test]
fn what_is_asked_of_others_is_not_answered() {
    let foreign = ArpFrame { target_ip: "10.77.0.2".parse().unwrap(), ..request() };
    assert_eq!(heard(&foreign.emit()), Heard::default());
    let message = Message::Solicitation { target: "fd77::2".parse().unwrap(), source_link: Some(CLIENT) };
    assert_eq!(heard(&NdpFrame { message, ..solicit() }.emit()), Heard::default());
}

#[test]
fn answers_never_go_to_a_group() {
    let from_group = ArpFrame { sender_mac: MacAddr::broadcast(), ..request() };
    assert_eq!(arp_answer(&from_group.emit()).map(|reply| reply.destination), Some(CLIENT));
    let all_group = ArpFrame { source: MacAddr::broadcast(), ..from_group };
    assert_eq!(arp_answer(&all_group.emit()), None);
}

#[test]
fn a_solicitation_is_answered_as_the_kernel_would() {
    let kernel = fixtures::bytes(include_str!("../../wire/fixtures/ndp_kernel_na.hex"));
    let mut expected = NdpFrame::parse(&kernel).unwrap();
    expected.source = OWN;
    expected.message = Message::Advertisement {
        target: VIP6.parse().unwrap(),
        target_link: Some(OWN),
        router: false,
        solicited: true,
        overriding: true,
    };
    assert_eq!(ndp_answer(&solicit()), Some(expected));
}

#[test]
fn a_unicast_solicitation_without_a_link_option_is_answered_to_the_frames_source() {
    let vip: Ipv6Addr = VIP6.parse().unwrap();
    let message = Message::Solicitation { target: vip, source_link: None };
    let probe = NdpFrame { destination: OWN, destination_ip: vip, message, ..solicit() };
    let answer = ndp_answer(&probe).unwrap();
    assert_eq!((answer.destination, answer.destination_ip), (CLIENT, probe.source_ip));
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes_unsolicited() {
    let vip: Ipv6Addr = VIP6.parse().unwrap();
    let probe = NdpFrame {
        source_ip: Ipv6Addr::UNSPECIFIED,
        destination_ip: solicited_node(vip),
        message: Message::Solicitation { target: vip, source_link: None },
        ..solicit()
    };
    assert_eq!(ndp_answer(&probe), Some(NdpFrame::unsolicited(OWN, vip)));
    assert_eq!(heard(&probe.emit()).claimed, None);
}

#[test]
fn whoever_announces_our_vip_is_named() {
    let vip4: IpAddr = VIP4.parse().unwrap();
    let vip6: IpAddr = VIP6.parse().unwrap();
    let kernel_reply = fixtures::bytes(include_str!("../../wire/fixtures/arp_kernel_reply.hex"));
    let a = MacAddr(2, 0, 0, 0, 0, 0x0a);
    assert_eq!(heard(&kernel_reply), Heard { answer: None, claimed: Some((vip4, a)) });
    let garp = ArpFrame::announcement(CLIENT, VIP4.parse().unwrap());
    assert_eq!(heard(&garp.emit()), Heard { answer: None, claimed: Some((vip4, CLIENT)) });
    let na = NdpFrame::unsolicited(CLIENT, VIP6.parse().unwrap());
    assert_eq!(heard(&na.emit()), Heard { answer: None, claimed: Some((vip6, CLIENT)) });
    let speaks_as_us = NdpFrame { source_ip: VIP6.parse().unwrap(), ..solicit() };
    assert_eq!(heard(&speaks_as_us.emit()).claimed, Some((vip6, CLIENT)));
}

#[test]
fn our_own_announcements_heard_on_another_interface_are_no_conflict() {
    let garp = ArpFrame::announcement(OWN, VIP4.parse().unwrap());
    assert_eq!(heard(&garp.emit()), Heard::default());
    let na = NdpFrame::unsolicited(OWN, VIP6.parse().unwrap());
    assert_eq!(heard(&na.emit()), Heard::default());
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = hear(&bytes, OWN, |_| false, |_| true, |_, _| true);
    }
}
