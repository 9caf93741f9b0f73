//! The heart of the agent: whatever changes comes in here, and what follows goes out.
//!
//! ```text
//!  Desired, View, Links --> eligible --> Ownership --> claims to gossip, VIPs to the announcer
//!                      \--> wanted -------------------------> forwarder
//!  Desired ------------\--> plan -> prober -> verdicts -----> gossip
//! ```
//! One task, one loop: wait, take the newest of everything, decide by pure functions, hand out. It keeps nothing but
//! the [`Ownership`] machine and the last values it handed out.

#![expect(clippy::disallowed_methods, reason = "edge: tells the cores the time")]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use membership::{
    Command, Facts, Interface, NodeName, View,
    claims::{Action, Owner, Ownership},
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::changes;
use crate::{
    announce::{Announcement, Announcer, Conflict},
    forward::{Link, Wanted, wanted},
    health::{Plan, Verdicts, plan},
    http::{self, Order, Refused},
    link::Links,
    metrics::Events,
    ownership,
    source::Snapshot,
};

/// RFC 5227's DEFEND_INTERVAL.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

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
    /// The prober.
    pub plan: watch::Sender<Arc<Plan>>,
    /// For the status page.
    pub owners: watch::Sender<Arc<Owners>>,
    /// This node's own facts, for the status page and readiness.
    pub facts: watch::Sender<Facts>,
    /// Counters.
    pub events: Events,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Controller {
    me: NodeName,
    ownership: Ownership,
    facts: Facts,
    /// The hooks of an agent that ran here before carry traffic, and this one's tables have not replaced theirs yet.
    inherited: bool,
    /// The VIPs this node answers for, with the epoch of its claim.
    answering: BTreeMap<IpAddr, u64>,
    /// When VIPs were last defended against machines outside the cluster.
    defended: BTreeMap<IpAddr, Instant>,
    view: Arc<View>,
    inputs: Inputs,
    outputs: Outputs,
}

impl Controller {
    /// A controller that has decided nothing yet.
    #[must_use]
    pub fn new(me: NodeName, ownership: Ownership, inputs: Inputs, outputs: Outputs) -> Self {
        let inherited = *inputs.forwarding.borrow();
        let facts = Facts { listening: true, ..Facts::default() };
        let defended = BTreeMap::new();
        Self {
            me,
            ownership,
            facts,
            inherited,
            defended,
            answering: BTreeMap::new(),
            view: Arc::default(),
            inputs,
            outputs,
        }
    }

    /// Runs until `stop` says so, then hands everything over, at the latest within `patience`.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>, patience: Duration) {
        self.decide(true).await;
        let mut deadline: Option<Instant> = None;
        loop {
            if let Some(end) = deadline
                && self.is_released(end)
            {
                break;
            }
            let wake = [self.ownership.poll_timeout(), deadline].into_iter().flatten().min();
            let objects_changed = tokio::select! {
                Ok(()) = self.inputs.view.changed() => false,
                Ok(()) = self.inputs.links.changed() => false,
                Ok(()) = self.inputs.snapshot.changed() => true,
                Ok(()) = self.inputs.forwarding.changed() => false,
                Ok(()) = self.inputs.verdicts.changed() => {
                    let health = self.inputs.verdicts.borrow_and_update().health();
                    self.tell(Command::SetHealth(health)).await;
                    continue;
                }
                Some(conflict) = self.inputs.conflicts.recv() => {
                    self.note(&conflict);
                    continue;
                }
                Some(order) = self.inputs.orders.recv() => {
                    self.obey(order);
                    false
                }
                Ok(()) = stop.changed(), if deadline.is_none() => {
                    info!(vips = self.answering.len(), ?patience, "stopping: handing over what this node owns");
                    self.ownership.drain(Instant::now());
                    deadline = Some(Instant::now() + patience);
                    false
                }
                () = until(wake) => false,
            };
            self.decide(objects_changed).await;
        }
        self.stop().await;
    }

    /// Whether a stopping agent need not wait any longer.
    fn is_released(&self, deadline: Instant) -> bool {
        let left = self.answering.len();
        match self.ownership.is_released() {
            true if left == 0 => info!("all is handed over"),
            true => warn!(vips = left, "handed over what could be; the rest has nobody else to go to"),
            false if Instant::now() >= deadline => {
                warn!(vips = left, "not handed over in time: nobody answers until others notice");
            }
            false => return false,
        }
        true
    }

    /// Takes the newest of everything and does what follows from it.
    async fn decide(&mut self, objects_changed: bool) {
        let before = std::mem::replace(&mut self.view, Arc::clone(&self.inputs.view.borrow_and_update()));
        changes::members(&before, &self.view, &self.me, &self.outputs.events);
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow_and_update());
        let links = Arc::clone(&self.inputs.links.borrow_and_update());
        if objects_changed {
            let plan = plan(&snapshot.desired, &self.me);
            self.outputs.plan.send_if_modified(|current| replace_if_new(current, plan));
        }
        self.decide_ownership(&snapshot, &links).await;
        self.publish_facts(&links).await;

        // Until this node knows its cluster, tables would say that it is alone; those of its predecessor serve better.
        if self.inherited && self.facts.listening {
            return;
        }
        self.inherited = false;
        // Also those without carrier: hooks stay where they are.
        let links: Vec<Link> = links.uplinks.values().map(link).collect();
        let wanted = wanted(&snapshot.desired, &self.view, &links, &self.me);
        self.outputs.wanted.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&wanted);
            if changed {
                *current = Some(Arc::new(wanted));
            }
            changed
        });
    }

    async fn decide_ownership(&mut self, snapshot: &Snapshot, links: &Links) {
        let candidates = ownership::eligible(&snapshot.desired, &self.view);
        self.ownership.handle_input(&self.view, &candidates, Instant::now(), unix_ms());
        let actions: Vec<Action> = std::iter::from_fn(|| self.ownership.poll_action()).collect();
        for action in &actions {
            match action {
                Action::Announce { vip, epoch, .. } => drop(self.answering.insert(*vip, *epoch)),
                Action::Withdraw { vip, .. } => drop(self.answering.remove(vip)),
                Action::Publish(_) | Action::Listening(_) | Action::Reannounce { .. } => {}
            }
        }
        // Clients wait for this; peers and the log can wait for a hundred VIPs to be announced.
        self.answer(snapshot, links);
        for action in actions {
            match action {
                Action::Publish(claims) => self.tell(Command::SetClaims(claims)).await,
                Action::Listening(listening) => {
                    self.facts.listening = listening;
                    info!(listening, "{}", if listening { "listening before claiming" } else { "ready to own VIPs" });
                }
                Action::Announce { vip, epoch, reason } => {
                    info!(%vip, epoch, %reason, "taking the VIP: announcing it");
                }
                Action::Reannounce { vip, reason } => {
                    info!(%vip, %reason, "announcing the VIP again");
                    self.outputs.announcer.again(vip);
                }
                Action::Withdraw { vip, reason } => {
                    info!(%vip, %reason, "giving the VIP up: silent for it");
                }
            }
        }
        let owners = self.ownership.owners();
        if **self.outputs.owners.borrow() != *owners {
            changes::owners(&self.outputs.owners.borrow(), owners, &self.outputs.events);
            self.outputs.owners.send_replace(Arc::new(owners.clone()));
        }
    }

    /// Gossips this node's facts if they changed.
    async fn publish_facts(&mut self, links: &Links) {
        self.facts.forwarding = *self.inputs.forwarding.borrow_and_update();
        self.facts.draining = self.ownership.is_draining();
        self.facts.interfaces = links.usable().map(interface).collect();
        let changed = self.outputs.facts.send_if_modified(|current| {
            let changed = *current != self.facts;
            current.clone_from(&self.facts);
            changed
        });
        if changed {
            self.tell(Command::SetFacts(self.facts.clone())).await;
        }
    }

    /// Tells the announcer what to answer for, and where.
    fn answer(&self, snapshot: &Snapshot, links: &Links) {
        let interfaces: Vec<Interface> = links.usable().map(interface).collect();
        let mut places = ownership::announce_on(&snapshot.desired, &self.me, &interfaces);
        let wished = self.answering.iter().map(|(vip, epoch)| {
            let interfaces = places.remove(vip).unwrap_or_default();
            (*vip, Announcement { epoch: *epoch, interfaces })
        });
        self.outputs.announcer.set(wished.collect());
    }

    /// A member that announces a VIP of this node is about to be its owner, or will learn that it is not: epochs decide.
    /// Against others the VIP is defended by announcing it again, as RFC 5227 section 2.4 (c) has it: at most once in a
    /// while, lest two machines that both insist flood the segment.
    fn note(&mut self, conflict: &Conflict) {
        let (vip, interface, mac) = (conflict.vip, &conflict.interface, pnet_base::MacAddr::from(conflict.mac));
        if let Some(node) = changes::node_with_mac(&self.view, conflict.mac) {
            info!(%vip, interface, %node, "another member announces a VIP that this node owns");
            return;
        }
        self.outputs.events.vip_conflict(vip);
        warn!(%vip, interface, %mac, "a machine outside the cluster uses a VIP that this node owns: find its MAC");
        let now = Instant::now();
        let rested = |last: &Instant| now.saturating_duration_since(*last) >= DEFEND_INTERVAL;
        if self.answering.contains_key(&vip) && self.defended.get(&vip).is_none_or(rested) {
            self.defended.retain(|_, last| !rested(last));
            self.defended.insert(vip, now);
            self.outputs.announcer.again(vip);
        }
    }

    fn obey(&mut self, order: Order) {
        let now = Instant::now();
        let done = match order.action {
            http::Action::Drain => {
                self.ownership.drain(now);
                Ok(format!("draining: {} VIPs are being handed over", self.answering.len()))
            }
            http::Action::Undrain => {
                self.ownership.undrain(now);
                Ok("this node may own VIPs again".to_owned())
            }
            http::Action::Rebalance => self.rebalance(now),
            http::Action::Announce(None) => {
                self.answering.keys().for_each(|vip| self.outputs.announcer.again(*vip));
                Ok(format!("announcing {} VIPs again", self.answering.len()))
            }
            http::Action::Announce(Some(vip)) if self.answering.contains_key(&vip) => {
                self.outputs.announcer.again(vip);
                Ok(format!("announcing {vip} again"))
            }
            http::Action::Announce(Some(vip)) => {
                Err(Refused(format!("this node does not own {vip}; `crierctl vips` shows who does")))
            }
        };
        // Whoever asked may have gone away meanwhile; what was asked is done all the same.
        let _ = order.reply.send(done);
    }

    fn rebalance(&mut self, now: Instant) -> Result<String, Refused> {
        if self.ownership.is_draining() || self.facts.listening {
            let why = if self.facts.listening { "has just started and still listens" } else { "drains" };
            return Err(Refused(format!("this node {why}, so it takes no VIPs")));
        }
        Ok(match self.ownership.rebalance(now, unix_ms()) {
            0 => "this node has its share of the VIPs already; nodes that carry fewer are to be asked".to_owned(),
            coming => format!("taking {coming} VIPs over, one after the other"),
        })
    }

    /// Falls silent.
    async fn stop(&mut self) {
        self.ownership.shutdown();
        while let Some(action) = self.ownership.poll_action() {
            match action {
                Action::Publish(claims) => self.tell(Command::SetClaims(claims)).await,
                Action::Withdraw { vip, reason } => info!(%vip, %reason, "giving the VIP up: silent for it"),
                Action::Listening(_) | Action::Announce { .. } | Action::Reannounce { .. } => {}
            }
        }
        self.answering.clear();
        self.outputs.announcer.set(BTreeMap::new());
    }

    async fn tell(&self, command: Command) {
        if self.outputs.gossip.send(command).await.is_err() {
            warn!("the gossip has ended; what this node has to say is not heard");
        }
    }
}

fn replace_if_new<T: PartialEq>(current: &mut Arc<T>, new: T) -> bool {
    let changed = **current != new;
    if changed {
        *current = Arc::new(new);
    }
    changed
}

fn link(uplink: &crate::link::Uplink) -> Link {
    Link { name: uplink.name.clone(), index: uplink.index, mac: uplink.mac, prefixes: uplink.prefixes.clone() }
}

fn interface(uplink: &crate::link::Uplink) -> Interface {
    Interface { name: uplink.name.clone(), mac: uplink.mac, prefixes: uplink.prefixes.clone() }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
