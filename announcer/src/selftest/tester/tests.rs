//! The tester against a segment that answers as told.

use proptest::prelude::*;

use super::*;
use crate::{
    selftest::{
        assign::{Host, Job, Seat},
        trial::{RECHECK, STRANGERS, TRIES, WAIT},
    },
    wire::{ArpFrame, MacAddr, NdpFrame, arp::Operation, ndp::Message},
};

const ME: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const OWNER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
const THIRD: MacAddr = MacAddr(2, 0, 0, 0, 0, 3);
const FOREIGN: MacAddr = MacAddr(2, 9, 9, 9, 9, 9);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "any instant does")]
fn start() -> Instant {
    Instant::now()
}

/// The address that a frame asks for, and whether it asks all.
fn asks(frame: &[u8]) -> (IpAddr, bool) {
    match ArpFrame::parse(frame) {
        Ok(arp) => (arp.target_ip.into(), arp.destination.is_broadcast()),
        Err(_) => match NdpFrame::parse(frame).unwrap() {
            NdpFrame { destination, message: Message::Solicitation { target, .. }, .. } => {
                (target.into(), destination.is_multicast())
            }
            other => panic!("{other:?}"),
        },
    }
}

/// An answer: `address` is at `mac`.
fn says(address: IpAddr, mac: MacAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => ArpFrame {
            destination: ME,
            operation: Operation::Reply,
            target_ip: [10, 77, 0, 1].into(),
            target_mac: ME,
            ..ArpFrame::announcement(mac, address)
        }
        .emit(),
        IpAddr::V6(address) => {
            let message = Message::Advertisement {
                target: address,
                target_link: Some(mac),
                router: false,
                solicited: true,
                overriding: true,
            };
            let frame = NdpFrame::unsolicited(mac, address);
            NdpFrame { destination: ME, destination_ip: "fd77::1".parse().unwrap(), message, ..frame }.emit()
        }
    }
}

fn job(vip: IpAddr) -> Job {
    let own = |n: u8| if vip.is_ipv4() { ip(&format!("10.77.0.{n}")) } else { ip(&format!("fd77::{n}")) };
    Job {
        owner: name("n2"),
        epoch: 4,
        may_replace: true,
        owner_macs: [OWNER].into(),
        owner_host: Host { address: own(2), mac: OWNER },
        witness: Some(Host { address: own(3), mac: THIRD }),
        seat: Seat { interface: "eth0".into(), mac: ME, address: own(1) },
    }
}

fn assignment(vips: impl IntoIterator<Item = IpAddr>) -> Assignment {
    let members = [(ME, name("n1")), (OWNER, name("n2")), (THIRD, name("n3"))].into();
    Assignment { jobs: vips.into_iter().map(|vip| (vip, job(vip))).collect(), members, ..Assignment::default() }
}

struct Bench {
    now: Instant,
    tester: Tester,
    /// What was asked: when, for what, and whether all were.
    asked: Vec<(Instant, IpAddr, bool)>,
    told: Vec<Action>,
}

impl Bench {
    fn new(vips: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut bench = Self { now: start(), tester: Tester::default(), asked: Vec::new(), told: Vec::new() };
        bench.tester.handle_assignment(assignment(vips), bench.now);
        bench
    }

    /// Lets time pass; each question is answered by the machines that `who` names for (address, asked all).
    fn run(&mut self, time: Duration, who: impl Fn(IpAddr, bool) -> Vec<MacAddr>) {
        let end = self.now + time;
        while let Some(due) = self.tester.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now || self.tester.poll_timeout().is_some());
            self.now = self.now.max(due);
            self.tester.handle_timeout(self.now);
            while let Some(action) = self.tester.poll_action() {
                match action {
                    Action::Send { frame, .. } => {
                        let (address, all) = asks(&frame);
                        self.asked.push((self.now, address, all));
                        for mac in who(address, all) {
                            self.tester.handle_frame("eth0", &says(address, mac), self.now);
                        }
                    }
                    told => self.told.push(told),
                }
            }
        }
        self.now = end;
    }

    fn rounds(&self, outcome: Outcome) -> u64 {
        self.tester.results().rounds.get(&outcome).copied().unwrap_or(0)
    }

    fn troubles(&self) -> Vec<Outcome> {
        self.tester.results().troubles.values().map(|trouble| trouble.outcome).collect()
    }
}

/// All answer for their own addresses, the owner for `vips`.
fn healthy(address: IpAddr, _: bool) -> Vec<MacAddr> {
    vec![if address == ip("10.77.0.3") || address == ip("fd77::3") { THIRD } else { OWNER }]
}

/// The owner answers for itself and not for the VIPs.
fn mute(address: IpAddr, all: bool) -> Vec<MacAddr> {
    if is_vip(address) { Vec::new() } else { healthy(address, all) }
}

fn is_vip(address: IpAddr) -> bool {
    [ip("10.77.0.100"), ip("fd77::100")].contains(&address)
}

const BOTH: [&str; 2] = ["10.77.0.100", "fd77::100"];

#[test]
fn a_healthy_vip_is_asked_for_once_a_round_mostly_from_its_owner_alone() {
    for vip in BOTH.map(ip) {
        let mut bench = Bench::new([vip]);
        bench.run(PERIOD * 2 * TO_ALL + SETTLE, healthy);
        let all = bench.asked.iter().filter(|(_, _, all)| *all).count();
        assert_eq!((all, bench.asked.len()), (2, 24));
        assert_eq!(bench.rounds(Outcome::Answered), 24);
        assert_eq!((bench.told, bench.tester.verdicts()), (vec![], Verdicts::default()));
    }
}

#[test]
fn a_silent_owner_is_reported_and_after_another_round_replaced() {
    for vip in BOTH.map(ip) {
        let mut bench = Bench::new([vip]);
        let (delay, _) = spread(vip);
        bench.run(SETTLE + delay + WAIT * u32::from(TRIES), mute);
        assert_eq!((bench.troubles(), bench.told.len()), (vec![Outcome::Silent], 1), "reported");
        assert_eq!(bench.tester.verdicts(), Verdicts::default(), "and not replaced yet");
        bench.run(PERIOD + WAIT * 2, mute);
        let verdicts = bench.tester.verdicts();
        assert_eq!(verdicts.replace, [(vip, Silence { owner: name("n2"), epoch: 4, rounds: 2 })].into());
        assert_eq!(verdicts.findings.silent, [name("n2")].into());

        // This node has taken it; the other is named for a while.
        bench.tester.handle_assignment(assignment([]), bench.now);
        let verdicts = bench.tester.verdicts();
        assert_eq!((verdicts.replace.len(), verdicts.findings.silent.len()), (0, 1));
        assert_eq!(bench.troubles(), []);
        bench.run(AVOID, healthy);
        assert_eq!(bench.tester.verdicts(), Verdicts::default());
    }
}

#[test]
fn as_long_as_ownership_does_not_follow_the_verdict_is_renewed() {
    let vip = ip(BOTH[0]);
    let mut bench = Bench::new([vip]);
    bench.run(PERIOD * 4, mute);
    assert!(bench.tester.verdicts().replace[&vip].rounds > 2);
}

#[test]
fn one_bad_round_moves_nothing() {
    let vip = ip(BOTH[0]);
    let mut bench = Bench::new([vip]);
    bench.run(PERIOD + SETTLE, mute);
    assert_eq!(bench.troubles(), [Outcome::Silent]);
    bench.run(PERIOD, healthy);
    assert_eq!((bench.troubles(), bench.told.last()), (vec![], Some(&Action::Recovered { vip })));
    bench.run(PERIOD, mute);
    assert_eq!((bench.troubles(), bench.tester.verdicts()), (vec![Outcome::Silent], Verdicts::default()));
}

#[test]
fn an_owner_that_answers_whom_it_knows_but_not_a_question_to_all_is_silent() {
    let vip = ip(BOTH[1]);
    let mut bench = Bench::new([vip]);
    bench.run(PERIOD * (TO_ALL + 3), |address, all| if all { mute(address, all) } else { healthy(address, all) });
    assert!(bench.tester.verdicts().replace.contains_key(&vip), "{:?}", bench.told);
}

#[test]
fn without_an_answer_from_the_owner_itself_nobody_is_replaced() {
    for (who, outcome) in [(THIRD, Outcome::Unreachable), (ME, Outcome::Deaf), (FOREIGN, Outcome::Deaf)] {
        let mut bench = Bench::new(BOTH.map(ip));
        bench.run(PERIOD * 20, |address, _| {
            let third = [ip("10.77.0.3"), ip("fd77::3")].contains(&address);
            if third { vec![who] } else { Vec::new() }
        });
        assert_eq!(bench.troubles(), [outcome, outcome], "{who}");
        assert_eq!(bench.tester.verdicts(), Verdicts::default());
    }
}

#[test]
fn who_may_not_take_the_vip_only_reports() {
    let vip = ip(BOTH[0]);
    let mut bench = Bench::new([]);
    let mut assignment = assignment([vip]);
    assignment.jobs.get_mut(&vip).unwrap().may_replace = false;
    bench.tester.handle_assignment(assignment, bench.now);
    bench.run(PERIOD * 5, mute);
    assert_eq!((bench.troubles(), bench.tester.verdicts()), (vec![Outcome::Silent], Verdicts::default()));
}

#[test]
fn a_second_answer_is_looked_at_again_then_reported_and_replaces_nobody() {
    for (stranger, outcome) in [(THIRD, Outcome::OtherMember), (FOREIGN, Outcome::Foreign)] {
        for owner_too in [true, false] {
            let vip = ip(BOTH[0]);
            let mut bench = Bench::new([vip]);
            let who = |address, all| {
                let mut answers = if owner_too || !is_vip(address) { healthy(address, all) } else { Vec::new() };
                answers.extend((is_vip(address) && all).then_some(stranger));
                answers
            };
            bench.run(PERIOD * TO_ALL + SETTLE + RECHECK + WAIT * 2, who);
            assert_eq!(bench.troubles(), [outcome]);
            let verdicts = bench.tester.verdicts();
            assert_eq!((verdicts.replace.len(), verdicts.findings.disputed), (0, [vip].into()));
            bench.run(PERIOD * 2, healthy);
            assert_eq!((bench.troubles(), bench.tester.verdicts()), (vec![], Verdicts::default()));
        }
    }
}

#[test]
fn two_that_answer_for_a_moment_while_a_vip_moves_are_no_news() {
    let mut bench = Bench::new([ip(BOTH[0])]);
    while !bench.asked.iter().any(|(_, _, all)| *all) {
        bench.run(WAIT, |_, all| if all { vec![OWNER, THIRD] } else { vec![OWNER] });
    }
    bench.run(PERIOD * 3, healthy);
    assert_eq!((bench.rounds(Outcome::OtherMember), bench.told), (0, vec![]));
}

#[test]
fn a_new_claim_is_tested_from_the_beginning() {
    let vip = ip(BOTH[0]);
    let mut bench = Bench::new([vip]);
    bench.run(PERIOD + SETTLE, mute);
    let mut assignment = assignment([vip]);
    assignment.jobs.get_mut(&vip).unwrap().epoch = 5;
    bench.tester.handle_assignment(assignment, bench.now);
    assert_eq!(bench.troubles(), []);
    bench.run(PERIOD + SETTLE, mute);
    assert_eq!((bench.troubles(), bench.tester.verdicts()), (vec![Outcome::Silent], Verdicts::default()));
}

#[test]
fn a_thousand_vips_are_asked_for_spread_over_the_period() {
    let vips =
        (0..1000u32).map(|n| IpAddr::from([10, 88, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap()]));
    let mut bench = Bench::new(vips);
    bench.run(PERIOD * 4, healthy);
    let (mut most, mut to_all) = (0, 0);
    for (at, _, all) in &bench.asked {
        let near = bench.asked.iter().filter(|(other, _, _)| other >= at && *other < *at + Duration::from_millis(100));
        most = most.max(near.count());
        to_all += usize::from(*all);
    }
    assert!(most <= 50, "{most} questions in 100 ms");
    assert!(to_all * 8 < bench.asked.len(), "{to_all} of {} to all", bench.asked.len());
}

#[test]
fn a_flood_of_made_up_answers_is_remembered_no_further() {
    let vip = ip(BOTH[0]);
    let mut bench = Bench::new([vip]);
    bench.run(PERIOD * (TO_ALL + 1), |address, _| {
        let made_up = (0..=255).map(|n| MacAddr(2, 1, 1, 1, 1, n));
        if is_vip(address) { made_up.collect() } else { Vec::new() }
    });
    let trouble = &bench.tester.results().troubles[&vip];
    assert_eq!((trouble.outcome, trouble.others.len()), (Outcome::Foreign, STRANGERS));
}

#[test]
fn what_peers_are_told_is_bounded_and_the_rest_is_counted() {
    let vips: Vec<_> = (0..40).map(|n| IpAddr::from([10, 77, 1, n])).collect();
    let mut bench = Bench::new(vips);
    bench.run(PERIOD * (TO_ALL + 2), |_, all| if all { vec![OWNER, FOREIGN] } else { vec![OWNER] });
    assert_eq!(bench.tester.results().troubles.len(), 40);
    assert_eq!(bench.tester.verdicts().findings.disputed.len(), MAX_DISPUTED);
    assert!(bench.tester.results().limits["disputed_vips"] > 0);
}

proptest! {
    /// Whatever frames come in, whenever: no panic, nothing remembered of addresses that were not asked for, and no
    /// owner that answers is replaced.
    #[test]
    fn arbitrary_frames_grow_nothing_and_replace_nobody_who_answers(
        frames in prop::collection::vec((0..4u8, any::<[u8; 6]>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..100)), 0..200),
    ) {
        let mut bench = Bench::new(BOTH.map(ip));
        for (kind, mac, last, bytes) in frames {
            let mac = MacAddr::from(mac);
            let frame = match kind {
                0 => bytes,
                1 => says(IpAddr::from([10, 77, 0, last]), mac),
                2 => says(ip("fd77::100"), mac),
                _ => says(IpAddr::from([last, 77, 0, 3]), THIRD),
            };
            bench.tester.handle_frame("eth0", &frame, bench.now);
            bench.run(Duration::from_millis(u64::from(last)), healthy);
        }
        prop_assert!(bench.tester.heard.len() <= 4);
        prop_assert_eq!(bench.tester.trials.len(), 2);
        prop_assert_eq!(bench.tester.due.len(), 2);
        prop_assert!(bench.tester.trials.values().all(|trial| trial.strangers().len() <= STRANGERS));
        prop_assert!(bench.tester.verdicts().replace.is_empty());
    }
}
