//! Clusters whose agents read from a real API server: as deployed, with the manifest's objects and their ServiceAccount's rights.
//!
//! No kubelet runs here, so the agents are started as in other scenarios; all else is as in a cluster: they find each other by
//! the Nodes' addresses, and the gossip's key in the Secret that the first of them makes.

use std::{fmt::Write as _, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, ClusterBuilder, SETTLE};
use crate::{
    agent::Agent,
    kubernetes::ApiServer,
    manifests::{POOL, ServiceSpec},
    observe::eventually,
};

/// The namespace of Crier's own objects.
pub const NAMESPACE: &str = "crier-system";

impl ClusterBuilder {
    /// With an API server, from which the agents read. Services get their addresses there, unless they ask for some.
    #[must_use]
    pub fn kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self
    }
}

/// The manifest that people apply.
///
/// # Errors
/// When it is not there.
pub fn manifest() -> Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crier.yaml");
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

impl Cluster {
    /// The API server.
    ///
    /// # Panics
    /// When the cluster was built without one.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        self.api.as_ref().expect("the cluster was built with .kubernetes()")
    }

    /// Applies the manifest, a pool and the nodes.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn install(&self) -> Result<()> {
        self.api().define(&manifest()?)?;
        self.api().apply(POOL)?;
        self.register_nodes()
    }

    /// Makes the Node objects, as kubelets do.
    ///
    /// # Errors
    /// When one is refused.
    pub fn register_nodes(&self) -> Result<()> {
        for node in &self.lan.nodes {
            let (name, v4) = (&node.host.name, node.host.v4);
            self.api().apply(&format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}}}}}}}"
            ))?;
            let addresses = json!([{"type": "InternalIP", "address": v4}]);
            self.api().patch_status("", &format!("node/{name}"), &json!({"addresses": addresses}))?;
        }
        Ok(())
    }

    /// Writes the agents' configs: with the ServiceAccount's token, without seeds and without a key.
    pub(super) fn prepare_agents(&mut self, interfaces: &[String], extra: &str) -> Result<()> {
        let kubeconfig = self.kubeconfig();
        self.renew_account()?;
        for node in &self.lan.nodes {
            let dir = self.run.path().join(&node.host.name);
            let here = dir.display();
            let config = format!(
                "node: {}\ninterfaces: [{}]\nsource: {{kubernetes: {{kubeconfig: {}}}}}\nstateDir: {here}/state\n\
                 gossip: {{keyFile: {here}/none}}\nsocket: {here}/crier.sock\npinDir: {here}/bpf/crier\n{extra}",
                node.host.name,
                interfaces.join(", "),
                kubeconfig.display(),
            );
            self.agents.push(Agent::prepare_with(&node.host, dir, &config, "")?);
        }
        Ok(())
    }

    /// The agents' kubeconfig.
    fn kubeconfig(&self) -> PathBuf {
        self.run.path().join("kubeconfig")
    }

    /// Gives the agents a token of the manifest's ServiceAccount, which they read when they start.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn renew_account(&self) -> Result<()> {
        let token = self.api().token(NAMESPACE, "crier")?;
        fs::rename(self.api().kubeconfig_for(&token)?, self.kubeconfig())?;
        Ok(())
    }

    /// Waits until all services have addresses, and remembers them.
    pub(super) fn learn_addresses(&mut self) -> Result<()> {
        if self.api.is_none() {
            return Ok(());
        }
        for index in 0..self.services.len() {
            let vips = self.addresses(&self.services[index].name)?;
            self.services[index].vips = vips;
        }
        Ok(())
    }

    /// Adds a service behind which all pods are, unless it names some; waits for its addresses.
    ///
    /// # Errors
    /// When it is refused, or gets no address in time.
    pub fn expose(&mut self, mut service: ServiceSpec) -> Result<Vec<IpAddr>> {
        if service.endpoints.is_empty() {
            service.endpoints = self.pods.iter().map(Into::into).collect();
        }
        self.api().apply(&service.yaml())?;
        service.vips = self.addresses(&service.name)?;
        self.services.push(service.clone());
        Ok(service.vips)
    }

    /// Waits until a service has addresses in its status.
    ///
    /// # Errors
    /// When it has none in time: with what its events say.
    pub fn addresses(&self, service: &str) -> Result<Vec<IpAddr>> {
        eventually(SETTLE, &format!("an address for {service}"), || {
            let addresses = self.recorded(service)?;
            ensure!(!addresses.is_empty(), "it has none; {}", self.events(service)?);
            Ok(addresses)
        })
    }

    /// The addresses in a service's status. `service` is a name in the namespace `default`, or `namespace/name`.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn recorded(&self, service: &str) -> Result<Vec<IpAddr>> {
        let (namespace, name) = split(service);
        let object = self.api().get(namespace, &format!("service/{name}"))?;
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().map(|one| Ok(one["ip"].as_str().context("no ip")?.parse()?)).collect()
    }

    /// What is told about a service: a line each.
    ///
    /// # Errors
    /// When events cannot be read.
    pub fn events(&self, service: &str) -> Result<String> {
        let (namespace, name) = split(service);
        let mut told = String::new();
        for event in self.api().list("events.events.k8s.io")? {
            if event["regarding"]["name"] == name && event["regarding"]["namespace"] == namespace {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                let _ = writeln!(told, "{} {}: {}", text("type"), text("reason"), text("note"));
            }
        }
        Ok(told)
    }

    /// The status of a service's `VIP` object.
    ///
    /// # Errors
    /// When there is none.
    pub fn vip_object(&self, service: &str) -> Result<Value> {
        let (namespace, name) = split(service);
        Ok(self.api().get(namespace, &format!("vip/{name}"))?["status"].take())
    }

    /// Waits until a service has these addresses, in this order, and no others.
    ///
    /// # Errors
    /// When it has others: with what its events say.
    pub fn has(&self, service: &str, addresses: &[&str]) -> Result<()> {
        eventually(SETTLE, &format!("{service} has {addresses:?}"), || {
            let found = self.recorded(service)?;
            ensure!(found.iter().map(IpAddr::to_string).eq(addresses.iter().copied()), "it has {found:?}");
            Ok(())
        })
        .with_context(|| self.events(service).unwrap_or_default())
    }

    /// Waits until an event about a service says all of `words`.
    ///
    /// # Errors
    /// When none does: with those there are.
    pub fn told(&self, service: &str, words: &[&str]) -> Result<()> {
        eventually(SETTLE, &format!("an event about {service} says {words:?}"), || {
            let events = self.events(service)?;
            let says = |line: &str| words.iter().all(|word| line.contains(word));
            ensure!(events.lines().any(says), "there are\n{events}");
            Ok(())
        })
    }

    /// Waits until one of Crier's objects has a condition `kind=status` of the object as it is now, whose message says all of
    /// `words`.
    ///
    /// # Errors
    /// When it has not: with its status.
    pub fn judged(&self, object: &str, condition: &str, words: &[&str]) -> Result<()> {
        eventually(SETTLE, &format!("{object} has {condition} and says {words:?}"), || {
            let found = self.api().get("default", object)?;
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let fits = |one: &Value| {
                let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
                format!("{}={}", text("type"), text("status")) == condition
                    && one["observedGeneration"] == found["metadata"]["generation"]
                    && words.iter().all(|word| format!("{} {}", text("reason"), text("message")).contains(word))
            };
            ensure!(conditions.iter().any(fits), "it has {}", found["status"]);
            Ok(())
        })
    }
}

/// Namespace and name.
fn split(service: &str) -> (&str, &str) {
    service.split_once('/').unwrap_or(("default", service))
}
