//! The forwarder's task: it alone writes the kernel's maps, and reads their counters for whoever shows them.

#![expect(clippy::disallowed_methods, reason = "edge: tells the tables the time")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, warn};

use super::shortages::{Shortage, Shortages};
use crate::{
    announce::Order,
    forward::{
        Active, Counters, FlowTable, Forwarder, Info, Tally, Wanted,
        plan::{Limit, cut_off_since},
    },
    metrics::Limits,
    shadow,
};

/// How often counters are read, deferred frees happen and a failed write is tried again.
const TICK: Duration = Duration::from_secs(1);
/// How often connections are counted, at most: a full table is read through in some ten milliseconds.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What the forwarder tells.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is in use.
    pub info: Info,
    /// What the kernel counted.
    pub counters: Counters,
    /// The connections of this node's pods, as last counted.
    pub connections: Connections,
    /// Where they lie, to be looked through.
    pub flow_table: Option<Arc<FlowTable>>,
    /// What went wrong at the last write; `None`: the maps hold what is wanted.
    pub trouble: Option<String>,
}

/// The connections of this node's pods, all together and by whom those in use are of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Connections {
    /// All of them.
    pub tally: Arc<Tally>,
    /// Those in use.
    pub active: Arc<Active>,
}

/// Counts connections every [`COUNT_EVERY`], on a thread that may take its time.
#[derive(Debug, Default)]
struct Census {
    counting: Option<JoinHandle<std::io::Result<Tally>>>,
    begun: Option<Instant>,
    last: Connections,
    /// The last time it could not be done, which has been said.
    failed: bool,
}

impl Census {
    /// What was last counted.
    async fn look(&mut self, forwarder: &Forwarder) -> Connections {
        if let Some(counting) = self.counting.take_if(|counting| counting.is_finished()) {
            let counted = counting.await.map_err(std::io::Error::other);
            match counted.and_then(|counted| counted).and_then(|tally| Ok((forwarder.active(&tally)?, tally))) {
                Ok((active, tally)) => {
                    self.failed = false;
                    self.last = Connections { tally: tally.into(), active: active.into() };
                }
                Err(error) if !self.failed => {
                    self.failed = true;
                    warn!(%error, "connections could not be counted; their figures stand still until they can");
                }
                Err(_) => {}
            }
        }
        if self.counting.is_none()
            && self.begun.is_none_or(|begun| begun.elapsed() >= COUNT_EVERY)
            && let Some(table) = forwarder.flow_table()
        {
            self.begun = Some(Instant::now());
            self.counting = Some(tokio::task::spawn_blocking(move || FlowTable::tally(&table)));
        }
        self.last.clone()
    }
}

/// Both ends of a running forwarder.
#[derive(Debug)]
pub struct Forwarding {
    /// What the maps shall hold; `None`: not known yet, whatever a former agent put there stays.
    pub wanted: watch::Sender<Option<Arc<Wanted>>>,
    /// What the forwarder tells, every second.
    pub report: watch::Receiver<Arc<Report>>,
    /// Whether traffic is carried: attached to an uplink, by this agent or by the one before it.
    pub carrying: watch::Receiver<bool>,
    /// The shadow standby's maps, of each program that is attached.
    pub shadow: mpsc::Receiver<shadow::Maps>,
}

/// Starts the task. `hooks` is the announcer, which is told of each program that is attached.
#[must_use]
pub fn start(forwarder: Forwarder, limits: Limits, hooks: mpsc::Sender<Order>) -> Forwarding {
    let (wanted, wishes) = watch::channel(None);
    let first = Report { info: forwarder.info(), ..Report::default() };
    let (carries, carrying) = watch::channel(forwarder.inherited());
    let (reports, report) = watch::channel(Arc::new(first));
    let (shadow_maps, shadow) = mpsc::channel(1);
    tokio::spawn(run(forwarder, limits, wishes, reports, carries, shadow_maps, hooks));
    Forwarding { wanted, report, carrying, shadow }
}

async fn run(
    mut forwarder: Forwarder,
    limits: Limits,
    mut wishes: watch::Receiver<Option<Arc<Wanted>>>,
    reports: watch::Sender<Arc<Report>>,
    carries: watch::Sender<bool>,
    shadow_maps: mpsc::Sender<shadow::Maps>,
    hooks: mpsc::Sender<Order>,
) {
    let mut tick = tokio::time::interval(TICK);
    let mut trouble = None;
    let mut reached = BTreeMap::new();
    let mut census = Census::default();
    let mut shortages = Shortages::default();
    loop {
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
        let Some(wanted) = wishes.borrow_and_update().clone() else { continue };
        // With many services it takes a while; whoever else runs on this thread goes elsewhere.
        trouble = match tokio::task::block_in_place(|| forwarder.apply(&wanted, Instant::now())) {
            Ok(applied) => {
                if applied.writes > 0 {
                    debug!(
                        writes = applied.writes,
                        services = wanted.services.len(),
                        "the forwarder's maps are up to date"
                    );
                }
                for (what, more) in cut_off_since(&reached, &applied.limits) {
                    limits.add(what.as_str(), u64::from(more));
                    let left_out = applied.limits.get(&what);
                    warn!(
                        what = what.as_str(),
                        left_out, "a table of the forwarder is full; what it held keeps serving"
                    );
                }
                if applied.limits.is_empty() && !reached.is_empty() {
                    info!("everything fits into the forwarder's tables again");
                }
                reached = applied.limits;
                // Those are lost: no later call finds room for them.
                reached.remove(&Limit::Flows);
                None
            }
            Err(problem) => {
                let problem = super::with_causes(&problem);
                if trouble.as_ref() != Some(&problem) {
                    error!(%problem, "the forwarder's maps could not be brought up to date; what they held keeps serving");
                }
                Some(problem)
            }
        };
        if trouble.is_none()
            && let Some(maps) = forwarder.take_shadow()
        {
            let _ = shadow_maps.send(maps).await;
        }
        if trouble.is_none()
            && let Some(maps) = forwarder.take_hooks()
        {
            let _ = hooks.send(Order::Maps(Box::new(maps))).await;
        }
        note_lost_clients(&mut forwarder, &limits);
        let info = forwarder.info();
        let attached = !info.interfaces.is_empty();
        carries.send_if_modified(|current| {
            let changed = *current != attached;
            if changed {
                info!(mode = %info.mode, hook = %info.hook, interfaces = ?info.interfaces, attached, "forwarder");
            }
            *current = attached;
            changed
        });
        // A counter that cannot be read stands still; one that went back to 0 would look like a burst.
        let counters = forwarder.counters().unwrap_or_else(|_| reports.borrow().counters.clone());
        for Shortage { reason, more, say } in shortages.look(&counters.drops, Instant::now()) {
            limits.add(reason.as_str(), more);
            if let Some(text) = say {
                warn!(reason = reason.as_str(), packets = more, "{text}");
            }
        }
        let connections = census.look(&forwarder).await;
        let (flow_table, trouble) = (forwarder.flow_table(), trouble.clone());
        reports.send_replace(Arc::new(Report { info, counters, connections, flow_table, trouble }));
    }
}

/// Clients with affinity that had no room are told, as what does not fit into tables.
fn note_lost_clients(forwarder: &mut Forwarder, limits: &Limits) {
    match tokio::task::block_in_place(|| forwarder.forget_clients(Instant::now())) {
        Ok(0) => {}
        Ok(lost) => {
            limits.add("affinities", lost);
            warn!(
                what = "affinities",
                lost, "more clients of services with sessionAffinity than are remembered: their pods may change"
            );
        }
        Err(problem) => debug!(%problem, "the clients of services with sessionAffinity cannot be counted"),
    }
}
