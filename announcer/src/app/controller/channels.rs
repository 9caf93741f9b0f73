//! What comes in to the controller, and where what it decides goes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use membership::{Command, Facts, View, claims::Owner};
use tokio::sync::{mpsc, watch};

use super::Woken;
use crate::{
    announce::{Announcer, Conflict},
    app::strangers::Strangers,
    forward::Wanted,
    health::{Plan, Verdicts},
    http::Order,
    link::Links,
    metrics::Events,
    selftest::{Scenes, Verdicts as TestVerdicts},
    shadow,
    source::Snapshot,
};

/// The owners of all VIPs as this node sees them.
pub type Owners = BTreeMap<IpAddr, Owner>;

/// What the controller decides by. The newest value counts; what was skipped does not matter.
#[derive(Debug)]
pub struct Inputs {
    /// The cluster.
    pub view: watch::Receiver<Arc<View>>,
    /// The objects.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// This node's uplinks.
    pub links: watch::Receiver<Arc<Links>>,
    /// The prober's verdicts on this node's pods.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Whether this node's forwarder carries traffic.
    pub forwarding: watch::Receiver<bool>,
    /// Other machines answering for our VIPs.
    pub conflicts: mpsc::Receiver<Conflict>,
    /// What asking for others' VIPs has shown.
    pub selftest: watch::Receiver<Arc<TestVerdicts>>,
    /// What people ask for.
    pub orders: mpsc::Receiver<Order>,
}

/// Where decisions go.
#[derive(Debug)]
pub struct Outputs {
    /// The gossip.
    pub gossip: mpsc::Sender<Command>,
    /// ARP and NDP.
    pub announcer: Arc<Announcer>,
    /// The forwarder's maps.
    pub wanted: watch::Sender<Option<Arc<Wanted>>>,
    /// The shadow standby.
    pub shadows: watch::Sender<Arc<shadow::Wishes>>,
    /// The prober.
    pub plan: watch::Sender<Option<Arc<Plan>>>,
    /// The self-test.
    pub scenes: watch::Sender<Scenes>,
    /// For the status page.
    pub owners: watch::Sender<Arc<Owners>>,
    /// This node's own facts, for the status page and readiness.
    pub facts: watch::Sender<Facts>,
    /// For the status.
    pub strangers: watch::Sender<Strangers>,
    /// Counters.
    pub events: Events,
}

impl Inputs {
    /// Waits for the next of them. An input that has ended is waited for no more.
    pub(super) async fn next(&mut self) -> Woken {
        tokio::select! {
            Ok(()) = self.view.changed() => Woken::Changed,
            Ok(()) = self.links.changed() => Woken::Changed,
            Ok(()) = self.snapshot.changed() => Woken::Objects,
            Ok(()) = self.forwarding.changed() => Woken::Changed,
            Ok(()) = self.verdicts.changed() => Woken::Verdicts,
            Some(conflict) = self.conflicts.recv() => Woken::Conflict(conflict),
            Ok(()) = self.selftest.changed() => Woken::Tested,
            Some(order) = self.orders.recv() => Woken::Order(order),
            else => std::future::pending().await,
        }
    }
}
