//! One trial: traffic on, the owner fails at a random moment, what the client noticed.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    longlived::{Ended, Fate, LongLived},
    observe::eventually,
    pods::received,
    scenario::{DNS, WEB},
    traffic::{Load, Meter, Report, Transport},
};
use rand::{RngExt, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{case::Case, system::Bed, table::ms};

/// From how many ports requests come.
const SOURCES: usize = 64;
/// How long a long-lived connection may wait for an echo: TCP sends again after 0.2, 0.6, 1.4, 3.0 and 6.2 s,
/// on a busy machine somewhat later.
const PATIENCE: Duration = Duration::from_secs(8);
/// A prober that was itself stopped for longer, and for more than a tenth of the outage, has not seen it.
const TELLING: Duration = Duration::from_millis(25);
/// How long before the fault nothing was changed.
pub(crate) const REST: Duration = Duration::from_millis(1000);
/// The longest that a system may take to serve again.
const BACK: Duration = Duration::from_secs(20);

/// What the client noticed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The longest gap between requests served; with pods on all nodes, of requests to pods that live on.
    #[serde(rename = "outage_us", with = "crate::micros")]
    pub(crate) outage: Duration,
    /// Requests lost, likewise.
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    /// How long the prober itself stalled: taken off, told for the reader's judgement.
    #[serde(rename = "stalled_us", with = "crate::micros")]
    pub(crate) stalled: Duration,
    /// With pods on all nodes: what became of requests to the failing node's pods.
    pub(crate) dead: Option<Dead>,
    /// How long the fault waited for a standby, though there had been one when the bed was prepared.
    #[serde(rename = "unguarded_us", with = "crate::micros")]
    pub(crate) unguarded: Duration,
    /// How long bed and trial took.
    #[serde(rename = "took_us", with = "crate::micros")]
    pub(crate) took: Duration,
    pub(crate) survived: usize,
    pub(crate) broken: usize,
    pub(crate) hung: usize,
}

/// Requests that the table sent to pods that died with their node: no standby can save them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dead {
    pub(crate) lost: u64,
    /// Until other pods served them.
    #[serde(rename = "outage_us", with = "crate::micros")]
    pub(crate) outage: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ms, {} lost, {} duplicates, connections {} survived, {} broken, {} hung; prober stalled {} ms",
            ms(self.outage),
            self.lost,
            self.duplicates,
            self.survived,
            self.broken,
            self.hung,
            ms(self.stalled),
        )?;
        if let Some(dead) = self.dead {
            write!(f, "; to dead pods: {} ms, {} lost", ms(dead.outage), dead.lost)?;
        }
        if self.unguarded > Duration::from_millis(200) {
            write!(f, "; waited {} ms for another standby", ms(self.unguarded))?;
        }
        write!(f, "; took {:.1} s", self.took.as_secs_f64())
    }
}

/// A trial whose long-lived connections are still to be judged.
pub(crate) struct Open {
    owner: String,
    report: Report,
    duplicates: u64,
    unguarded: Duration,
    begin: Instant,
    connections: LongLived,
}

fn until_answered(load: &Meter, more: u64) -> Result<()> {
    let target = load.answered() + more;
    eventually(BACK, "requests are answered", || {
        ensure!(load.answered() >= target, "{} of {target}", load.answered());
        Ok(())
    })
}

/// Runs the trial on a bed that is at rest.
pub(crate) fn run(bed: &mut dyn Bed, case: Case, owner: &str, connections: usize, random: &mut StdRng) -> Result<Open> {
    let begin = Instant::now();
    let vip = bed.vip(case.ipv6);
    let client = &bed.lan().client().ns;
    let connections = LongLived::open(client, SocketAddr::new(vip, WEB), connections)?;
    let load = Load::new(Transport::Udp, SocketAddr::new(vip, DNS)).per_second(1000).sources(SOURCES).start(client)?;
    until_answered(&load, 250)?;
    let asked = Instant::now();
    bed.guarded(case.ipv6, owner)?;
    let unguarded = asked.elapsed();
    let phase = u64::try_from(case.system.period().as_micros())?;
    std::thread::sleep(Duration::from_micros(random.random_range(0..phase)));
    if case.everywhere {
        let dying = bed.pods().iter().filter(|pod| pod.node == owner);
        load.mark_pods(dying.map(|pod| pod.name.clone()).collect());
    }
    let fault = Instant::now();
    bed.strike(case.fault, owner).with_context(|| case.fault.name())?;
    std::thread::sleep(case.system.window().saturating_sub(fault.elapsed()));
    until_answered(&load, 100)?;
    let report = load.stop()?;
    let duplicates = received(bed.pods(), report.run).duplicates.max(report.duplicates);
    Ok(Open { owner: owner.to_owned(), report, duplicates, unguarded, begin, connections })
}

impl Open {
    /// Waits until it is known what became of the connections. If `strict`, a prober that stalled is an error.
    pub(crate) fn close(self, bed: &dyn Bed, case: Case, strict: bool) -> Result<Outcome> {
        let on_owner = |name: &str| bed.pods().iter().any(|pod| pod.name == name && pod.node == self.owner);
        ensure!(
            case.everywhere || !self.report.by_pod.keys().any(|pod| on_owner(pod)),
            "pods of the owner answered: {:?}",
            self.report.by_pod
        );
        ensure!(
            !strict || self.report.stalled <= TELLING.max(self.report.outage / 10),
            "the prober itself stalled for {} ms, so an outage of {} ms says little",
            ms(self.report.stalled),
            ms(self.report.outage)
        );
        // Those to dead pods are not waited for: they have nobody at the other end.
        let ended = self.connections.finish_but(PATIENCE, on_owner)?;
        let elsewhere: Vec<_> = ended.iter().filter(|end| !on_owner(&end.pod)).collect();
        for end in elsewhere.iter().filter(|end| case.system.is_crier() && end.fate != Fate::Survived) {
            println!("  {} after {} records, by way of {}: {:?}", end.pod, end.records, self.owner, end.fate);
        }
        let count = |wanted: fn(&Ended) -> bool| elsewhere.iter().filter(|end| wanted(end)).count();
        let parts = self.report.parts;
        Ok(Outcome {
            outage: parts.map_or(self.report.outage, |parts| parts.others.outage),
            lost: parts.map_or(self.report.lost, |parts| parts.others.lost),
            dead: parts.map(|parts| Dead { lost: parts.named.lost, outage: parts.named.outage }),
            unguarded: self.unguarded,
            took: self.begin.elapsed(),
            duplicates: self.duplicates,
            stalled: self.report.stalled,
            survived: count(|end| end.fate == Fate::Survived),
            broken: count(|end| matches!(end.fate, Fate::Broken(_))),
            hung: count(|end| end.fate == Fate::Hung),
        })
    }
}
