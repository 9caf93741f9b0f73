//! Neighbour discovery frames: captured ones both ways, and each rule of RFC 4861 section 7.1 broken in turn.

use proptest::prelude::*;

use super::*;
use crate::wire::fixtures;

const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x0a);
const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x0b);

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn na(solicited: bool, link: Option<MacAddr>, target: &str) -> Message {
    Message::Advertisement {
        target: ip(target),
        target_link: link,
        router: false,
        solicited,
        overriding: link.is_some(),
    }
}

fn solicit() -> NdpFrame {
    NdpFrame {
        destination: MacAddr(0x33, 0x33, 0xff, 0, 0, 1),
        source: B,
        source_ip: ip("fe80::ff:fe00:b"),
        destination_ip: ip("ff02::1:ff00:1"),
        message: Message::Solicitation { target: ip("fd77::1"), source_link: Some(B) },
    }
}

fn detection() -> NdpFrame {
    NdpFrame {
        destination: MacAddr(0x33, 0x33, 0xff, 0, 0, 9),
        source: B,
        source_ip: Ipv6Addr::UNSPECIFIED,
        destination_ip: ip("ff02::1:ff00:9"),
        message: Message::Solicitation { target: ip("fd77::9"), source_link: None },
    }
}

#[test]
fn captured_frames_are_read_and_written_alike() {
    let pairs = [
        (include_str!("../fixtures/ndp_kernel_unsolicited_na.hex"), NdpFrame::unsolicited(B, ip("fd77::9"))),
        (
            include_str!("../fixtures/ndp_kernel_na.hex"),
            NdpFrame {
                destination: B,
                source: A,
                source_ip: ip("fd77::1"),
                destination_ip: ip("fe80::ff:fe00:b"),
                message: na(true, Some(A), "fd77::1"),
            },
        ),
        (
            include_str!("../fixtures/ndp_kernel_nud_ns.hex"),
            NdpFrame {
                destination: B,
                source: A,
                source_ip: ip("fe80::ff:fe00:a"),
                destination_ip: ip("fe80::ff:fe00:b"),
                message: Message::Solicitation { target: ip("fe80::ff:fe00:b"), source_link: Some(A) },
            },
        ),
        (
            include_str!("../fixtures/ndp_kernel_nud_na.hex"),
            NdpFrame {
                destination: A,
                source: B,
                source_ip: ip("fe80::ff:fe00:b"),
                destination_ip: ip("fe80::ff:fe00:a"),
                message: na(true, None, "fe80::ff:fe00:b"),
            },
        ),
    ];
    for (text, value) in pairs {
        let bytes = fixtures::bytes(text);
        assert_eq!(NdpFrame::parse(&bytes), Ok(value), "{text}");
        assert_eq!(value.emit(), bytes, "{text}");
    }
}

#[test]
fn captured_frames_with_more_than_a_value_holds_are_read() {
    // The first has a flow label, the second a nonce option; neither is ours to send.
    let ndisc6 = fixtures::bytes(include_str!("../fixtures/ndp_ndisc6_ns.hex"));
    assert_eq!(NdpFrame::parse(&ndisc6), Ok(solicit()));
    let dad = fixtures::bytes(include_str!("../fixtures/ndp_kernel_dad_ns.hex"));
    assert_eq!(NdpFrame::parse(&dad), Ok(detection()));
}

#[test]
fn other_icmpv6_messages_are_foreign() {
    let rs = fixtures::bytes(include_str!("../fixtures/ndp_kernel_rs.hex"));
    assert_eq!(NdpFrame::parse(&rs), Err(WireError::Foreign));
}

/// The frame with a byte changed and the checksum made right again.
fn with_byte(frame: &NdpFrame, position: usize, value: u8) -> Vec<u8> {
    let mut bytes = frame.emit();
    bytes[position] = value;
    resum(&mut bytes);
    bytes
}

fn resum(bytes: &mut [u8]) {
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[22..38]).unwrap());
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[38..54]).unwrap());
    let sum = icmpv6::checksum(&Icmpv6Packet::new(&bytes[54..]).unwrap(), &source, &destination);
    bytes[56..58].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn each_rule_of_rfc_4861_is_checked() {
    let solicited_multicast =
        NdpFrame { message: na(true, Some(A), "fd77::1"), ..NdpFrame::unsolicited(A, ip("fd77::1")) };
    let detection_with_link =
        NdpFrame { message: Message::Solicitation { target: ip("fd77::9"), source_link: Some(B) }, ..detection() };
    let detection_to_all = NdpFrame { destination_ip: ALL_NODES, ..detection() };
    let multicast_target =
        NdpFrame { message: Message::Solicitation { target: ALL_NODES, source_link: Some(B) }, ..solicit() };
    let multicast_na = NdpFrame { message: na(false, Some(A), "ff02::1"), ..NdpFrame::unsolicited(A, ALL_NODES) };
    let mut wrong_sum = solicit().emit();
    wrong_sum[57] ^= 1;
    let cases = [
        ("hop limit", with_byte(&solicit(), 21, 254), WireError::HopLimit),
        ("checksum", wrong_sum, WireError::Checksum),
        ("code", with_byte(&solicit(), 55, 1), WireError::Code),
        ("option of length 0", with_byte(&solicit(), 79, 0), WireError::Option),
        ("option past the end", with_byte(&solicit(), 79, 2), WireError::Option),
        ("option of 255 units", with_byte(&solicit(), 79, 255), WireError::Option),
        ("multicast target", multicast_target.emit(), WireError::Address),
        ("multicast target, advertised", multicast_na.emit(), WireError::Address),
        ("detection with a link option", detection_with_link.emit(), WireError::Address),
        ("detection to all nodes", detection_to_all.emit(), WireError::Address),
        ("solicited flag in multicast", solicited_multicast.emit(), WireError::Solicited),
        ("UDP", with_byte(&solicit(), 20, 17), WireError::Foreign),
        ("IPv4 in the version field", with_byte(&solicit(), 14, 0x40), WireError::Foreign),
    ];
    for (rule, bytes, error) in cases {
        assert_eq!(NdpFrame::parse(&bytes), Err(error), "{rule}");
    }
}

#[test]
fn an_icmp_length_below_24_bytes_is_truncated() {
    let mut bytes = detection().emit();
    bytes.truncate(14 + 40 + 20);
    bytes[19] = 20;
    resum(&mut bytes);
    assert_eq!(NdpFrame::parse(&bytes), Err(WireError::Truncated));
}

#[test]
fn every_shorter_frame_is_truncated_and_padding_is_ignored() {
    let bytes = solicit().emit();
    for length in 0..bytes.len() {
        assert_eq!(NdpFrame::parse(&bytes[..length]), Err(WireError::Truncated), "{length} bytes");
    }
    let padded = [bytes, vec![0xaa; 10]].concat();
    assert_eq!(NdpFrame::parse(&padded), Ok(solicit()));
}

#[test]
fn groups_and_their_macs_follow_the_last_bytes_of_the_address() {
    let group = solicited_node(ip("fd77::12:3456:789a"));
    assert_eq!(group, ip("ff02::1:ff56:789a"));
    assert_eq!(multicast_mac(group), MacAddr(0x33, 0x33, 0xff, 0x56, 0x78, 0x9a));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = NdpFrame::parse(&bytes);
    }

    #[test]
    fn arbitrary_options_behind_good_headers_never_panic(options in prop::collection::vec(any::<u8>(), 0..2100), advert: bool) {
        let mut bytes = detection().emit();
        bytes[54] = if advert { 136 } else { 135 };
        bytes.extend_from_slice(&options);
        bytes[18..20].copy_from_slice(&u16::try_from(24 + options.len()).unwrap().to_be_bytes());
        resum(&mut bytes);
        match NdpFrame::parse(&bytes) {
            Ok(frame) => prop_assert_eq!(NdpFrame::parse(&frame.emit()), Ok(frame)),
            Err(error) => prop_assert!(matches!(error, WireError::Option | WireError::Address), "{error}"),
        }
    }
}
