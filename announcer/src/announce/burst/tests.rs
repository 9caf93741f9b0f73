//! Schedules in virtual time.

#![expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]

use proptest::prelude::*;

use super::*;

const REFRESH: Duration = Duration::from_secs(60);

fn spot(n: u8) -> Spot {
    Spot { vip: IpAddr::from([10, 77, 0, n]), interface: "eth0".into() }
}

/// Everything sent until `until`, with its time since `t0`.
fn run(bursts: &mut Bursts, t0: Instant, until: Duration) -> Vec<(Duration, Spot, Form)> {
    let mut sent = Vec::new();
    while let Some(due) = bursts.poll_timeout().filter(|due| *due <= t0 + until) {
        sent.extend(bursts.handle_timeout(due).into_iter().map(|(spot, form)| (due - t0, spot, form)));
    }
    sent
}

fn millis(sent: &[(Duration, Spot, Form)], form: Form) -> Vec<u128> {
    sent.iter().filter(|(_, _, f)| *f == form).map(|(at, ..)| at.as_millis()).collect()
}

#[test]
fn a_takeover_is_announced_at_once_in_the_request_form_and_beyond_the_locktime_in_both() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    bursts.start(spot(1), Why::Takeover, t0);
    let sent = run(&mut bursts, t0, Duration::from_secs(30));
    assert_eq!(millis(&sent, Form::Request), [0, 50, 200, 500, 1200, 2400]);
    assert_eq!(millis(&sent, Form::Reply), [2, 202, 1202, 2402]);
}

#[test]
fn ipv6_has_one_form() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    bursts.start(Spot { vip: "fd77::1".parse().unwrap(), interface: "eth0".into() }, Why::Takeover, t0);
    let sent = run(&mut bursts, t0, Duration::from_secs(30));
    assert_eq!(millis(&sent, Form::Request), [0, 50, 200, 500, 1200, 2400]);
    assert_eq!(millis(&sent, Form::Reply), [0u128; 0]);
}

#[test]
fn after_a_link_came_up_announcements_reach_past_the_forward_delay_of_spanning_tree() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    bursts.start(spot(1), Why::LinkUp, t0);
    let sent = run(&mut bursts, t0, Duration::from_secs(40));
    assert!(millis(&sent, Form::Request).into_iter().any(|at| (30_000..=35_000).contains(&at)), "{sent:?}");
}

#[test]
fn refreshes_go_on_for_ever_and_spread_over_a_fifth_of_the_period() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    for n in 0..100 {
        bursts.start(spot(n), Why::Takeover, t0);
    }
    run(&mut bursts, t0, Duration::from_secs(10));
    let first: Vec<_> = run(&mut bursts, t0, Duration::from_secs(72));
    assert_eq!(first.len(), 100);
    let (earliest, latest) = (first[0].0, first[99].0);
    assert!(earliest >= Duration::from_secs(56) && latest <= Duration::from_secs(69), "{earliest:?} {latest:?}");
    assert!(latest - earliest > Duration::from_secs(8), "{earliest:?} {latest:?}");
    let hour = run(&mut bursts, t0, Duration::from_secs(3600));
    assert!((5_500..=6_300).contains(&hour.len()), "{}", hour.len());
}

#[test]
fn hundreds_of_vips_are_paced_and_all_are_announced_before_any_is_repeated() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    for n in 0..250 {
        bursts.start(spot(n), Why::Takeover, t0);
    }
    let mut first = Vec::new();
    let mut now = t0;
    while first.len() < 250 {
        now = bursts.poll_timeout().unwrap().max(now);
        let batch = bursts.handle_timeout(now);
        assert!(batch.len() <= BATCH);
        first.extend(batch.into_iter().filter(|(_, form)| *form == Form::Request));
    }
    assert_eq!(first.iter().map(|(spot, _)| spot.clone()).collect::<BTreeSet<_>>().len(), 250);
    assert!(now - t0 < Duration::from_millis(25), "{:?}", now - t0);
}

#[test]
fn who_is_stopped_is_silent_and_who_is_started_again_begins_anew() {
    let (mut bursts, t0) = (Bursts::new(REFRESH), Instant::now());
    bursts.start(spot(1), Why::Takeover, t0);
    bursts.start(spot(2), Why::Takeover, t0);
    run(&mut bursts, t0, Duration::from_millis(300));
    bursts.stop(&spot(1));
    bursts.start(spot(2), Why::Takeover, t0 + Duration::from_millis(300));
    let sent = run(&mut bursts, t0, Duration::from_millis(360));
    assert!(sent.iter().all(|(_, s, _)| *s == spot(2)));
    assert_eq!(millis(&sent, Form::Request), [300, 350]);
    bursts.stop(&spot(2));
    assert_eq!(bursts.poll_timeout(), None);
}

proptest! {
    /// Whatever is started and stopped, only spots that run are announced, and plans and queue agree.
    #[test]
    fn only_running_spots_are_announced(ops in prop::collection::vec((0..6u8, any::<bool>(), 0..900u64), 1..60)) {
        let (mut bursts, mut now) = (Bursts::new(REFRESH), Instant::now());
        let mut running = BTreeSet::new();
        for (n, begin, wait) in ops {
            if begin {
                bursts.start(spot(n), Why::Takeover, now);
                running.insert(spot(n));
            } else {
                bursts.stop(&spot(n));
                running.remove(&spot(n));
            }
            now += Duration::from_millis(wait);
            for (spot, _) in bursts.handle_timeout(now) {
                prop_assert!(running.contains(&spot));
            }
            prop_assert_eq!(bursts.due.len(), running.len());
            prop_assert_eq!(bursts.plans.len(), running.len());
        }
    }
}
