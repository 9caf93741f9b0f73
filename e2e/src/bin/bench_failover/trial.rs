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

use crate::{
    system::{Bed, Fault, System},
    table::ms,
};

/// From how many ports requests come.
const SOURCES: usize = 64;
/// How long a long-lived connection may wait for an echo: TCP sends again after 0.2, 0.6, 1.4, 3.0 and 6.2 s,
/// on a busy machine somewhat later.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long before the fault nothing was changed. A standby, for one, must have had time to know its part.
pub(crate) const REST: Duration = Duration::from_millis(1500);
/// The longest that a system may take to serve again.
const BACK: Duration = Duration::from_secs(20);

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) system: System,
    pub(crate) fault: Fault,
    pub(crate) ipv6: bool,
    /// Pods on all nodes, the failing one included.
    pub(crate) everywhere: bool,
}

impl Case {
    pub(crate) fn name(self) -> String {
        let family = if self.ipv6 { ", IPv6" } else { "" };
        let pods = if self.everywhere { ", pods on all nodes" } else { "" };
        format!("{}{family}{pods}: {}", self.system.name(), self.fault.name())
    }
}

/// What the client noticed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) outage: Duration,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    /// How long the prober itself stalled: taken off, told for the reader's judgement.
    pub(crate) stalled: Duration,
    pub(crate) survived: usize,
    pub(crate) broken: usize,
    pub(crate) hung: usize,
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
        )
    }
}

/// A trial whose long-lived connections are still to be judged.
pub(crate) struct Open {
    owner: String,
    report: Report,
    duplicates: u64,
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
    let vip = bed.vip(case.ipv6);
    let client = &bed.lan().client().ns;
    let connections = LongLived::open(client, SocketAddr::new(vip, WEB), connections)?;
    let load = Load::new(Transport::Udp, SocketAddr::new(vip, DNS)).per_second(1000).sources(SOURCES).start(client)?;
    until_answered(&load, 250)?;
    let phase = u64::try_from(case.system.period().as_micros())?;
    std::thread::sleep(Duration::from_micros(random.random_range(0..phase)));
    let fault = Instant::now();
    bed.strike(case.fault, owner).with_context(|| case.fault.name())?;
    std::thread::sleep(case.system.window().saturating_sub(fault.elapsed()));
    until_answered(&load, 100)?;
    let report = load.stop()?;
    let duplicates = received(bed.pods(), report.run).duplicates.max(report.duplicates);
    Ok(Open { owner: owner.to_owned(), report, duplicates, connections })
}

impl Open {
    /// Waits until it is known what became of the connections.
    pub(crate) fn close(self, bed: &dyn Bed, case: Case) -> Result<Outcome> {
        let on_owner = |name: &str| bed.pods().iter().any(|pod| pod.name == name && pod.node == self.owner);
        ensure!(
            case.everywhere || !self.report.by_pod.keys().any(|pod| on_owner(pod)),
            "pods of the owner answered: {:?}",
            self.report.by_pod
        );
        let ended = self.connections.finish_within(PATIENCE)?;
        let elsewhere: Vec<_> = ended.iter().filter(|end| !on_owner(&end.pod)).collect();
        let count = |wanted: fn(&Ended) -> bool| elsewhere.iter().filter(|end| wanted(end)).count();
        Ok(Outcome {
            outage: self.report.outage,
            lost: self.report.lost,
            duplicates: self.duplicates,
            stalled: self.report.stalled,
            survived: count(|end| end.fate == Fate::Survived),
            broken: count(|end| matches!(end.fate, Fate::Broken(_))),
            hung: count(|end| end.fate == Fate::Hung),
        })
    }
}
