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
    Command, Facts, Interface, NodeName, Standing, View,
    claims::{Action, Owner, Ownership},
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    changes,
    macs::Macs,
    strangers::{Defence, Strangers},
};
use crate::{
    announce::{Announcement, Announcer, Conflict, Inquiry},
    forward::{Link, Wanted, wanted},
    health::{Plan, Verdicts, plan},
    holdup::HoldUp,
    http::{self, Order, Refused},
    link::Links,
    metrics::Events,
    ownership,
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
    /// For the status.
    pub strangers: watch::Sender<Strangers>,
    /// Counters.
    pub events: Events,
}

/// What the loop was woken by.
enum Woken {
    Changed,
    Objects,
    Verdicts,
    Conflict(Conflict),
    Order(Order),
    Stop,
    Tick,
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
    defence: Defence,
    macs: Macs,
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
        Self {
            me,
            ownership,
            facts,
            inherited,
            defence: Defence::default(),
            macs: Macs::default(),
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
        let mut hold_up = HoldUp::new(Instant::now());
        loop {
            let released = deadline.is_some_and(|end| self.ownership.is_released() || Instant::now() >= end);
            if released {
                break;
            }
            let wake = [self.ownership.poll_timeout(), deadline].into_iter().flatten().min();
            let woken = tokio::select! {
                Ok(()) = self.inputs.view.changed() => Woken::Changed,
                Ok(()) = self.inputs.links.changed() => Woken::Changed,
                Ok(()) = self.inputs.snapshot.changed() => Woken::Objects,
                Ok(()) = self.inputs.forwarding.changed() => Woken::Changed,
                Ok(()) = self.inputs.verdicts.changed() => Woken::Verdicts,
                Some(conflict) = self.inputs.conflicts.recv() => Woken::Conflict(conflict),
                Some(order) = self.inputs.orders.recv() => Woken::Order(order),
                Ok(()) = stop.changed(), if deadline.is_none() => Woken::Stop,
                () = until(wake) => Woken::Changed,
                () = until(Some(hold_up.wake())) => Woken::Tick,
            };
            let now = Instant::now();
            let late = hold_up.woken(now);
            // From when it woke: it may be held up in the middle of a decision as well.
            hold_up.sleep(now);
            if let Some(late) = late {
                warn!(?late, "this agent was held up; listening before it claims anything");
                self.ownership.handle_hold_up(now);
            }
            let objects_changed = matches!(woken, Woken::Objects);
            match woken {
                Woken::Changed | Woken::Objects => {}
                Woken::Tick if late.is_some() => {}
                Woken::Tick => continue,
                Woken::Verdicts => {
                    let health = self.inputs.verdicts.borrow_and_update().health();
                    self.tell(Command::SetHealth(health)).await;
                    continue;
                }
                Woken::Conflict(conflict) => {
                    if !self.note(&conflict) {
                        continue;
                    }
                }
                Woken::Order(order) => self.obey(order),
                Woken::Stop => {
                    info!(vips = self.answering.len(), "stopping: handing over what this node owns");
                    self.ownership.drain(Instant::now());
                    deadline = Some(Instant::now() + patience);
                }
            }
            self.decide(objects_changed).await;
        }
        self.stop().await;
    }

    /// Takes the newest of everything and does what follows from it.
    async fn decide(&mut self, objects_changed: bool) {
        let before = std::mem::replace(&mut self.view, Arc::clone(&self.inputs.view.borrow_and_update()));
        if !Arc::ptr_eq(&before, &self.view) {
            changes::members(&before, &self.view, &self.me, &self.outputs.events);
            self.macs.update(&self.view);
        }
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow_and_update());
        let links = Arc::clone(&self.inputs.links.borrow_and_update());
        if objects_changed {
            let plan = plan(&snapshot.desired, &self.me);
            self.outputs.plan.send_if_modified(|current| replace_if_new(current, plan));
        }
        self.decide_ownership(&snapshot).await;
        self.publish_facts(&links).await;
        self.answer(&snapshot, &links);

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

    async fn decide_ownership(&mut self, snapshot: &Snapshot) {
        let candidates = ownership::eligible(&snapshot.desired, &self.view);
        let standing = self.ownership.standing();
        self.ownership.handle_input(&self.view, &candidates, Instant::now(), unix_ms());
        if self.ownership.standing() == Standing::Minority {
            self.ownership.set_serving(ownership::served_by(&snapshot.desired, &self.view, &self.me));
            self.ownership.handle_input(&self.view, &candidates, Instant::now(), unix_ms());
        }
        if self.ownership.standing() != standing {
            changes::standing(self.ownership.standing());
        }
        while let Some(action) = self.ownership.poll_action() {
            match action {
                Action::Publish(claims) => self.tell(Command::SetClaims(claims)).await,
                Action::Listening(listening) => {
                    self.facts.listening = listening;
                    info!(listening, "{}", if listening { "listening before claiming" } else { "ready to own VIPs" });
                }
                Action::Announce { vip, epoch, reason } => {
                    info!(%vip, epoch, %reason, "taking the VIP: announcing it");
                    self.answering.insert(vip, epoch);
                }
                Action::Reannounce { vip, reason } => {
                    info!(%vip, %reason, "announcing the VIP again");
                    self.outputs.announcer.again(vip);
                }
                Action::Withdraw { vip, reason } => {
                    info!(%vip, %reason, "giving the VIP up: silent for it");
                    self.answering.remove(&vip);
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
        let questions = self.ownership.questions();
        let ask = questions.into_iter().filter_map(|vip| Some((vip, places.get(&vip)?.clone()))).collect();
        let heed = self.macs.absent().into_iter().map(Into::into).collect();
        self.outputs.announcer.inquire(Inquiry { ask, heed });
        let wished = self.answering.iter().map(|(vip, epoch)| {
            let interfaces = places.remove(vip).unwrap_or_default();
            (*vip, Announcement { epoch: *epoch, interfaces, voice: self.ownership.voice(*vip) })
        });
        self.outputs.announcer.set(wished.collect());
    }

    /// Another machine has a VIP. What members say on the wire counts where gossip does not tell: whether anything was
    /// changed by it. Against others the VIP is defended by announcing it again, unless this node has just lost most of its
    /// cluster, and may not know all members any more.
    fn note(&mut self, conflict: &Conflict) -> bool {
        let (vip, interface, mac) = (conflict.vip, &conflict.interface, pnet_base::MacAddr::from(conflict.mac));
        let now = Instant::now();
        if !self.ownership.concerns(vip) {
            return false;
        }
        let node = self.macs.node(conflict.mac).cloned();
        if let Some(node) = &node {
            info!(%vip, interface, %node, "another member announces a VIP, or answers for it");
        }
        if node.is_some() || !self.answering.contains_key(&vip) {
            self.ownership.handle_wire(vip, node.as_ref(), now, unix_ms());
            return true;
        }
        self.outputs.events.vip_conflict(vip);
        warn!(%vip, interface, %mac, "a machine outside the cluster uses a VIP that this node owns: find its MAC");
        self.outputs.strangers.send_modify(|strangers| strangers.note(conflict, SystemTime::now()));
        if self.ownership.standing() != Standing::Minority && self.defence.is_due(vip, now) {
            self.outputs.announcer.again(vip);
        }
        false
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
