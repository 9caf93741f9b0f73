//! The world as chaos has made it: actions on nodes, each noted with its time and with the way to undo it.
//!
//! Scenarios are written in these actions, so what is in force is always known: which nodes are untouched, which parts
//! of the network hear each other, what has to be undone, in which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, rngs::StdRng};

use super::invariants;
use crate::{
    agent::binary,
    faults::disk::Disk,
    observe::eventually,
    scenario::{Cluster, SETTLE},
};

/// How a node stands to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plight {
    /// It hears nobody and is heard by nobody, with its link up.
    Apart,
    /// Its link is down.
    Down,
    /// Its agent does not run.
    Dead,
    /// Its agent is stopped.
    Frozen,
    /// It is heard, or hears, but not both; nothing is said of what it believes.
    Half,
}

type Undo<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// A cluster in trouble.
pub struct World<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// What chance there is comes from here.
    pub random: StdRng,
    /// The VIP whose owner is meant by "the owner", and which is under load.
    pub vip: IpAddr,
    plights: BTreeMap<String, Plight>,
    touched: BTreeSet<String>,
    vague: bool,
    undo: Vec<Undo<'a>>,
    events: Vec<(Instant, String)>,
}

impl<'a> World<'a> {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(cluster: &'a Cluster, random: StdRng, vip: IpAddr) -> Self {
        Self {
            cluster,
            random,
            vip,
            plights: BTreeMap::new(),
            touched: BTreeSet::new(),
            vague: false,
            undo: Vec::new(),
            events: Vec::new(),
        }
    }

    // --- who ---

    /// The names of all nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.cluster.agents.iter().map(|agent| agent.name.clone()).collect()
    }

    /// The owner of the VIP under load; all who are in no plight must agree.
    ///
    /// # Errors
    /// When they do not.
    pub fn owner(&self) -> Result<String> {
        let well: Vec<_> = self.nodes().into_iter().filter(|node| !self.plights.contains_key(node)).collect();
        let well: Vec<_> = well.iter().map(String::as_str).collect();
        eventually(SETTLE, &format!("one owner of {}", self.vip), || self.cluster.agreed_owner(self.vip, &well))
    }

    /// A node to which nothing has been done yet, other than `spare`.
    ///
    /// # Errors
    /// When there is none left.
    pub fn any_but(&mut self, spare: &str) -> Result<String> {
        let free: Vec<_> =
            self.nodes().into_iter().filter(|node| !self.touched.contains(node) && node != spare).collect();
        ensure!(!free.is_empty(), "no node is left to strike");
        Ok(free[self.random.random_range(0..free.len())].clone())
    }

    /// Any node to which nothing has been done yet.
    ///
    /// # Errors
    /// When there is none left.
    pub fn any(&mut self) -> Result<String> {
        self.any_but("")
    }

    /// Whether anything was done to the node.
    #[must_use]
    pub fn is_touched(&self, node: &str) -> bool {
        self.touched.contains(node)
    }

    /// What was done, and when.
    #[must_use]
    pub fn events(&self) -> &[(Instant, String)] {
        &self.events
    }

    /// The parts of the network in which agents hear each other, the client's first. Nodes that are half cut off
    /// belong to none. `None` if nothing can be said, because frames are lost at random.
    #[must_use]
    pub fn parts(&self) -> Option<Vec<Vec<String>>> {
        if self.vague {
            return None;
        }
        let (well, ill): (Vec<_>, Vec<_>) = self.nodes().into_iter().partition(|node| !self.plights.contains_key(node));
        let alone =
            ill.into_iter().filter(|node| self.plights.get(node) == Some(&Plight::Apart)).map(|node| vec![node]);
        Some(std::iter::once(well).chain(alone).filter(|part| !part.is_empty()).collect())
    }

    /// Whether the client can be heard and answered by members of its own part only, all of which run.
    #[must_use]
    pub fn wire_is_telling(&self) -> bool {
        !self.vague && self.plights.values().all(|plight| *plight != Plight::Half)
    }

    // --- time ---

    /// Lets a time pass, drawn from a range in milliseconds.
    pub fn pass(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(milliseconds)));
    }

    // --- the network ---

    /// The node's port is silently cut.
    ///
    /// # Errors
    /// When the testbed fails; so all others.
    pub fn cut(&mut self, node: &str) -> Result<()> {
        self.note(node, "cut");
        self.cluster.lan.cut(node)?;
        self.in_plight(node, Plight::Apart);
        self.heal_later(node);
        Ok(())
    }

    /// The node's link goes down.
    ///
    /// # Errors
    /// As all.
    pub fn link_down(&mut self, node: &str) -> Result<()> {
        self.note(node, "link down");
        self.cluster.lan.link_down(node)?;
        self.in_plight(node, Plight::Down);
        self.heal_later(node);
        Ok(())
    }

    /// What was done to the node's port is undone now.
    ///
    /// # Errors
    /// As all.
    pub fn heal_port(&mut self, node: &str) -> Result<()> {
        self.note(node, "healed");
        self.plights.remove(node);
        self.cluster.lan.heal(node)
    }

    /// The node is heard by nobody.
    ///
    /// # Errors
    /// As all.
    pub fn mute(&mut self, node: &str) -> Result<()> {
        self.note(node, "mute");
        self.cluster.lan.silence(node)?;
        self.in_plight(node, Plight::Half);
        self.heal_later(node);
        Ok(())
    }

    /// The node hears nobody.
    ///
    /// # Errors
    /// As all.
    pub fn deafen(&mut self, node: &str) -> Result<()> {
        self.note(node, "deaf");
        self.cluster.lan.deafen(node)?;
        self.in_plight(node, Plight::Half);
        self.heal_later(node);
        Ok(())
    }

    /// The node and the other nodes do not hear each other; the client hears all, or with `client` only the others.
    ///
    /// # Errors
    /// As all.
    pub fn set_apart(&mut self, node: &str, client: bool) -> Result<()> {
        self.note(node, if client { "apart" } else { "apart from its peers" });
        let nodes = self.nodes();
        let others: Vec<_> =
            nodes.iter().map(String::as_str).filter(|other| *other != node).chain(client.then_some("c1")).collect();
        self.cluster.lan.partition(&[&[node], &others])?;
        // Where the client hears both parts, the wire has two answers.
        self.in_plight(node, if client { Plight::Apart } else { Plight::Half });
        self.heal_later(node);
        Ok(())
    }

    /// The node's port loses frames.
    ///
    /// # Errors
    /// As all.
    pub fn lose(&mut self, node: &str, percent: u8) -> Result<()> {
        self.note(node, &format!("loses {percent} %"));
        self.cluster.lan.loss(node, percent)?;
        self.vague = true;
        self.heal_later(node);
        Ok(())
    }

    /// The node's line is slow.
    ///
    /// # Errors
    /// As all.
    pub fn delay(&mut self, node: &str, delay: Duration) -> Result<()> {
        self.note(node, &format!("delayed by {delay:?}"));
        let lan = &self.cluster.lan;
        let line = lan.delay(node, delay)?;
        self.undo.push(Box::new(move || lan.fast_again(line)));
        Ok(())
    }

    fn heal_later(&mut self, node: &str) {
        let (lan, node) = (&self.cluster.lan, node.to_owned());
        self.undo.push(Box::new(move || lan.heal(&node)));
    }

    // --- agents ---

    /// SIGKILL.
    ///
    /// # Errors
    /// As all.
    pub fn kill(&mut self, node: &str) -> Result<()> {
        self.note(node, "killed");
        self.cluster.agent(node)?.kill()?;
        self.gone(node)
    }

    /// SIGTERM, to the end.
    ///
    /// # Errors
    /// As all, and when the agent does not end well.
    pub fn terminate(&mut self, node: &str) -> Result<()> {
        self.note(node, "SIGTERM");
        self.cluster.agent(node)?.terminate()?;
        self.gone(node)
    }

    /// Starts an agent that was killed or terminated.
    ///
    /// # Errors
    /// As all.
    pub fn start(&mut self, node: &str) -> Result<()> {
        self.note(node, "started");
        self.plights.remove(node);
        self.cluster.agent(node)?.start()
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// As all.
    pub fn freeze(&mut self, node: &str) -> Result<()> {
        self.note(node, "stopped");
        let agent = self.cluster.agent(node)?;
        agent.freeze()?;
        self.in_plight(node, Plight::Frozen);
        self.undo.push(Box::new(|| agent.thaw()));
        Ok(())
    }

    /// Hands all its VIPs over.
    ///
    /// # Errors
    /// When `crierctl drain` fails.
    pub fn drain(&mut self, node: &str) -> Result<()> {
        self.note(node, "drain");
        let socket = self.cluster.agent(node)?.socket();
        crierctl(&socket, &["drain"])?;
        self.undo.push(Box::new(move || crierctl(&socket, &["drain", "--undo"])));
        Ok(())
    }

    fn gone(&mut self, node: &str) -> Result<()> {
        self.in_plight(node, Plight::Dead);
        let agent = self.cluster.agent(node)?;
        self.undo.push(Box::new(|| if agent.is_running() { Ok(()) } else { agent.start() }));
        Ok(())
    }

    // --- disks ---

    /// Restarts the agent on a disk of its own, made by `make`, and gives that disk to `then` once all has settled.
    ///
    /// # Errors
    /// As all.
    pub fn on_disk(
        &mut self,
        node: &str,
        make: fn(&std::path::Path) -> Result<Disk>,
        then: impl FnOnce(&Disk) -> Result<()>,
    ) -> Result<()> {
        let cluster = self.cluster;
        let agent = cluster.agent(node)?;
        self.terminate(node)?;
        let disk = make(&agent.state_dir())?;
        self.start(node)?;
        invariants::settle(cluster)?;
        then(&disk)?;
        self.undo.push(Box::new(move || {
            // It may hang; a stop would wait for it.
            let _ = disk.resume();
            agent.terminate()?;
            drop(disk);
            agent.start()
        }));
        Ok(())
    }

    // --- books ---

    /// Undoes all that is left to undo, the last first; goes on after an error and gives the first.
    ///
    /// # Errors
    /// The first.
    pub fn heal(&mut self) -> Result<()> {
        if !self.undo.is_empty() {
            self.events.push((Instant::now(), "healed".to_owned()));
        }
        let mut outcome = Ok(());
        while let Some(undo) = self.undo.pop() {
            outcome = outcome.and(undo());
        }
        self.plights.clear();
        self.vague = false;
        outcome
    }

    /// Notes something for the timeline.
    pub fn note(&mut self, node: &str, what: &str) {
        self.touched.insert(node.to_owned());
        self.events.push((Instant::now(), format!("{node} {what}")));
    }

    fn in_plight(&mut self, node: &str, plight: Plight) {
        self.plights.insert(node.to_owned(), plight);
    }
}

fn crierctl(socket: &std::path::Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(binary("crierctl")?).arg("--agent").arg(socket).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "crierctl {} failed: {}", arguments.join(" "), said.trim());
    Ok(())
}

/// As [`World::drain`], for preparations that are no part of a round: all nodes but `node` drain until it owns all VIPs.
///
/// # Errors
/// When it does not come to own them all.
pub fn concentrate(cluster: &Cluster, node: &str) -> Result<()> {
    let others: Vec<_> = cluster.agents.iter().filter(|agent| agent.name != node).collect();
    others.iter().try_for_each(|agent| crierctl(&agent.socket(), &["drain"]))?;
    let all = eventually(SETTLE, &format!("{node} owns all VIPs"), || {
        let owners = invariants::owners(cluster, &cluster.running())?;
        ensure!(owners.values().all(|owner| owner == node), "{owners:?}");
        Ok(())
    });
    others.iter().try_for_each(|agent| crierctl(&agent.socket(), &["drain", "--undo"]))?;
    all.context("before the round")
}
