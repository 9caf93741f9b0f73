//! What is measured: Crier and keepalived behind one interface. Each bed is a network of its own with three nodes.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use e2e::{
    keepalived::{Adverts, Keepalived},
    manifests::{Endpoint, web},
    observe::{eventually, neighbour},
    pods::Pod,
    scenario::{Cluster, DNS, SETTLE, WEB},
    topology::Lan,
};
use serde::{Deserialize, Serialize};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum System {
    Crier,
    CrierFast,
    Keepalived,
    KeepalivedFast,
}

impl System {
    pub(crate) const ALL: [Self; 4] = [Self::Crier, Self::Keepalived, Self::CrierFast, Self::KeepalivedFast];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crier => "crier, default (50 ms x 3)",
            Self::CrierFast => "crier, fast (10 ms x 3)",
            Self::Keepalived => "keepalived, default (1 s, VRRPv2)",
            Self::KeepalivedFast => "keepalived, 50 ms (VRRPv3)",
        }
    }

    pub(crate) fn is_crier(self) -> bool {
        matches!(self, Self::Crier | Self::CrierFast)
    }

    /// The time from a heartbeat to the next that matters: a fault comes at a random moment of it.
    pub(crate) fn period(self) -> Duration {
        if self == Self::Keepalived { Duration::from_secs(1) } else { Duration::from_millis(50) }
    }

    /// How long after a fault a trial goes on at least.
    pub(crate) fn window(self) -> Duration {
        if self == Self::Keepalived { Duration::from_millis(4200) } else { Duration::from_millis(1000) }
    }

    pub(crate) fn start(self) -> Result<Box<dyn Bed>> {
        Ok(match self {
            Self::Crier => Box::new(CrierBed { cluster: crier("bench-default", 50)?, frozen: None }),
            Self::CrierFast => Box::new(CrierBed { cluster: crier("bench-fast", 10)?, frozen: None }),
            Self::Keepalived => {
                Box::new(KeepalivedBed { bed: Keepalived::start(Adverts { version: 2, interval: "1" })?, families: 1 })
            }
            Self::KeepalivedFast => Box::new(KeepalivedBed {
                bed: Keepalived::start(Adverts { version: 3, interval: "0.05" })?,
                families: 2,
            }),
        })
    }
}

/// Three agents with heartbeats each so many milliseconds.
pub(crate) fn crier(name: &str, interval: u64) -> Result<Cluster> {
    Cluster::three(name)
        .service(web().tcp(WEB).udp(DNS).dual_stack())
        .watch(Duration::from_millis(interval), 3)
        .nothing_moves_by_itself()
        .quiet()
        .start()
}

/// What is done to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    LinkDown,
    Cut,
    Kill,
    Hung,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link lost",
            Self::Cut => "cut off, link up",
            Self::Kill => "SIGKILL",
            Self::Hung => "frozen, hooks gone",
        }
    }
}

/// A network with a VIP on it.
pub(crate) trait Bed: Send {
    fn lan(&self) -> &Lan;
    fn pods(&self) -> &[Pod];
    fn vip(&self, ipv6: bool) -> IpAddr;
    /// Undoes the last fault, waits until all is at rest, places the pods (everywhere, or only on nodes that are not
    /// the owner); the owner.
    fn prepare(&mut self, ipv6: bool, everywhere: bool) -> Result<String>;
    /// Waits until somebody stands in for the owner, where the system has that. It must be the owner still, and the one
    /// that the client sends to: else its failure would cost the client nothing.
    fn guarded(&self, ipv6: bool, owner: &str) -> Result<()>;
    fn strike(&mut self, fault: Fault, owner: &str) -> Result<()>;
}

fn sends_to(lan: &Lan, vip: IpAddr, owner: &str) -> Result<()> {
    let (known, mac) = (neighbour(lan.client(), vip)?, lan.host(owner)?.mac);
    ensure!(known == Some(mac), "the client sends to {known:?} for {vip}, not to {owner}");
    Ok(())
}

struct CrierBed {
    cluster: Cluster,
    /// The node whose agent was stopped and whose hooks are gone: only a new agent attaches new ones.
    frozen: Option<String>,
}

impl CrierBed {
    /// Puts the service's pods on the nodes that `counts` says, and waits until all agents know.
    fn place(&mut self, counts: impl Fn(&str) -> bool) -> Result<()> {
        let chosen = self.cluster.pods.iter().filter(|pod| counts(&pod.node));
        let endpoints: Vec<_> = chosen.map(Endpoint::from).collect();
        let mut nodes: Vec<_> = endpoints.iter().map(|endpoint| endpoint.node.clone()).collect();
        nodes.dedup();
        self.cluster.edit("web", |service| service.endpoints = endpoints)?;
        eventually(SETTLE, "all agents know the pods", || {
            for agent in &self.cluster.agents {
                let status = agent.status()?;
                let mut seen: Vec<_> = status.backends.into_iter().filter_map(|backend| backend.node).collect();
                seen.sort_unstable();
                seen.dedup();
                ensure!(seen == nodes, "{} sees pods on {seen:?}, not {nodes:?}", agent.name);
            }
            Ok(())
        })
    }
}

impl Bed for CrierBed {
    fn lan(&self) -> &Lan {
        &self.cluster.lan
    }

    fn pods(&self) -> &[Pod] {
        &self.cluster.pods
    }

    fn vip(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.cluster.vip6() } else { self.cluster.vip4() }
    }

    fn prepare(&mut self, ipv6: bool, everywhere: bool) -> Result<String> {
        self.cluster.lan.heal_all()?;
        if let Some(node) = self.frozen.take() {
            self.cluster.agent(&node)?.kill()?;
        }
        for agent in self.cluster.agents.iter().filter(|agent| !agent.is_running()) {
            agent.start()?;
        }
        self.cluster.settle()?;
        // On a busy machine short timers may move the VIP meanwhile; the pods must be away from who has it in the end.
        for _ in 0..3 {
            let owner = self.cluster.owner(self.vip(ipv6))?;
            self.place(|node| everywhere || node != owner)?;
            self.cluster.settle()?;
            // As between failures in real life: those here follow each other within seconds.
            self.cluster.armed_standby(self.vip(ipv6))?;
            if self.cluster.owner(self.vip(ipv6))? == owner {
                return Ok(owner);
            }
        }
        bail!("the VIP moves again and again though nothing has failed")
    }

    /// Another standby may have been named since the bed was prepared, as when the node that failed last has
    /// listened to the end and can own VIPs again.
    fn guarded(&self, ipv6: bool, owner: &str) -> Result<()> {
        self.cluster.armed_standby(self.vip(ipv6))?;
        let now = self.cluster.owner(self.vip(ipv6))?;
        ensure!(now == owner, "the VIP went from {owner} to {now} though nothing had failed yet");
        sends_to(self.lan(), self.vip(ipv6), owner)
    }

    fn strike(&mut self, fault: Fault, owner: &str) -> Result<()> {
        match fault {
            Fault::LinkDown => self.cluster.lan.link_down(owner),
            Fault::Cut => self.cluster.lan.cut(owner),
            Fault::Kill => self.cluster.agent(owner)?.kill(),
            Fault::Hung => {
                self.frozen = Some(owner.to_owned());
                let agent = self.cluster.agent(owner)?;
                agent.freeze()?;
                let config = agent.config_path();
                let cleaned = agent.run(&["cleanup", "--config", &config.to_string_lossy()])?;
                ensure!(cleaned.status.success(), "cleanup: {}", String::from_utf8_lossy(&cleaned.stderr));
                Ok(())
            }
        }
    }
}

struct KeepalivedBed {
    bed: Keepalived,
    families: usize,
}

impl Bed for KeepalivedBed {
    fn lan(&self) -> &Lan {
        &self.bed.lan
    }

    fn pods(&self) -> &[Pod] {
        &self.bed.pods
    }

    fn vip(&self, ipv6: bool) -> IpAddr {
        self.bed.vip(ipv6)
    }

    fn guarded(&self, ipv6: bool, owner: &str) -> Result<()> {
        self.bed.only_first_has(self.vip(ipv6))?;
        sends_to(self.lan(), self.vip(ipv6), owner)
    }

    fn prepare(&mut self, _ipv6: bool, everywhere: bool) -> Result<String> {
        ensure!(!everywhere, "keepalived is measured with the pods on nodes that stay");
        self.bed.lan.heal_all()?;
        self.bed.settle(self.families)?;
        Ok("n1".to_owned())
    }

    fn strike(&mut self, fault: Fault, owner: &str) -> Result<()> {
        match fault {
            Fault::LinkDown => self.bed.lan.link_down(owner),
            Fault::Cut => self.bed.lan.cut(owner),
            Fault::Kill => self.bed.kill(),
            Fault::Hung => bail!("a frozen keepalived leaves its address and its rules in the kernel, which serve on"),
        }
    }
}
