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

mod channels;
mod disputes;
mod orders;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use membership::{
    Claim, Command, Facts, Interface, NodeName, Standing, View,
    claims::{Action, Ownership},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{changes, macs::Macs, strangers::Defence};
use crate::{
    announce::{Announcement, Conflict, Inquiry},
    forward::{Link, wanted},
    gateway,
    health::plan,
    holdup::HoldUp,
    http::Order,
    io::{publish, sleep_until},
    link::{Links, Uplink},
    ownership,
    selftest::Scene,
    shadow,
    source::Snapshot,
};
pub use channels::{Inputs, Outputs, Owners};

/// What the loop was woken by.
enum Woken {
    Changed,
    Objects,
    Verdicts,
    Conflict(Conflict),
    Tested,
    Order(Order),
    Stop,
    Tick,
}

/// How a controller ended.
#[derive(Debug)]
pub enum Ending {
    /// It owns nothing any more.
    Gone,
    /// It still owns these, for the next agent on this machine.
    Restart(BTreeMap<IpAddr, Claim>),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Controller {
    me: NodeName,
    ownership: Ownership,
    facts: Facts,
    /// The hooks of an agent that ran here before carry traffic, and this one's tables have not replaced theirs yet.
    inherited: bool,
    /// Somebody has told this node to drain.
    told_to_drain: bool,
    /// Its Node object says that it should own nothing.
    leaving: bool,
    /// The VIPs this node answers for, with the epoch of its claim.
    answering: BTreeMap<IpAddr, u64>,
    defence: Defence,
    macs: Macs,
    view: Arc<View>,
    /// What the prober's plan was made for beside the objects.
    gateways: gateway::Standing,
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
            told_to_drain: false,
            leaving: false,
            defence: Defence::default(),
            macs: Macs::default(),
            answering: BTreeMap::new(),
            view: Arc::default(),
            gateways: gateway::Standing::new(),
            inputs,
            outputs,
        }
    }

    /// Runs until `stop` says so. Then it hands everything over, at the latest within `patience`; or, with a `grace`,
    /// leaves everything as it is for the next agent on this machine.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>, patience: Duration, grace: Duration) -> Ending {
        self.decide(true).await;
        let mut deadline: Option<Instant> = None;
        let mut hold_up = HoldUp::new(Instant::now());
        loop {
            if let Some(end) = deadline
                && self.is_released(end)
            {
                break;
            }
            let wake = [self.ownership.poll_timeout(), self.next_defence(), deadline].into_iter().flatten().min();
            let woken = tokio::select! {
                woken = self.inputs.next() => woken,
                Ok(()) = stop.changed(), if deadline.is_none() => Woken::Stop,
                () = sleep_until(wake) => Woken::Changed,
                () = sleep_until(Some(hold_up.wake())) => Woken::Tick,
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
                Woken::Tested => self.heed().await,
                Woken::Order(order) => self.obey(order),
                Woken::Stop if self.can_stay(grace).await => {
                    info!(vips = self.answering.len(), ?grace, "stopping for a restart: the VIPs stay on this machine");
                    return Ending::Restart(self.ownership.claims());
                }
                Woken::Stop => {
                    info!(vips = self.answering.len(), ?patience, "stopping: handing over what this node owns");
                    self.ownership.drain(Instant::now());
                    deadline = Some(Instant::now() + patience);
                }
            }
            self.decide(objects_changed).await;
        }
        self.stop().await;
        Ending::Gone
    }

    /// Whether this machine goes on without an agent, and others count on it now: its hooks are there, it is no newcomer, in
    /// no minority, is not to be drained, and the hooks answer for its VIPs from now on.
    async fn can_stay(&self, grace: Duration) -> bool {
        let sees_most = self.ownership.standing() != Standing::Minority;
        let counted_on = self.facts.forwarding && !self.facts.listening && !self.ownership.is_draining() && sees_most;
        !grace.is_zero() && counted_on && self.outputs.announcer.leave_to_hooks(grace).await
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
        if !Arc::ptr_eq(&before, &self.view) {
            changes::members(&before, &self.view, &self.me, &self.outputs.events);
            self.macs.update(&self.view);
        }
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow_and_update());
        let links = Arc::clone(&self.inputs.links.borrow_and_update());
        let gateways = gateway::standing(&self.view);
        if objects_changed || gateways != self.gateways {
            publish(&self.outputs.plan, Some(Arc::new(plan(&snapshot.desired, &self.view, &self.me))));
            self.gateways = gateways;
        }
        self.leave_if_wished(&snapshot);
        self.decide_ownership(&snapshot, &links).await;
        self.publish_facts(&links, &snapshot).await;
        self.settle_disputes();
        self.stand_in(&links);

        // Until this node knows its cluster, tables would say that it is alone; those of its predecessor serve better.
        if self.inherited && self.facts.listening {
            return;
        }
        self.inherited = false;
        // Also those without carrier: hooks stay where they are.
        let links: Vec<Link> = links.uplinks.values().map(link).collect();
        let wanted = wanted(&snapshot.desired, &self.view, &links, &self.me);
        publish(&self.outputs.wanted, Some(Arc::new(wanted)));
    }

    /// Drains while this node's Node object asks for it.
    fn leave_if_wished(&mut self, snapshot: &Snapshot) {
        let why = snapshot.desired.leaving.get(&self.me);
        if why.is_some() == self.leaving {
            return;
        }
        self.leaving = why.is_some();
        if let Some(why) = why {
            info!(why, "draining: what this node owns is handed over");
        } else {
            info!("its Node asks for it no more: this node may own VIPs again");
        }
        self.drain_or_not(Instant::now());
    }

    async fn decide_ownership(&mut self, snapshot: &Arc<Snapshot>, links: &Links) {
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
        let owners = Arc::clone(&self.outputs.owners.borrow());
        let scene = Scene { view: Arc::clone(&self.view), candidates, owners };
        self.outputs.scenes.send_replace(Some(Arc::new((scene, Arc::clone(snapshot)))));
    }

    /// Gossips this node's facts if they changed.
    async fn publish_facts(&mut self, links: &Links, snapshot: &Snapshot) {
        self.facts.forwarding = *self.inputs.forwarding.borrow_and_update();
        self.facts.draining = self.ownership.is_draining();
        self.facts.isolated = self.ownership.standing() == Standing::Minority;
        self.facts.informed = snapshot.current;
        self.facts.interfaces = links.usable().map(interface).collect();
        if publish(&self.outputs.facts, self.facts.clone()) {
            self.tell(Command::SetFacts(self.facts.clone())).await;
        }
    }

    /// Tells the shadow standby for whom to stand in: nobody while this node does not forward or wants to be rid of
    /// what it has.
    fn stand_in(&self, links: &Links) {
        let mut wishes = shadow::wanted(&self.view, self.ownership.owners(), links.usable(), &self.me);
        if !self.facts.forwarding || self.facts.draining {
            wishes.shadows.clear();
        }
        publish(&self.outputs.shadows, Arc::new(wishes));
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

fn link(uplink: &Uplink) -> Link {
    Link { name: uplink.name.clone(), index: uplink.index, mac: uplink.mac, prefixes: uplink.prefixes.clone() }
}

fn interface(uplink: &Uplink) -> Interface {
    Interface { name: uplink.name.clone(), mac: uplink.mac, prefixes: uplink.prefixes.clone() }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
