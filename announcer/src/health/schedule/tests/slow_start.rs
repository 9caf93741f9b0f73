//! Which pods start slowly, and that each comes to its full share.

use super::*;

const SLOW_START: Duration = Duration::from_secs(9);
const THIRD: Duration = Duration::from_secs(3);

fn slow() -> Check {
    Check { slow_start: SLOW_START, ..check() }
}

fn slow_target(last: u8) -> Target {
    Target { check: slow().id(), ..target(last) }
}

fn slow_plan(lasts: impl IntoIterator<Item = u8>) -> Plan {
    Plan { targets: lasts.into_iter().map(|last| (slow_target(last), slow())).collect() }
}

/// Answers all probes that are due until `end` by `answer`, and the time after that.
fn answer_until(schedule: &mut Schedule, end: Instant, answer: impl Fn(&Target) -> Answer) {
    while let Some(due) = schedule.poll_timeout().filter(|due| *due <= end) {
        while let Some(start) = schedule.poll_start(due) {
            schedule.handle_answer(&start.target, start.token, answer(&start.target), due, wall());
        }
    }
}

/// The verdict that is gossiped of each target by its last byte, if any changed.
fn told(schedule: &mut Schedule, now: Instant) -> Option<Vec<(u8, Verdict)>> {
    let verdicts = schedule.poll_verdicts(now)?;
    assert!(
        verdicts.warming.keys().all(|target| {
            verdicts.targets.get(target).is_none_or(|judgement| judgement.verdict == Verdict::Healthy)
        })
    );
    let last = |target: Target| match target.address {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    Some(verdicts.health().into_iter().map(|(target, verdict)| (last(target), verdict)).collect())
}

#[test]
fn what_is_there_when_the_agent_starts_has_its_full_share_at_once() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&slow_plan([1, 2]), start);
    answer_until(&mut schedule, start + FIRST_WITHIN, |_| ok());
    assert_eq!(told(&mut schedule, start + FIRST_WITHIN), Some(vec![(1, Verdict::Healthy), (2, Verdict::Healthy)]));
    assert_eq!(schedule.poll_step(), None);
}

#[test]
fn a_pod_that_comes_later_starts_slowly_in_three_steps_before_it_has_answered_once() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&slow_plan([]), start);
    schedule.replace(&slow_plan([1]), start);
    assert_eq!(told(&mut schedule, start), Some(vec![(1, Verdict::Warming(1))]));
    for (thirds, verdict) in [(1, Verdict::Warming(2)), (2, Verdict::Warming(4)), (3, Verdict::Healthy)] {
        let now = start + THIRD * thirds;
        answer_until(&mut schedule, now, |_| ok());
        assert_eq!(schedule.poll_step(), Some(now));
        assert_eq!(told(&mut schedule, now), Some(vec![(1, verdict)]));
        assert_eq!(told(&mut schedule, now), None, "once");
    }
    assert_eq!(schedule.poll_step(), None);
}

#[test]
fn a_pod_that_was_unhealthy_starts_slowly_and_one_that_fails_meanwhile_starts_anew() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&slow_plan([1, 2]), start);
    let only_two = |target: &Target| if *target == slow_target(2) { ok() } else { refused() };
    let mut now = start + FIRST_WITHIN;
    answer_until(&mut schedule, now, only_two);
    assert_eq!(told(&mut schedule, now), Some(vec![(1, Verdict::Unhealthy), (2, Verdict::Healthy)]));
    for _ in 0..2 {
        now += INTERVAL * 3;
        answer_until(&mut schedule, now, |_| ok());
        assert_eq!(told(&mut schedule, now), Some(vec![(1, Verdict::Warming(1)), (2, Verdict::Healthy)]));
        now += INTERVAL * 5;
        answer_until(&mut schedule, now, only_two);
        assert_eq!(told(&mut schedule, now), Some(vec![(1, Verdict::Unhealthy), (2, Verdict::Healthy)]));
        assert_eq!(schedule.poll_step(), None);
    }
}

#[test]
fn a_pod_that_is_only_asked_otherwise_goes_on_with_its_full_share() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&plan([1]), start);
    schedule.replace(&slow_plan([1, 2]), start);
    assert_eq!(told(&mut schedule, start), Some(vec![(2, Verdict::Warming(1))]));
    schedule.replace(&slow_plan([1]), start);
    assert_eq!(told(&mut schedule, start), Some(vec![]), "what goes takes its slow start along");
    assert_eq!(schedule.poll_step(), None);
}

proptest! {
    /// However pods come, fail and recover: who has answered for as long as a slow start takes has its full share.
    #[test]
    fn flapping_pins_nobody_to_a_part_of_its_share(
        seed in any::<u64>(), steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0_u32..8000), 1..20),
    ) {
        let (mut schedule, mut now) = (Schedule::new(seed), zero());
        for (planned, good, pause) in steps {
            schedule.replace(&slow_plan((0..8).filter(|bit| planned >> bit & 1 == 1)), now);
            now += MILLISECOND * pause;
            let is_good = |target: &Target| (0..8).any(|bit| good >> bit & 1 == 1 && *target == slow_target(bit));
            answer_until(&mut schedule, now, |target| if is_good(target) { ok() } else { refused() });
            told(&mut schedule, now);
            let warming: BTreeSet<_> = schedule.entries.iter().filter(|(_, entry)| entry.slow_start.is_some()).collect::<BTreeMap<_, _>>().into_keys().copied().collect();
            let due: BTreeSet<_> = schedule.steps.iter().map(|(_, target)| *target).collect();
            prop_assert_eq!((schedule.steps.len(), due), (warming.len(), warming));
        }
        now += INTERVAL * 3;
        answer_until(&mut schedule, now, |_| ok());
        now += SLOW_START;
        answer_until(&mut schedule, now, |_| ok());
        told(&mut schedule, now);
        prop_assert_eq!(schedule.poll_step(), None);
        schedule.changed = true;
        let all = told(&mut schedule, now).unwrap();
        prop_assert!(all.iter().all(|(_, verdict)| *verdict == Verdict::Healthy), "{:?}", all);
    }
}
