//! The objects agents read: pool, advertisement, and for each service its Service, EndpointSlices and HealthCheck.
//!
//! [`ServiceSpec`] is what scenarios say; [`Folder`] is where agents look. A file appears or changes in one step
//! (rename), as editors and config management do it; [`Folder::write_in_place`] is for those that do not.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::pods::{Pod, TCP_PORT, UDP_PORT};

/// The pool and the advertisement every cluster has: 10.77.0.100 to .119, fd77::100 to ::11f.
pub const POOL: &str = "\
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan, namespace: default}
spec:
  addresses: [10.77.0.100-10.77.0.119, \"fd77::100-fd77::11f\"]
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan, namespace: default}
spec:
  ipAddressPools: [lan]
";

/// How a service's pods are probed.
#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// The path of an HTTP check; `None`: TCP connect.
    pub path: Option<String>,
    /// From probe to probe.
    pub interval: Duration,
    /// Successes that make healthy.
    pub rise: u32,
    /// Failures that make unhealthy.
    pub fall: u32,
    /// How long a pod that has become healthy takes to its full share.
    pub slow_start: Duration,
    /// The weights of nodes' pods.
    pub weights: Vec<(String, u32)>,
}

/// A pod behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: String,
    /// Its node; empty: none that the objects name.
    pub node: String,
    /// IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
    /// The `ready` condition.
    pub ready: bool,
    /// The `terminating` condition; such a pod is still serving.
    pub terminating: bool,
}

impl From<&Pod> for Endpoint {
    /// The pod, ready.
    fn from(pod: &Pod) -> Self {
        let (pod, node, addresses) = (pod.name.clone(), pod.node.clone(), pod.addresses);
        Self { pod, node, addresses, ready: true, terminating: false }
    }
}

/// A service, said fluently: `web().tcp(80).udp(5353).dual_stack()`.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Its name, in namespace `default`.
    pub name: String,
    /// Its VIPs: IPv4, and IPv6 if dual-stack. A cluster assigns those that are not set.
    pub vips: Vec<IpAddr>,
    /// The pods behind it.
    pub endpoints: Vec<Endpoint>,
    tcp: Option<u16>,
    udp: Option<u16>,
    /// The pods' ports, where they are not their servers'.
    target: Option<u16>,
    dual_stack: bool,
    local: bool,
    check: Option<CheckSpec>,
    extra: String,
}

/// The usual service.
#[must_use]
pub fn web() -> ServiceSpec {
    service("web")
}

/// A service without ports.
#[must_use]
pub fn service(name: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        vips: Vec::new(),
        endpoints: Vec::new(),
        tcp: None,
        udp: None,
        target: None,
        dual_stack: false,
        local: false,
        check: None,
        extra: String::new(),
    }
}

impl ServiceSpec {
    /// With this TCP port, to the pods' TCP server.
    #[must_use]
    pub fn tcp(mut self, port: u16) -> Self {
        self.tcp = Some(port);
        self
    }

    /// With this UDP port, to the pods' UDP server.
    #[must_use]
    pub fn udp(mut self, port: u16) -> Self {
        self.udp = Some(port);
        self
    }

    /// To this port of the pods, of TCP and UDP, and not to their servers.
    #[must_use]
    pub fn target(mut self, port: u16) -> Self {
        self.target = Some(port);
        self
    }

    /// With an IPv6 VIP too.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    /// With `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// On these addresses.
    #[must_use]
    pub fn at(mut self, vips: &[&str]) -> Self {
        self.vips = vips.iter().filter_map(|vip| vip.parse().ok()).collect();
        self
    }

    /// Probed by HTTP on `/healthz`, each `interval`, two successes or failures count.
    #[must_use]
    pub fn http_check(self, interval: Duration) -> Self {
        self.probed(Some("/healthz".to_owned()), interval)
    }

    /// Probed by TCP connect, each `interval`, two successes or failures count.
    #[must_use]
    pub fn tcp_check(self, interval: Duration) -> Self {
        self.probed(None, interval)
    }

    fn probed(mut self, path: Option<String>, interval: Duration) -> Self {
        let (slow_start, weights) = (Duration::ZERO, Vec::new());
        self.check = Some(CheckSpec { path, interval, rise: 2, fall: 2, slow_start, weights });
        self
    }

    /// With a slow start, where it is probed.
    #[must_use]
    pub fn slow_start(mut self, time: Duration) -> Self {
        self.check.iter_mut().for_each(|check| check.slow_start = time);
        self
    }

    /// With these weights of nodes' pods, where it is probed.
    #[must_use]
    pub fn weights(mut self, weights: &[(&str, u32)]) -> Self {
        let weights: Vec<_> = weights.iter().map(|(node, weight)| ((*node).to_owned(), *weight)).collect();
        self.check.iter_mut().for_each(|check| check.weights.clone_from(&weights));
        self
    }

    /// With one more line in `spec`, such as a mistake.
    #[must_use]
    pub fn extra(mut self, line: &str) -> Self {
        self.extra = format!("  {line}\n");
        self
    }

    /// Gives it the addresses of service number `index` unless it has some.
    pub(crate) fn assign(&mut self, index: u8) -> Result<()> {
        if self.vips.is_empty() {
            self.vips.push(format!("10.77.0.{}", 100 + index).parse()?);
            if self.dual_stack {
                self.vips.push(format!("fd77::{:x}", 0x100 + u16::from(index)).parse()?);
            }
        }
        Ok(())
    }

    /// The objects as YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut yaml = self.service_yaml();
        for (family, index) in [("IPv4", 0), ("IPv6", 1)].into_iter().take(if self.dual_stack { 2 } else { 1 }) {
            yaml += "---\n";
            yaml += &self.slice_yaml(family, index);
        }
        if let Some(check) = &self.check {
            yaml += "---\n";
            yaml += &self.check_yaml(check);
        }
        yaml
    }

    fn ports(&self) -> impl Iterator<Item = (&'static str, &'static str, u16, u16)> {
        let target = |server: u16| self.target.unwrap_or(server);
        let tcp = self.tcp.map(|port| ("tcp", "TCP", port, target(TCP_PORT)));
        tcp.into_iter().chain(self.udp.map(move |port| ("udp", "UDP", port, target(UDP_PORT))))
    }

    fn service_yaml(&self) -> String {
        let vips: Vec<_> = self.vips.iter().map(ToString::to_string).collect();
        let wish = format!("  annotations:\n    crier.io/loadBalancerIPs: \"{}\"\n", vips.join(","));
        let families = if self.dual_stack { "[IPv4, IPv6]" } else { "[IPv4]" };
        let policy = if self.dual_stack { "RequireDualStack" } else { "SingleStack" };
        let traffic = if self.local { "Local" } else { "Cluster" };
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: default\n{}\
             spec:\n  type: LoadBalancer\n  ipFamilies: {families}\n  \
             ipFamilyPolicy: {policy}\n  externalTrafficPolicy: {traffic}\n{}  ports:\n",
            self.name,
            if vips.is_empty() { "" } else { &wish },
            self.extra,
        );
        for (name, protocol, port, target) in self.ports() {
            let _ = writeln!(yaml, "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}}}");
        }
        yaml
    }

    fn slice_yaml(&self, family: &str, index: usize) -> String {
        let mut yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {0}-{1}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {0}}}\naddressType: {family}\nports:\n",
            self.name,
            family.to_lowercase(),
        );
        for (name, protocol, _, target) in self.ports() {
            let _ = writeln!(yaml, "- {{name: {name}, protocol: {protocol}, port: {target}}}");
        }
        yaml += if self.endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
        for endpoint in &self.endpoints {
            let node = if endpoint.node.is_empty() { String::new() } else { format!("nodeName: {}, ", endpoint.node) };
            let _ = writeln!(
                yaml,
                "- {{addresses: [\"{}\"], {node}conditions: {{ready: {}, serving: true, terminating: {}}}, \
                 targetRef: {{kind: Pod, name: {}}}}}",
                endpoint.addresses[index], endpoint.ready, endpoint.terminating, endpoint.pod,
            );
        }
        yaml
    }

    fn check_yaml(&self, check: &CheckSpec) -> String {
        let kind = check.path.as_ref().map_or("tcp: {}".to_owned(), |path| format!("http: {{path: {path}}}"));
        let interval = check.interval.as_millis();
        let weights: Vec<_> =
            check.weights.iter().map(|(node, weight)| format!("{{nodes: [{node}], weight: {weight}}}")).collect();
        format!(
            "apiVersion: crier.io/v1alpha1\nkind: HealthCheck\nmetadata: {{name: {0}, namespace: default}}\nspec:\n  \
             services: [{0}]\n  {kind}\n  interval: {interval}ms\n  timeout: {interval}ms\n  rise: {1}\n  fall: {2}\n  \
             slowStart: {3}ms\n  weights: [{4}]\n",
            self.name,
            check.rise,
            check.fall,
            check.slow_start.as_millis(),
            weights.join(", "),
        )
    }
}

/// A folder of manifests.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes or replaces a file in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        // A name that a watcher of *.yaml does not read, in the same file system.
        let draft = self.path.join(format!(".{file}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, self.path.join(file)).with_context(|| format!("cannot write {file}"))
    }

    /// Writes into the file itself, as a careless editor does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_in_place(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.path.join(file), text).with_context(|| format!("cannot write {file}"))
    }

    /// Takes a file away.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path.join(file)).with_context(|| format!("cannot remove {file}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_says_all_that_was_asked_of_it() {
        let mut spec = web().tcp(80).udp(53).dual_stack().local().http_check(Duration::from_millis(200));
        spec.assign(3).expect("addresses");
        let addresses = ["10.78.1.11", "fd78:1::11"].map(|address| address.parse().expect("an address"));
        let (pod, node, ready, terminating) = ("n1-p1".into(), "n1".into(), true, false);
        spec.endpoints.push(Endpoint { pod, node, addresses, ready, terminating });
        let yaml = spec.yaml();
        for line in [
            "    crier.io/loadBalancerIPs: \"10.77.0.103,fd77::103\"\n",
            "  externalTrafficPolicy: Local\n",
            "  - {name: udp, protocol: UDP, port: 53, targetPort: 5353}\n",
            "addressType: IPv6\n",
            "- {addresses: [\"fd78:1::11\"], nodeName: n1, conditions: {ready: true, serving: true, ",
            "  http: {path: /healthz}\n  interval: 200ms\n",
        ] {
            assert!(yaml.contains(line), "{line:?} is not in\n{yaml}");
        }
        assert_eq!(yaml.matches("kind: EndpointSlice").count(), 2);
    }
}
