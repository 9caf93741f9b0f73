//! Building a cluster: what a scenario's first sentence says.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Cluster, key};
use crate::{
    agent::{Agent, Config, GOSSIP_PORT},
    backbone,
    cleanup::RunDir,
    kubernetes::ApiServer,
    manifests::{Folder, POOL, ServiceSpec},
    pods::Pod,
    topology::{Host, Lan},
};

/// What to build; see [`Cluster::three`].
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    name: String,
    nodes: u8,
    pods: u8,
    host_network: bool,
    watch: (Duration, u32),
    forwarder: String,
    services: Vec<ServiceSpec>,
    quiet: bool,
    backbone: bool,
    interfaces: Vec<String>,
    extra: String,
    files: Option<PathBuf>,
    pub(super) kubernetes: bool,
}

impl Cluster {
    /// Three nodes, two pods behind each, a client. `name` is for the reader of logs and `/tmp`.
    #[must_use]
    pub fn three(name: &str) -> ClusterBuilder {
        Self::of(name, 3)
    }

    /// So many nodes, two pods behind each, a client.
    #[must_use]
    pub fn of(name: &str, nodes: u8) -> ClusterBuilder {
        ClusterBuilder {
            name: name.to_owned(),
            nodes,
            pods: 2,
            host_network: false,
            watch: (Duration::from_millis(50), 3),
            forwarder: "auto".to_owned(),
            services: Vec::new(),
            quiet: false,
            backbone: false,
            interfaces: vec!["eth0".to_owned()],
            extra: String::new(),
            files: None,
            kubernetes: false,
        }
    }
}

impl ClusterBuilder {
    /// With this service; all pods are behind it.
    #[must_use]
    pub fn service(mut self, service: ServiceSpec) -> Self {
        self.services.push(service);
        self
    }

    /// So many pods on each node; by default 2.
    #[must_use]
    pub fn pods(mut self, per_node: u8) -> Self {
        self.pods = per_node;
        self
    }

    /// One pod on each node's own address instead of pods behind it.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Heartbeats each `interval`; after `misses` missed ones a node is gone.
    #[must_use]
    pub fn watch(mut self, interval: Duration, misses: u32) -> Self {
        self.watch = (interval, misses);
        self
    }

    /// `forwarder.mode`.
    #[must_use]
    pub fn forwarder(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.forwarder);
        self
    }

    /// With a [second segment](crate::backbone) by which the agents gossip.
    #[must_use]
    pub fn backbone(mut self) -> Self {
        self.backbone = true;
        self
    }

    /// With these uplinks; by default eth0.
    #[must_use]
    pub fn interfaces(mut self, names: &[&str]) -> Self {
        self.interfaces = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// With more lines in each agent's config.
    #[must_use]
    pub fn extra(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self
    }

    /// Without rebalancing: a VIP moves only when something is wrong with its owner, or somebody asks. For whoever
    /// checks that one stays where it is: two VIPs and a fault make an uneven spread, which is evened out some seconds later.
    #[must_use]
    pub fn nothing_moves_by_itself(self) -> Self {
        self.extra("rebalance: off\n")
    }

    /// With configs and manifests from a folder: `<node>.yaml`, in which `$RUN` stands for the run directory, and
    /// `manifests/`. Services said otherwise are left out.
    #[must_use]
    pub fn files(mut self, folder: PathBuf) -> Self {
        self.files = Some(folder);
        self
    }

    /// Without the ends of the logs when it is over.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Builds network, pods and manifests; the agents are prepared, not started.
    ///
    /// # Errors
    /// Without root, or when the agent is not built.
    pub fn build(self) -> Result<Cluster> {
        let run = RunDir::new(&self.name)?;
        let pods_behind = if self.host_network { 0 } else { self.pods };
        let lan = Lan::new().nodes(self.nodes).client().pods(pods_behind);
        let lan = if self.kubernetes { lan.api_server() } else { lan }.build()?;
        if !self.quiet {
            println!("{}: inside by\n{}", self.name, lan.enter_hints());
        }
        if self.backbone {
            lan.build_backbone()?;
        }
        let pods = start_pods(&lan, self.host_network)?;
        let manifests = Folder::new(run.path().join("manifests"))?;
        let mut cluster = Cluster {
            agents: Vec::new(),
            pods,
            api: self.kubernetes.then(|| ApiServer::on(&lan)).transpose()?,
            lan,
            manifests,
            services: Vec::new(),
            configs: Vec::new(),
            quiet: self.quiet,
            run,
        };
        match &self.files {
            Some(folder) => cluster.read_files(folder)?,
            None if self.kubernetes => self.generate_from_api(&mut cluster)?,
            None => self.generate(&mut cluster)?,
        }
        Ok(cluster)
    }

    fn generate_from_api(&self, cluster: &mut Cluster) -> Result<()> {
        cluster.install()?;
        cluster.prepare_agents(&self.interfaces, &self.extra)?;
        for (index, service) in (0..).zip(&self.services) {
            cluster.add(index, service.clone())?;
        }
        Ok(())
    }

    fn generate(&self, cluster: &mut Cluster) -> Result<()> {
        let address = |host: &Host| if self.backbone { backbone::address(host) } else { host.v4 };
        let seeds: Vec<_> =
            cluster.lan.nodes.iter().map(|node| SocketAddr::new(address(&node.host).into(), GOSSIP_PORT)).collect();
        for node in &cluster.lan.nodes {
            let config = Config {
                node: node.host.name.clone(),
                interfaces: self.interfaces.clone(),
                join: seeds.clone(),
                keys: vec![key(7)],
                watch: self.watch,
                manifests: cluster.manifests.path().to_owned(),
                forwarder: self.forwarder.clone(),
                advertise: self.backbone.then(|| SocketAddr::new(backbone::address(&node.host).into(), GOSSIP_PORT)),
                extra: self.extra.clone(),
            };
            cluster.agents.push(Agent::prepare(&node.host, cluster.run.path().join(&node.host.name), &config)?);
            cluster.configs.push(config);
        }
        cluster.manifests.write("pool.yaml", POOL)?;
        for (index, service) in (0..).zip(&self.services) {
            cluster.add(index, service.clone())?;
        }
        Ok(())
    }

    /// Builds it, starts the agents and waits until all is settled.
    ///
    /// # Errors
    /// When it does not settle.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = self.build()?;
        cluster.agents.iter().try_for_each(Agent::start)?;
        cluster.learn_addresses()?;
        cluster.settle()?;
        Ok(cluster)
    }
}

fn start_pods(lan: &Lan, host_network: bool) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for node in &lan.nodes {
        if host_network {
            pods.push(Pod::start(&format!("{}-host", node.host.name), &node.host.name, &node.host)?);
        }
        for host in &node.pods {
            pods.push(Pod::start(&host.name, &node.host.name, host)?);
        }
    }
    Ok(pods)
}

impl Cluster {
    fn read_files(&mut self, folder: &Path) -> Result<()> {
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        for entry in fs::read_dir(folder.join("manifests"))? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            self.manifests.write(&name, &read(&path)?)?;
        }
        for node in &self.lan.nodes {
            let template = read(&folder.join(format!("{}.yaml", node.host.name)))?;
            let config = template.replace("$RUN", &self.run.path().display().to_string());
            let dir = self.run.path().join(&node.host.name);
            self.agents.push(Agent::prepare_with(&node.host, dir, &config, &(key(7) + "\n"))?);
        }
        Ok(())
    }
}
