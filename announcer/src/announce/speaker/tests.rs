//! Links and wishes in, frames and reports out.

#![expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]

use super::*;
use crate::link::Uplink;

const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x77);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x66);
const VIP4: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";

fn links(uplinks: &[(&str, u32, MacAddr, bool)]) -> Links {
    let uplink = |&(name, index, mac, carrier): &(&str, u32, MacAddr, bool)| {
        let name = name.to_owned();
        (name.clone(), Uplink { name, index, mac: mac.octets(), prefixes: vec![], up: true, carrier })
    };
    Links { uplinks: uplinks.iter().map(uplink).collect() }
}

fn wish(vips: &[&str], epoch: u64, interfaces: &[&str]) -> BTreeMap<IpAddr, Announcement> {
    let interfaces: BTreeSet<String> = interfaces.iter().map(|&name| name.into()).collect();
    vips.iter()
        .map(|vip| (vip.parse().unwrap(), Announcement { epoch, interfaces: interfaces.clone(), voice: Voice::Full }))
        .collect()
}

/// A speaker on eth0 that announces both VIPs, and has said so until `calm`.
fn announcing() -> (Speaker, Instant) {
    let mut speaker = Speaker::new(Duration::from_secs(3600));
    let t0 = Instant::now();
    speaker.handle_links(&links(&[("eth0", 2, MAC, true)]), t0);
    speaker.handle_wishes(wish(&[VIP4, VIP6], 1, &["eth0"]), t0);
    let calm = t0 + Duration::from_secs(60);
    assert!(!said(&mut speaker, calm).is_empty());
    (speaker, calm)
}

/// Whom and where the speaker announces until `until`, without what it repeats.
fn said(speaker: &mut Speaker, until: Instant) -> BTreeSet<(String, String, MacAddr)> {
    let mut all = BTreeSet::new();
    while let Some(due) = speaker.poll_timeout().filter(|due| *due <= until) {
        speaker.handle_timeout(due);
        while let Some(Action::Send { interface, frame, .. }) = speaker.poll_action() {
            let (vip, mac) = match ArpFrame::parse(&frame) {
                Ok(arp) => (arp.sender_ip.to_string(), arp.sender_mac),
                Err(_) => NdpFrame::parse(&frame).map(|ndp| (ndp.source_ip.to_string(), ndp.source)).unwrap(),
            };
            all.insert((interface, vip, mac));
        }
    }
    all
}

fn both(interface: &str, mac: MacAddr) -> BTreeSet<(String, String, MacAddr)> {
    [VIP4, VIP6].map(|vip| (interface.to_owned(), vip.to_owned(), mac)).into()
}

const SOON: Duration = Duration::from_secs(50);

#[test]
fn the_same_wishes_again_say_nothing_a_higher_epoch_does() {
    let (mut speaker, now) = announcing();
    speaker.handle_wishes(wish(&[VIP4, VIP6], 1, &["eth0"]), now);
    assert_eq!(said(&mut speaker, now + SOON), BTreeSet::new());
    speaker.handle_wishes(wish(&[VIP4, VIP6], 2, &["eth0"]), now + SOON);
    assert_eq!(said(&mut speaker, now + SOON), both("eth0", MAC));
}

#[test]
fn a_vip_that_is_taken_away_falls_silent_at_once() {
    let mut speaker = Speaker::new(Duration::from_secs(60));
    let now = Instant::now();
    speaker.handle_links(&links(&[("eth0", 2, MAC, true)]), now);
    speaker.handle_wishes(wish(&[VIP4, VIP6], 1, &["eth0"]), now);
    speaker.handle_wishes(BTreeMap::new(), now);
    assert_eq!(speaker.poll_timeout(), None);
    let ask = ArpFrame {
        source: STRANGER,
        sender_mac: STRANGER,
        sender_ip: "10.77.0.9".parse().unwrap(),
        ..ArpFrame::announcement(STRANGER, VIP4.parse().unwrap())
    };
    assert_eq!(speaker.handle_frame("eth0", &ask.emit(), now), Verdict::Fine);
    assert_eq!(speaker.poll_action(), None);
    assert_eq!(speaker.groups(), BTreeSet::new());
}

#[test]
fn vips_are_announced_again_when_carrier_is_back_or_mac_or_index_is_another() {
    let other = MacAddr(2, 0, 0, 0, 0, 0x78);
    for back in [("eth0", 2, MAC, true), ("eth0", 2, other, true), ("eth0", 9, MAC, true)] {
        let (mut speaker, now) = announcing();
        if back == ("eth0", 2, MAC, true) {
            speaker.handle_links(&links(&[("eth0", 2, MAC, false)]), now);
            assert_eq!(speaker.poll_timeout(), None, "nothing is said into a dead cable");
        }
        speaker.handle_links(&links(&[back]), now);
        assert_eq!(said(&mut speaker, now), both("eth0", back.2), "{back:?}");
    }
}

#[test]
fn a_change_of_another_interface_says_nothing() {
    let (mut speaker, now) = announcing();
    speaker.handle_links(&links(&[("eth0", 2, MAC, true), ("eth1", 3, STRANGER, true)]), now);
    assert_eq!(said(&mut speaker, now + SOON), BTreeSet::new());
}

#[test]
fn a_vip_is_announced_on_the_interface_it_newly_has() {
    let (mut speaker, now) = announcing();
    let second = MacAddr(2, 0, 0, 0, 0, 0x79);
    speaker.handle_links(&links(&[("eth0", 2, MAC, true), ("eth1", 3, second, true)]), now);
    speaker.handle_wishes(wish(&[VIP4, VIP6], 1, &["eth0", "eth1"]), now);
    assert_eq!(said(&mut speaker, now + SOON), both("eth1", second));
}

#[test]
fn again_announces_only_what_is_wished() {
    let (mut speaker, now) = announcing();
    speaker.handle_again(VIP4.parse().unwrap(), now);
    speaker.handle_again("10.77.0.101".parse().unwrap(), now);
    assert_eq!(said(&mut speaker, now), [("eth0".to_owned(), VIP4.to_owned(), MAC)].into());
}

#[test]
fn a_vip_is_answered_for_on_its_interfaces_only() {
    let (mut speaker, now) = announcing();
    let second = MacAddr(2, 0, 0, 0, 0, 0x79);
    speaker.handle_links(&links(&[("eth0", 2, MAC, true), ("eth1", 3, second, true)]), now);
    let ask =
        ArpFrame { sender_ip: "10.77.0.9".parse().unwrap(), ..ArpFrame::announcement(STRANGER, VIP4.parse().unwrap()) };
    speaker.handle_frame("eth1", &ask.emit(), now);
    assert_eq!(speaker.poll_action(), None);
    speaker.handle_frame("eth0", &ask.emit(), now);
    assert!(matches!(speaker.poll_action(), Some(Action::Send { kind: Kind::ArpReply, .. })));
}

#[test]
fn a_stranger_is_reported_once_and_counted_each_time_and_our_second_interface_is_none() {
    let (mut speaker, now) = announcing();
    let second = MacAddr(2, 0, 0, 0, 0, 0x79);
    speaker.handle_links(&links(&[("eth0", 2, MAC, true), ("eth1", 3, second, true)]), now);
    let garp = |mac| ArpFrame::announcement(mac, VIP4.parse().unwrap()).emit();
    assert_eq!(speaker.handle_frame("eth0", &garp(second), now), Verdict::Fine);
    assert_eq!(speaker.poll_action(), None);
    assert_eq!(speaker.handle_frame("eth0", &garp(STRANGER), now), Verdict::Conflict);
    let report = Conflict { vip: VIP4.parse().unwrap(), interface: "eth0".into(), mac: STRANGER.octets() };
    assert_eq!(speaker.poll_action(), Some(Action::Report(report)));
    assert_eq!(speaker.handle_frame("eth0", &garp(STRANGER), now), Verdict::Conflict);
    assert_eq!(speaker.poll_action(), None);
}

#[test]
fn malformed_frames_are_told_from_foreign_ones() {
    let (mut speaker, now) = announcing();
    assert_eq!(speaker.handle_frame("eth0", &[0; 10], now), Verdict::Malformed(WireError::Truncated));
    assert_eq!(speaker.handle_frame("eth0", &[0; 80], now), Verdict::Foreign);
}

#[test]
fn groups_follow_the_ipv6_vips_and_the_interfaces() {
    let (mut speaker, now) = announcing();
    let group = "ff02::1:ff00:100".parse().unwrap();
    assert_eq!(speaker.groups(), BTreeSet::from([(2, group)]));
    speaker.handle_links(&links(&[("eth0", 9, MAC, true)]), now);
    assert_eq!(speaker.groups(), BTreeSet::from([(9, group)]));
    speaker.handle_links(&Links::default(), now);
    assert_eq!(speaker.groups(), BTreeSet::new());
}
