//! Many requests quickly: plain HTTP to the API server through `kubectl proxy`, as administrator, for what would take a process each.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{ApiServer, daemon::Daemon};
use crate::{http, observe::eventually};

const PORT: u16 = 8001;

/// A way to the API server, until it is dropped.
#[derive(Debug)]
pub struct Proxy<'a> {
    api: &'a ApiServer,
    _process: Daemon,
}

impl ApiServer {
    /// Opens one.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn proxy(&self) -> Result<Proxy<'_>> {
        let process = Daemon::new("kubectl proxy", self.run.path().join("proxy.log"));
        let mut command = self.ns.command(&self.programs.kubectl);
        command.env("KUBECONFIG", self.admin()).arg("proxy").arg(format!("--port={PORT}"));
        // All that kubectl may do; it listens on this host's loopback alone.
        command.arg("--reject-methods=^$").arg("--reject-paths=^$");
        process.start(command)?;
        let proxy = Proxy { api: self, _process: process };
        eventually(super::END, "kubectl proxy answers", || proxy.send("GET", "/readyz", "", None))?;
        Ok(proxy)
    }
}

impl Proxy<'_> {
    /// Creates an object in a collection.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.send("POST", path, "application/json", Some(object))
    }

    /// Merges into an object.
    ///
    /// # Errors
    /// When it is refused.
    pub fn merge(&self, path: &str, patch: &Value) -> Result<()> {
        self.send("PATCH", path, "application/merge-patch+json", Some(patch))
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = self.api.ns.run(|| http::send(address, method, path, kind, &body))?;
        ensure!((200..300).contains(&response.status), "{method} {path}: HTTP {}: {}", response.status, response.body);
        Ok(())
    }
}
