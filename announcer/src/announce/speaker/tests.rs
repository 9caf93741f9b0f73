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

const FRIEND: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x55);
const OTHER_VIP: &str = "10.77.0.101";

fn garp(mac: MacAddr, vip: &str) -> Vec<u8> {
    ArpFrame::announcement(mac, vip.parse().unwrap()).emit()
}

fn sent(speaker: &mut Speaker) -> Vec<Kind> {
    let kind = |action| match action {
        Action::Send { kind, .. } => Some(kind),
        Action::Report(_) => None,
    };
    std::iter::from_fn(|| speaker.poll_action()).filter_map(kind).collect()
}

fn with_voice(voice: Voice, epoch: u64) -> BTreeMap<IpAddr, Announcement> {
    let mut wishes = wish(&[VIP4, VIP6], epoch, &["eth0"]);
    wishes.values_mut().for_each(|wish| wish.voice = voice);
    wishes
}

#[test]
fn a_quiet_vip_is_answered_for_and_never_announced() {
    let (mut speaker, now) = announcing();
    speaker.handle_wishes(with_voice(Voice::Quiet, 1), now);
    speaker.handle_links(&links(&[("eth0", 2, MAC, false)]), now);
    speaker.handle_links(&links(&[("eth0", 2, MAC, true)]), now);
    assert_eq!(said(&mut speaker, now + Duration::from_secs(36_000)), BTreeSet::new());
    let ask = ArpFrame::announcement(STRANGER, VIP4.parse().unwrap());
    let ask = ArpFrame { sender_ip: "10.77.0.9".parse().unwrap(), ..ask };
    speaker.handle_frame("eth0", &ask.emit(), now);
    assert_eq!(sent(&mut speaker), [Kind::ArpReply]);

    speaker.handle_wishes(with_voice(Voice::Full, 1), now);
    assert_eq!(said(&mut speaker, now), both("eth0", MAC), "it is whole again");
}

#[test]
fn a_burst_under_way_ends_when_the_voice_is_lost() {
    let mut speaker = Speaker::new(Duration::from_secs(60));
    let now = Instant::now();
    speaker.handle_links(&links(&[("eth0", 2, MAC, true)]), now);
    speaker.handle_wishes(with_voice(Voice::Full, 1), now);
    speaker.handle_timeout(now);
    speaker.handle_wishes(with_voice(Voice::Quiet, 1), now);
    assert_eq!(speaker.poll_timeout(), None);
}

#[test]
fn what_is_announced_once_gets_one_burst_and_no_refresh() {
    let mut speaker = Speaker::new(Duration::from_secs(1));
    let now = Instant::now();
    speaker.handle_links(&links(&[("eth0", 2, MAC, true)]), now);
    speaker.handle_wishes(with_voice(Voice::Once, 0), now);
    assert_eq!(said(&mut speaker, now + SOON), both("eth0", MAC));
    assert_eq!(speaker.poll_timeout(), None);
}

#[test]
fn members_out_of_reach_are_heeded_whatever_vip_they_announce_and_others_are_not() {
    let (mut speaker, now) = announcing();
    let report = |mac: MacAddr, vip: &str| {
        Action::Report(Conflict { vip: vip.parse().unwrap(), interface: "eth0".into(), mac: mac.octets() })
    };
    speaker.handle_frame("eth0", &garp(FRIEND, OTHER_VIP), now);
    assert_eq!(speaker.poll_action(), None);
    speaker.handle_inquiry(Inquiry { heed: [FRIEND].into(), ..Inquiry::default() }, now);
    assert_eq!(speaker.handle_frame("eth0", &garp(FRIEND, OTHER_VIP), now), Verdict::Fine);
    assert_eq!(speaker.poll_action(), Some(report(FRIEND, OTHER_VIP)));
    speaker.handle_frame("eth0", &garp(STRANGER, OTHER_VIP), now);
    assert_eq!(speaker.poll_action(), None);
}

#[test]
fn a_vip_in_question_is_asked_for_and_every_answer_is_reported() {
    let (mut speaker, mut now) = announcing();
    let ask = [(OTHER_VIP.parse().unwrap(), BTreeSet::from(["eth0".to_owned()]))].into();
    speaker.handle_inquiry(Inquiry { ask, ..Inquiry::default() }, now);
    for _ in 0..10 {
        now = speaker.poll_timeout().unwrap();
        speaker.handle_timeout(now);
        assert_eq!(sent(&mut speaker), [Kind::Question]);
        let answer = ArpFrame {
            operation: crate::wire::arp::Operation::Reply,
            destination: MAC,
            target_mac: MAC,
            ..ArpFrame::announcement(FRIEND, OTHER_VIP.parse().unwrap())
        };
        speaker.handle_frame("eth0", &answer.emit(), now);
        assert!(matches!(speaker.poll_action(), Some(Action::Report(_))));
    }
    speaker.handle_inquiry(Inquiry::default(), now);
    assert!(speaker.poll_timeout().is_none_or(|due| due > now + SOON));
}

#[test]
fn after_a_hold_up_nothing_is_said_before_the_segment_was_asked() {
    let (mut speaker, now) = announcing();
    speaker.handle_again(VIP4.parse().unwrap(), now);
    let woken = now + Duration::from_secs(5);
    speaker.handle_hold_up(woken);
    speaker.handle_timeout(woken);
    assert_eq!(sent(&mut speaker), [Kind::Question; 1], "VIP6 cannot be asked for without an address");
    let ask =
        ArpFrame { sender_ip: "10.77.0.9".parse().unwrap(), ..ArpFrame::announcement(STRANGER, VIP4.parse().unwrap()) };
    speaker.handle_frame("eth0", &ask.emit(), woken);
    assert_eq!(sent(&mut speaker), [], "it has waited for five seconds");
    assert_eq!(speaker.handle_frame("eth0", &garp(FRIEND, VIP4), woken), Verdict::Conflict);
    assert!(matches!(speaker.poll_action(), Some(Action::Report(_))));

    // Nobody took VIP6, and VIP4 is taken away.
    speaker.handle_wishes(wish(&[VIP6], 1, &["eth0"]), woken);
    let later = woken + SOON;
    assert_eq!(said(&mut speaker, later), BTreeSet::new(), "no burst");
    assert!(speaker.poll_timeout().is_some(), "but a refresh in its time");
}
