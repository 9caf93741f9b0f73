//! A round: traffic, strike, what must hold, heal, what must hold again, the account, and what is wrong with it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    bounds::{BLINK, Bound, Connections, Limit, SPREAD},
    invariants,
    scenario::Scenario,
    stage::Stage,
    world::World,
};
use crate::{
    longlived::{Ended, Fate, LongLived},
    observe::eventually,
    scenario::{Cluster, SETTLE},
    traffic::{Meter, Report},
};

/// Long-lived connections in each round.
const CONNECTIONS: usize = 12;
/// Requests a second to each VIP when all are under load.
const RATE_OF_MANY: u32 = 20;

/// A time in which requests were lost, in seconds from the start of the traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// Its beginning.
    pub from: f64,
    /// Its length.
    pub length: f64,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, in seconds from the start of the traffic.
    pub at: f64,
    /// What.
    pub what: String,
}

/// What became of a round.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// The round's number, from 1.
    pub round: u32,
    /// The VIP under load.
    pub vip: Option<IpAddr>,
    /// Requests sent, lost, and answered twice.
    pub sent: u64,
    /// Requests never answered.
    pub lost: u64,
    /// Answers beyond the first.
    pub duplicates: u64,
    /// The longest time unserved, in milliseconds; of the VIP that was worst off.
    pub outage: f64,
    /// When all VIPs are under load: from the first that was served again to the last, in milliseconds.
    pub spread: Option<f64>,
    /// All times unserved.
    pub gaps: Vec<Gap>,
    /// What was done.
    pub events: Vec<Event>,
    /// Long-lived connections that survived.
    pub survived: usize,
    /// Those that did not, and were promised to: what became of each.
    pub betrayed: Vec<String>,
    /// Those that did not, and were not promised to.
    pub bereft: usize,
    /// From the end of all faults until everything had settled, in seconds.
    pub settling: f64,
    /// The length of the traffic, in seconds.
    pub seconds: f64,
    /// What should have held and did not.
    pub failures: Vec<String>,
}

/// The generator of one round: of the run's seed, and nothing that went before.
#[must_use]
pub fn generator(seed: u64, scenario: &str, round: u32) -> StdRng {
    // FNV-1a, so that the same words give the same number in every build.
    let bytes = scenario.bytes().chain(round.to_le_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    StdRng::seed_from_u64(seed ^ hash)
}

/// The traffic of a round.
struct Traffic {
    started: Instant,
    loads: Vec<Meter>,
    connections: LongLived,
}

impl Traffic {
    fn start(cluster: &Cluster, vip: IpAddr, all: bool) -> Result<Self> {
        let connections = cluster.long_lived(vip, CONNECTIONS)?;
        let started = Instant::now();
        let client = &cluster.client().ns;
        let loads = if all {
            let each = |vip| cluster.udp_load(vip).per_second(RATE_OF_MANY).sources(2).start(client);
            cluster.vips().into_iter().map(each).collect::<Result<Vec<_>>>()?
        } else {
            vec![cluster.udp_load(vip).sources(64).start(client)?]
        };
        let traffic = Self { started, loads, connections };
        traffic.flows()?;
        Ok(traffic)
    }

    /// Waits until each load has had some more answers.
    fn flows(&self) -> Result<()> {
        let more = if self.loads.len() > 1 { 5 } else { 200 };
        let targets: Vec<_> = self.loads.iter().map(|load| load.answered() + more).collect();
        eventually(SETTLE, "the traffic flows", || {
            let late = self.loads.iter().zip(&targets).filter(|(load, target)| load.answered() < **target).count();
            ensure!(late == 0, "{late} of {} loads have too few answers", targets.len());
            Ok(())
        })
    }

    fn stop(self) -> Result<(Instant, Vec<Report>, Vec<Ended>)> {
        let reports = self.loads.into_iter().map(Meter::stop).collect::<Result<Vec<_>>>()?;
        Ok((self.started, reports, self.connections.finish()?))
    }
}

/// Plays one round. What does not hold is in the outcome; `slack` stretches the bounds on slow machines.
///
/// # Errors
/// When the testbed itself fails: nothing is known then.
pub fn round(stage: &mut Stage, scenario: &Scenario, number: u32, seed: u64, slack: f64) -> Result<Outcome> {
    let mut random = generator(seed, scenario.name, number);
    stage.prepare()?;
    let choices = stage.choices();
    let vip = choices[random.random_range(0..choices.len())];
    let mut outcome = Outcome { scenario: scenario.name, round: number, vip: Some(vip), ..Outcome::default() };
    let mut failures = Vec::new();
    {
        let cluster = &stage.cluster;
        let mut world = World::new(cluster, random, vip);
        let traffic = Traffic::start(cluster, vip, stage.loads_all())?;
        // At any phase of a heartbeat.
        world.pass(0..100);
        let mut expect = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                failures.push(format!("{what}: {error:#}"));
            }
        };
        let struck = Instant::now();
        expect("the strike", (scenario.strike)(&mut world));
        expect("with the faults in force", invariants::in_force(&world));
        std::thread::sleep(scenario.hold.saturating_sub(struck.elapsed()));
        expect("undoing", world.heal());
        let healed = Instant::now();
        let settled = invariants::settle(cluster).and_then(|owners| {
            outcome.settling = healed.elapsed().as_secs_f64();
            invariants::on_the_wire(cluster, &owners)
        });
        expect("healed", settled);
        expect("healed", traffic.flows());
        expect("at the end", invariants::alive(cluster));
        let (started, reports, ended) = traffic.stop()?;
        account(&mut outcome, started, &reports, &world);
        tell_fates(&mut outcome, &ended, scenario.bound().connections, |pod| !world.is_touched(cluster.node_of(pod)));
    }
    failures.extend(judge(&outcome, &scenario.bound(), slack));
    failures.extend(stage.complaints(scenario.errors));
    if failures.is_empty() {
        stage.ledger.note(&stage.cluster)?;
    }
    outcome.failures = failures;
    Ok(outcome)
}

fn account(outcome: &mut Outcome, started: Instant, reports: &[Report], world: &World) {
    let since = |at: Instant| at.saturating_duration_since(started).as_secs_f64();
    outcome.seconds = since(Instant::now());
    outcome.sent = reports.iter().map(|report| report.sent).sum();
    outcome.lost = reports.iter().map(|report| report.lost).sum();
    outcome.duplicates = reports.iter().map(|report| report.duplicates).sum();
    let longest = reports.iter().map(|report| report.outage).max().unwrap_or_default();
    outcome.outage = longest.as_secs_f64() * 1000.0;
    let gaps = reports.iter().flat_map(|report| &report.lost_runs);
    outcome.gaps = gaps.map(|(from, length)| Gap { from: since(*from), length: length.as_secs_f64() }).collect();
    outcome.events = world.events().iter().map(|(at, what)| Event { at: since(*at), what: what.clone() }).collect();
    if reports.len() > 1 {
        let served = reports.iter().filter_map(|report| report.lost_runs.iter().max_by_key(|(_, length)| *length));
        let served: Vec<_> = served.map(|(from, length)| since(*from + *length)).collect();
        let first = served.iter().copied().fold(f64::INFINITY, f64::min);
        let last = served.iter().copied().fold(0.0, f64::max);
        outcome.spread = (!served.is_empty()).then_some((last - first) * 1000.0);
    }
}

fn tell_fates(outcome: &mut Outcome, ended: &[Ended], promise: Connections, untouched: impl Fn(&str) -> bool) {
    for end in ended {
        let promised = match promise {
            Connections::All => true,
            Connections::Elsewhere => untouched(&end.pod),
            Connections::Unpromised => false,
        };
        match (&end.fate, promised) {
            (Fate::Survived, _) => outcome.survived += 1,
            (fate, true) => {
                let (pod, records, pause) = (&end.pod, end.records, end.longest_pause);
                outcome.betrayed.push(format!("to {pod}, {fate:?} after {records} records, longest pause {pause:?}"));
            }
            (_, false) => outcome.bereft += 1,
        }
    }
}

/// Holds an outcome to its bound.
fn judge(outcome: &Outcome, bound: &Bound, slack: f64) -> Vec<String> {
    let mut failures = Vec::new();
    if bound.outage == Limit::Nothing {
        if outcome.lost + outcome.duplicates > 0 {
            let (lost, twice) = (outcome.lost, outcome.duplicates);
            failures.push(format!("{lost} requests lost and {twice} answered twice in a planned move"));
        }
    } else {
        // Where each VIP is asked only so often, either end of an outage is known no better.
        let grain = if outcome.spread.is_some() { Duration::from_secs(2) / RATE_OF_MANY } else { Duration::ZERO };
        let most = (bound.outage.outage(slack) + grain).as_secs_f64() * 1000.0;
        if outcome.outage > most {
            failures.push(format!("not served for {:.0} ms; at most {most:.0} ms: {}", outcome.outage, bound.why));
        }
    }
    // Many VIPs are asked one by one, each so often only.
    let most = (SPREAD.mul_f64(slack) + Duration::from_secs(1) / RATE_OF_MANY + BLINK).as_secs_f64() * 1000.0;
    if let Some(spread) = outcome.spread.filter(|spread| *spread > most) {
        failures.push(format!("the last VIP was served {spread:.0} ms after the first; at most {most:.0} ms"));
    }
    if let [first, others @ ..] = outcome.betrayed.as_slice() {
        let count = others.len() + 1;
        failures.push(format!("{count} long-lived connections did not survive: {}; the first: {first}", bound.why));
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::bounds::TAKEOVER;

    const CUT: Bound = Bound { outage: Limit::Takeovers(1), connections: Connections::Elsewhere, why: "one detection" };

    #[test]
    fn an_outage_is_judged_by_its_bound_and_by_the_machines_slack() {
        let late = TAKEOVER.as_secs_f64() * 1000.0 + 1.0;
        let outcome = Outcome { outage: late, lost: 600, ..Outcome::default() };
        assert_eq!(judge(&outcome, &CUT, 1.0).len(), 1);
        assert_eq!(judge(&outcome, &CUT, 2.0), Vec::<String>::new());
    }

    #[test]
    fn a_planned_move_loses_nothing_whatever_the_slack() {
        let planned = Bound { outage: Limit::Nothing, ..CUT };
        let outcome = Outcome { lost: 1, outage: 1.0, ..Outcome::default() };
        assert!(judge(&outcome, &planned, 9.0)[0].starts_with("1 requests lost"));
    }

    #[test]
    fn connections_are_judged_by_where_they_end() {
        let end = |pod: &str, fate| Ended { pod: pod.into(), fate, records: 1, longest_pause: Duration::ZERO };
        let ended =
            [end("n1-p1", Fate::Hung), end("n2-p1", Fate::Survived), end("n2-p2", Fate::Broken("reset".into()))];
        let mut outcome = Outcome::default();
        tell_fates(&mut outcome, &ended, Connections::Elsewhere, |pod| pod.starts_with("n2"));
        assert_eq!((outcome.survived, outcome.betrayed.len(), outcome.bereft), (1, 1, 1));
        assert_eq!(judge(&outcome, &CUT, 1.0).len(), 1);
    }

    #[test]
    fn a_round_draws_the_same_lots_each_time_and_others_than_its_neighbours() {
        let draw = |seed, name: &str, round| generator(seed, name, round).random::<u64>();
        assert_eq!(draw(7, "cut", 1), draw(7, "cut", 1));
        let others = [draw(7, "cut", 2), draw(7, "mute", 1), draw(8, "cut", 1)];
        assert!(others.iter().all(|other| *other != draw(7, "cut", 1)));
    }
}
