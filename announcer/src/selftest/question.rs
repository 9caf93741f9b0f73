//! The frames of a test: questions as a client asks them, and what counts as an answer.

use std::net::IpAddr;

use super::assign::Seat;
use crate::wire::{ArpFrame, MacAddr, NdpFrame, arp::Operation, ndp::Message};

/// A question for `target` from this node's own addresses, to one machine or to all. `None` if the families differ.
#[must_use]
pub fn ask(seat: &Seat, target: IpAddr, to: Option<MacAddr>) -> Option<Vec<u8>> {
    match (seat.address, target) {
        (IpAddr::V4(own), IpAddr::V4(target)) => Some(ArpFrame::question(seat.mac, own, target, to).emit()),
        (IpAddr::V6(own), IpAddr::V6(target)) => Some(NdpFrame::question(seat.mac, own, target, to).emit()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// The address that a frame answers for and the Ethernet address it gives. Announcements to all are none: they
/// answer no question.
#[must_use]
pub fn answer(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    if let Ok(arp) = ArpFrame::parse(frame) {
        let answers = arp.operation == Operation::Reply && arp.destination.is_unicast();
        return answers.then_some((arp.sender_ip.into(), arp.sender_mac));
    }
    let ndp = NdpFrame::parse(frame).ok()?;
    match ndp.message {
        Message::Advertisement { target, target_link, solicited: true, .. } => {
            Some((target.into(), target_link.unwrap_or(ndp.source)))
        }
        Message::Advertisement { .. } | Message::Solicitation { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const OWNER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    fn seat(address: &str) -> Seat {
        Seat { interface: "eth0".into(), mac: ME, address: address.parse().unwrap() }
    }

    #[test]
    fn a_question_claims_nothing_but_the_askers_own_address() {
        for to in [None, Some(OWNER)] {
            let bytes = ask(&seat("10.77.0.1"), "10.77.0.100".parse().unwrap(), to).unwrap();
            let arp = ArpFrame::parse(&bytes).unwrap();
            assert_eq!((arp.source, arp.sender_mac, arp.sender_ip), (ME, ME, [10, 77, 0, 1].into()));
            assert_eq!((arp.operation, arp.target_ip), (Operation::Request, [10, 77, 0, 100].into()));
            assert_eq!(arp.destination, to.unwrap_or(MacAddr::broadcast()));

            let bytes = ask(&seat("fd77::1"), "fd77::100".parse().unwrap(), to).unwrap();
            let ndp = NdpFrame::parse(&bytes).unwrap();
            assert_eq!((ndp.source, ndp.source_ip), (ME, "fd77::1".parse().unwrap()));
            let target = "fd77::100".parse().unwrap();
            assert_eq!(ndp.message, Message::Solicitation { target, source_link: Some(ME) });
            assert_eq!(ndp.destination, to.unwrap_or(MacAddr(0x33, 0x33, 0xff, 0, 1, 0)));
        }
        assert_eq!(ask(&seat("fd77::1"), "10.77.0.100".parse().unwrap(), None), None);
    }

    #[test]
    fn replies_are_answers_and_announcements_are_not() {
        let vip4 = std::net::Ipv4Addr::new(10, 77, 0, 100);
        let reply = ArpFrame { destination: ME, ..ArpFrame::gratuitous_reply(OWNER, vip4) };
        assert_eq!(answer(&reply.emit()), Some((vip4.into(), OWNER)));
        assert_eq!(answer(&ArpFrame::gratuitous_reply(OWNER, vip4).emit()), None);
        assert_eq!(answer(&ArpFrame::announcement(OWNER, vip4).emit()), None);

        let vip6: std::net::Ipv6Addr = "fd77::100".parse().unwrap();
        let unsolicited = NdpFrame::unsolicited(OWNER, vip6);
        assert_eq!(answer(&unsolicited.emit()), None);
        let message = Message::Advertisement {
            target: vip6,
            target_link: None,
            router: false,
            solicited: true,
            overriding: true,
        };
        let solicited =
            NdpFrame { destination: ME, destination_ip: "fd77::1".parse().unwrap(), message, ..unsolicited };
        assert_eq!(answer(&solicited.emit()), Some((vip6.into(), OWNER)));
    }

    proptest! {
        #[test]
        fn arbitrary_frames_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = answer(&bytes);
        }
    }
}
