//! Who is probed when, and what becomes of answers.

use membership::Verdict;
use proptest::prelude::*;

use super::*;
use crate::model::CheckKind;

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(500);
const FALL: u32 = 3;
const MILLISECOND: Duration = Duration::from_millis(1);

fn check() -> Check {
    let (kind, slow_start) = (CheckKind::Tcp, Duration::ZERO);
    Check { kind, port: None, interval: INTERVAL, timeout: TIMEOUT, rise: 2, fall: FALL, slow_start }
}

fn target(last: u8) -> Target {
    Target { address: [10, 1, 0, last].into(), port: 80, check: check().id() }
}

fn plan(lasts: impl IntoIterator<Item = u8>) -> Plan {
    Plan { targets: lasts.into_iter().map(|last| (target(last), check())).collect() }
}

/// An arbitrary beginning of time.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; only differences are used")]
fn zero() -> Instant {
    Instant::now()
}

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

fn ok() -> Answer {
    Answer::Success("connected".into())
}

fn refused() -> Answer {
    Answer::Failure("connection refused".into())
}

/// Starts the next probe at the time it is due, and returns both.
fn next_start(schedule: &mut Schedule) -> (Instant, Start) {
    let due = schedule.poll_timeout().expect("something is due");
    (due, schedule.poll_start(due).expect("it is due now"))
}

fn verdict(schedule: &Schedule, of: &Target) -> Option<Verdict> {
    schedule.entries[of].state.judgement().map(|judgement| judgement.verdict)
}

#[test]
fn nothing_is_started_before_it_is_due() {
    let mut schedule = Schedule::new(1);
    schedule.replace(&plan([1]), zero());
    let due = schedule.poll_timeout().unwrap();
    assert_eq!(schedule.poll_start(due - Duration::from_nanos(1)), None);
    assert!(schedule.poll_start(due).is_some());
    assert_eq!(schedule.poll_timeout(), None, "one probe of a target at a time");
}

#[test]
fn first_probes_are_soon_and_spread() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&plan(0..200), start);
    let firsts: Vec<Duration> = schedule.queue.iter().map(|(next, _)| *next - start).collect();
    assert!(firsts.iter().all(|first| *first < FIRST_WITHIN), "{firsts:?}");
    for tenth in 0..10 {
        let from = FIRST_WITHIN / 10 * tenth;
        let count = firsts.iter().filter(|first| (from..from + FIRST_WITHIN / 10).contains(*first)).count();
        assert!((5..=40).contains(&count), "{count} of 200 first probes in tenth {tenth}");
    }
}

#[test]
fn a_change_of_plan_keeps_the_state_of_unchanged_targets() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&plan([1]), start);
    let (now, first) = next_start(&mut schedule);
    schedule.handle_answer(&first.target, first.token, refused(), now, wall());
    let next = schedule.poll_timeout();
    schedule.replace(&plan([1, 2]), now);
    assert_eq!(verdict(&schedule, &target(1)), Some(Verdict::Unhealthy));
    assert!(schedule.queue.contains(&(next.unwrap(), target(1))), "the next probe stays where it was");
    assert_eq!(verdict(&schedule, &target(2)), None);
}

#[test]
fn a_target_that_leaves_and_returns_begins_anew_and_ignores_old_answers() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&plan([1]), start);
    let (now, old) = next_start(&mut schedule);
    schedule.replace(&plan([]), now);
    schedule.replace(&plan([1]), now);
    let (now, new) = next_start(&mut schedule);
    assert_eq!(schedule.handle_answer(&old.target, old.token, refused(), now, wall()), Effect::None);
    assert_eq!(verdict(&schedule, &target(1)), None);
    assert_eq!(schedule.handle_answer(&new.target, new.token, ok(), now, wall()), Effect::Turned(Verdict::Healthy));
}

#[test]
fn verdicts_are_reported_once_per_change() {
    let (mut schedule, start) = (Schedule::new(1), zero());
    schedule.replace(&plan([1]), start);
    assert_eq!(schedule.poll_verdicts(zero()), None);
    let (now, probe) = next_start(&mut schedule);
    schedule.handle_answer(&probe.target, probe.token, ok(), now, wall());
    let verdicts = schedule.poll_verdicts(now).expect("the first verdict");
    assert_eq!(verdicts.health(), BTreeMap::from([(target(1), Verdict::Healthy)]));
    let (now, probe) = next_start(&mut schedule);
    schedule.handle_answer(&probe.target, probe.token, ok(), now, wall());
    assert_eq!(schedule.poll_verdicts(now), None, "nothing new");
    schedule.replace(&plan([]), now);
    assert_eq!(schedule.poll_verdicts(now), Some(Verdicts::default()), "a target that left takes its verdict along");
}

#[test]
fn a_check_without_an_interval_does_not_spin() {
    let mut schedule = Schedule::new(1);
    let hasty = Check { interval: Duration::ZERO, timeout: Duration::ZERO, ..check() };
    schedule.replace(&Plan { targets: [(target(1), hasty)].into() }, zero());
    let (now, probe) = next_start(&mut schedule);
    schedule.handle_answer(&probe.target, probe.token, ok(), now, wall());
    assert!(schedule.poll_timeout().unwrap() >= now + MIN_INTERVAL.mul_f64(PAUSE.start));
}

proptest! {
    /// The promise on timing at its worst: the pod dies the moment after it has answered a probe. It answered within
    /// `answers_in` milliseconds; probes of the dead pod take `takes`, which is all of the timeout if it hangs.
    #[test]
    fn a_pod_that_stops_answering_is_unhealthy_within_interval_x_fall_plus_timeout(
        seed in any::<u64>(),
        last in any::<u8>(),
        survives in 1..8,
        answers_in in prop_oneof![Just(0_u32), 0_u32..=500],
        takes in prop_oneof![Just(500_u32), 0_u32..=500],
    ) {
        let mut schedule = Schedule::new(seed);
        schedule.replace(&plan([last]), zero());
        let mut death = zero();
        for _ in 0..survives {
            let (started, probe) = next_start(&mut schedule);
            death = started + MILLISECOND * answers_in;
            schedule.handle_answer(&probe.target, probe.token, ok(), death, wall());
        }
        for failures in 1.. {
            let (started, probe) = next_start(&mut schedule);
            let ended = started + MILLISECOND * takes;
            let effect = schedule.handle_answer(&probe.target, probe.token, refused(), ended, wall());
            if effect == Effect::Turned(Verdict::Unhealthy) {
                prop_assert_eq!(failures, FALL);
                prop_assert!(ended <= death + INTERVAL * FALL + TIMEOUT, "found after {:?}", ended - death);
                break;
            }
            prop_assert!(failures < FALL, "not found");
        }
    }

    /// Whatever the order of answers and plans, a target has at most one probe under way and is never forgotten.
    #[test]
    fn every_target_is_either_queued_or_being_probed(
        seed in any::<u64>(), steps in proptest::collection::vec((0_u8..3, any::<u8>()), 1..80),
    ) {
        let (mut schedule, mut now) = (Schedule::new(seed), zero());
        let mut running: Vec<Start> = Vec::new();
        for (kind, value) in steps {
            match kind {
                0 => schedule.replace(&plan((0..8).filter(|bit| value >> bit & 1 == 1)), now),
                1 => {
                    now += MILLISECOND * 10 * u32::from(value);
                    running.extend(std::iter::from_fn(|| schedule.poll_start(now)));
                }
                _ if running.is_empty() => {}
                _ => {
                    let probe = running.swap_remove(usize::from(value) % running.len());
                    let answer = if value % 2 == 0 { ok() } else { refused() };
                    schedule.handle_answer(&probe.target, probe.token, answer, now, wall());
                }
            }
            let queued: Vec<Target> = schedule.queue.iter().map(|(_, target)| *target).collect();
            for (target, entry) in &schedule.entries {
                let times = queued.iter().filter(|queued| *queued == target).count();
                prop_assert_eq!(times, usize::from(entry.running.is_none()), "{:?}", target);
            }
            prop_assert!(queued.iter().all(|target| schedule.entries.contains_key(target)));
        }
    }
}

mod slow_start;
