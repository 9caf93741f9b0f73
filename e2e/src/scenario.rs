//! What scenarios say: a cluster of nodes with agents, a client, pods and services.
//!
//! A [`Cluster`] that was started has settled: its members see each other, each VIP has one owner and is served.
//! Questions about the present are asked once (`agreed_owner`); those about what is to come wait (`owner`,
//! `new_owner`). When a test ends, the ends of the agents' logs are printed, which the test harness shows on failure.

mod build;
mod kubernetes;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    agent::{Agent, Config},
    cleanup::RunDir,
    kubernetes::ApiServer,
    longlived::LongLived,
    manifests::{Endpoint, Folder, ServiceSpec},
    observe::{eventually, neighbour},
    pods::Pod,
    topology::{Host, Lan},
    traffic::{Answer, Load, Transport, ask},
};

pub use build::ClusterBuilder;
pub use kubernetes::{NAMESPACE, manifest};

/// How long a cluster may take to settle after a start or a fault. Far beyond what it should need.
pub const SETTLE: Duration = Duration::from_secs(20);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(2);
/// The port services have in scenarios, unless they say otherwise.
pub const WEB: u16 = 80;
/// The UDP port services have in scenarios, unless they say otherwise.
pub const DNS: u16 = 5353;

/// A cluster key made of one byte.
#[must_use]
pub fn key(byte: u8) -> String {
    STANDARD.encode([byte; 32])
}

/// A running cluster. Fields are dropped in order: agents before the network they live in.
#[derive(Debug)]
pub struct Cluster {
    /// The agents, `n1` first.
    pub agents: Vec<Agent>,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The API server, where the agents read from one.
    api: Option<ApiServer>,
    /// The network.
    pub lan: Lan,
    /// What the agents read.
    pub manifests: Folder,
    /// The services as written; change them with [`Cluster::edit`].
    services: Vec<ServiceSpec>,
    configs: Vec<Config>,
    quiet: bool,
    run: RunDir,
}

impl Cluster {
    // --- who is there ---

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Host {
        self.lan.client()
    }

    /// An agent by node name.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn agent(&self, node: &str) -> Result<&Agent> {
        self.agents.iter().find(|agent| agent.name == node).with_context(|| format!("there is no agent {node}"))
    }

    /// The config an agent was prepared with.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn config(&self, node: &str) -> Result<&Config> {
        self.configs.iter().find(|config| config.node == node).with_context(|| format!("there is no agent {node}"))
    }

    /// A pod by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("there is no pod {name}"))
    }

    /// The node of a pod; the empty string if there is no such pod.
    #[must_use]
    pub fn node_of(&self, pod: &str) -> &str {
        self.pods.iter().find(|entry| entry.name == pod).map_or("", |entry| &entry.node)
    }

    /// All VIPs of all services.
    #[must_use]
    pub fn vips(&self) -> Vec<IpAddr> {
        self.services.iter().flat_map(|service| service.vips.clone()).collect()
    }

    /// The first service's IPv4 VIP.
    ///
    /// # Panics
    /// Without services.
    #[must_use]
    pub fn vip4(&self) -> IpAddr {
        self.services[0].vips[0]
    }

    /// The first service's IPv6 VIP.
    ///
    /// # Panics
    /// When it is not dual-stack.
    #[must_use]
    pub fn vip6(&self) -> IpAddr {
        self.services[0].vips[1]
    }

    // --- ownership ---

    /// Waits for one owner of `vip` on whom all running agents agree.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn owner(&self, vip: IpAddr) -> Result<String> {
        let running = self.running();
        eventually(SETTLE, &format!("one owner of {vip}"), || self.agreed_owner(vip, &running))
    }

    /// Waits until the standby that `vip`'s owner names would carry what is flooded; that node.
    ///
    /// # Errors
    /// When none is in time: on a segment that floods, or where frames were flooded a moment ago.
    pub fn armed_standby(&self, vip: IpAddr) -> Result<String> {
        eventually(SETTLE, &format!("an armed standby for {vip}"), || {
            let owner = self.agreed_owner(vip, &self.running())?;
            let status = self.agent(&owner)?.status()?;
            let standby = status.vips.into_iter().find(|entry| entry.address == vip).and_then(|entry| entry.standby);
            let standby = standby.context("no standby is named")?;
            let metrics = self.agent(&standby)?.metrics()?;
            let armed = metrics.metric("crier_shadow_state").label("owner", &owner).label("state", "armed");
            ensure!(armed.sum() > 0.0, "{standby} is not armed for {owner}");
            Ok(standby)
        })
    }

    /// Waits until all running agents but `old`'s agree on another owner of `vip`.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn new_owner(&self, vip: IpAddr, old: &str) -> Result<String> {
        let others: Vec<_> = self.running().into_iter().filter(|name| *name != old).collect();
        eventually(SETTLE, &format!("another owner of {vip} than {old}"), || {
            let owner = self.agreed_owner(vip, &others)?;
            ensure!(owner != old, "{old} still owns it");
            Ok(owner)
        })
    }

    /// The owner of `vip` by the statuses of `nodes`, which must agree, and by their metrics, of which only the
    /// owner's may say 1.
    ///
    /// # Errors
    /// When they do not agree, or there is no owner among them.
    pub fn agreed_owner(&self, vip: IpAddr, nodes: &[&str]) -> Result<String> {
        let mut owners = BTreeMap::new();
        for node in nodes {
            owners.insert(*node, self.agent(node)?.status()?.owner(vip).map(str::to_owned));
        }
        let first = owners.values().next().cloned().flatten();
        let owner = first.with_context(|| format!("{vip} has no owner: {owners:?}"))?;
        ensure!(owners.values().all(|other| other.as_ref() == Some(&owner)), "{vip} has several: {owners:?}");
        for node in nodes {
            let owned = self.agent(node)?.metrics()?.metric("crier_vip_owned").label("vip", &vip.to_string()).sum();
            let expected = if *node == owner { 1.0 } else { 0.0 };
            ensure!((owned - expected).abs() < f64::EPSILON, "{node} says crier_vip_owned {owned}, owner is {owner}");
        }
        Ok(owner)
    }

    /// The nodes whose agents run.
    #[must_use]
    pub fn running(&self) -> Vec<&str> {
        self.agents.iter().filter(|agent| agent.is_running()).map(|agent| agent.name.as_str()).collect()
    }

    /// Waits until the running agents see each other and nobody else, and each VIP is owned and served.
    ///
    /// # Errors
    /// When it does not come to that in time, or an agent has ended by itself.
    pub fn settle(&self) -> Result<()> {
        eventually(SETTLE, "all members see each other", || {
            // No use in waiting for an agent that is gone.
            if let Some(failed) = self.agents.iter().find(|agent| agent.has_failed()) {
                return Ok(Err(anyhow!(failed.obituary())));
            }
            let running = self.running();
            ensure!(!running.is_empty(), "no agent runs");
            for node in &running {
                let status = self.agent(node)?.status()?;
                ensure!(status.up() == running, "{node} sees {:?}", status.members);
            }
            Ok(Ok(()))
        })??;
        for vip in self.vips() {
            self.owner(vip)?;
            eventually(SETTLE, &format!("{vip} is served"), || self.get(vip).map(drop))?;
        }
        Ok(())
    }

    /// Waits until the client sends what is for `vip` to this node: by its neighbour table.
    ///
    /// # Errors
    /// When it does not in time, or there is no such node.
    pub fn client_sends_to(&self, vip: IpAddr, node: &str) -> Result<()> {
        let mac = self.lan.host(node)?.mac;
        eventually(SETTLE, &format!("the client sends what is for {vip} to {node}"), || {
            let known = neighbour(self.client(), vip)?;
            ensure!(known == Some(mac), "it sends to {known:?}, not {mac}");
            Ok(())
        })
    }

    // --- traffic ---

    /// One TCP request from the client to port 80.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn get(&self, vip: IpAddr) -> Result<Answer> {
        self.ask(Transport::Tcp, SocketAddr::new(vip, WEB))
    }

    /// One request from the client.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn ask(&self, transport: Transport, target: SocketAddr) -> Result<Answer> {
        self.client().ns.run(|| ask(transport, target, "hello", REQUEST))
    }

    /// `count` requests from the client, each from a new source port: answers by pod.
    ///
    /// # Errors
    /// When one is not answered.
    pub fn ask_many(&self, transport: Transport, target: SocketAddr, count: u32) -> Result<BTreeMap<String, u32>> {
        self.client().ns.run(|| {
            let mut pods = BTreeMap::new();
            for number in 0..count {
                let answer = ask(transport, target, &number.to_string(), REQUEST)
                    .with_context(|| format!("request {number} of {count} to {target}"))?;
                *pods.entry(answer.pod).or_default() += 1;
            }
            Ok(pods)
        })
    }

    /// Answers by node, from answers by pod.
    #[must_use]
    pub fn by_node(&self, pods: &BTreeMap<String, u32>) -> BTreeMap<String, u32> {
        let mut nodes = BTreeMap::new();
        for (pod, count) in pods {
            *nodes.entry(self.node_of(pod).to_owned()).or_default() += count;
        }
        nodes
    }

    /// A thousand UDP requests a second to port 5353, to measure outages with.
    #[must_use]
    pub fn udp_load(&self, vip: IpAddr) -> Load {
        Load::new(Transport::Udp, SocketAddr::new(vip, DNS)).per_second(1000)
    }

    /// A hundred TCP connections a second to port 80.
    #[must_use]
    pub fn tcp_load(&self, vip: IpAddr) -> Load {
        Load::new(Transport::Tcp, SocketAddr::new(vip, WEB)).per_second(100)
    }

    /// Long-lived TCP connections to port 80.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn long_lived(&self, vip: IpAddr, count: usize) -> Result<LongLived> {
        LongLived::open(&self.client().ns, SocketAddr::new(vip, WEB), count)
    }

    // --- desired state ---

    /// Changes a service and writes its manifest.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> Result<()> {
        let service = self.services.iter_mut().find(|service| service.name == name);
        let service = service.with_context(|| format!("there is no service {name}"))?;
        change(service);
        let yaml = service.yaml();
        self.write(name, &yaml)
    }

    /// Writes a service's objects to where the agents read them.
    fn write(&self, name: &str, yaml: &str) -> Result<()> {
        match &self.api {
            Some(api) => api.apply(yaml),
            None => self.manifests.write(&format!("{name}.yaml"), yaml),
        }
    }

    fn add(&mut self, index: u8, mut service: ServiceSpec) -> Result<()> {
        if self.api.is_none() {
            service.assign(index)?;
        }
        service.endpoints = self.pods.iter().map(Endpoint::from).collect();
        self.write(&service.name, &service.yaml())?;
        self.services.push(service);
        Ok(())
    }

    /// Ends without printing the agents' logs: all went well.
    pub fn end_quietly(mut self) {
        self.quiet = true;
    }

    /// The run directory: configs, logs, manifests.
    #[must_use]
    pub fn run_dir(&self) -> &std::path::Path {
        self.run.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.quiet {
            for agent in &self.agents {
                println!("--- end of the log of {} ---\n{}", agent.name, agent.log_tail(30));
            }
        }
    }
}
