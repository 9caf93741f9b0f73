//! Talking to the API server: kubectl on its own host, as administrator, so that it works while the host is cut off.
//!
//! An object is named as kubectl has it, `service/web`, with its namespace beside it; objects without one, such as
//! `node/n1`, take the empty string.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::ApiServer;
use crate::{
    netns::{Netns, feed},
    topology::Host,
};

impl ApiServer {
    /// Runs kubectl as administrator; what it printed.
    ///
    /// # Errors
    /// When it fails: with what it wrote to standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run_kubectl(&self.ns, &self.admin(), arguments, "")
    }

    /// Runs kubectl on another host, as whoever has this kubeconfig.
    ///
    /// # Errors
    /// When it fails, or the server is not reached: with what it wrote to standard error.
    pub fn kubectl_from(&self, host: &Host, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        self.run_kubectl(&host.ns, kubeconfig, arguments, "")
    }

    /// Creates or changes the objects of a YAML text.
    ///
    /// # Errors
    /// When one is refused.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-"];
        self.run_kubectl(&self.ns, &self.admin(), &arguments, yaml).map(drop)
    }

    /// As [`ApiServer::apply`], for CustomResourceDefinitions; waits until objects of their kinds can be made.
    ///
    /// # Errors
    /// When one is refused, or not established in time.
    pub fn define(&self, crds: &str) -> Result<()> {
        self.apply(crds)?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=20s", "--all", "crd"]).map(drop)
    }

    /// An object.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn get(&self, namespace: &str, object: &str) -> Result<Value> {
        let text = self.kubectl(&["get", "-o", "json", "-n", namespace, object])?;
        serde_json::from_str(&text).with_context(|| format!("{object} is no JSON: {text}"))
    }

    /// All objects of a kind, in all namespaces.
    ///
    /// # Errors
    /// When there is no such kind.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", "-o", "json", "-A", kind])?;
        let mut list: Value = serde_json::from_str(&text).with_context(|| format!("{kind} are no JSON: {text}"))?;
        serde_json::from_value(list["items"].take()).with_context(|| format!("{kind} are no list: {text}"))
    }

    /// Merges into an object (RFC 7386).
    ///
    /// # Errors
    /// When it does not exist or the change is refused.
    pub fn patch(&self, namespace: &str, object: &str, patch: &Value) -> Result<()> {
        self.kubectl(&["patch", "--type=merge", "-n", namespace, object, "-p", &patch.to_string()]).map(drop)
    }

    /// Merges into an object's status, as controllers and kubelets do: `patch` is what stands under `status`.
    ///
    /// # Errors
    /// When it does not exist or the change is refused.
    pub fn patch_status(&self, namespace: &str, object: &str, patch: &Value) -> Result<()> {
        let patch = json!({"status": patch}).to_string();
        self.kubectl(&["patch", "--type=merge", "--subresource=status", "-n", namespace, object, "-p", &patch])
            .map(drop)
    }

    /// Deletes an object and waits until it is gone. A pod that has a node goes at once, as no kubelet lets it go.
    ///
    /// # Errors
    /// When it does not exist or something holds it.
    pub fn delete(&self, namespace: &str, object: &str) -> Result<()> {
        let mut arguments = vec!["delete", "--timeout=10s", "-n", namespace, object];
        if object.starts_with("pod") {
            arguments.extend(["--force", "--grace-period=0"]);
        }
        self.kubectl(&arguments).map(drop)
    }

    /// A token of a ServiceAccount, which must exist.
    ///
    /// # Errors
    /// When it does not.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        Ok(self.kubectl(&["create", "token", "-n", namespace, account])?.trim().to_owned())
    }

    /// A kubeconfig for whoever has this token, on any host of the segment.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for(&self, token: &str) -> Result<PathBuf> {
        let path = self.next_kubeconfig();
        self.write_kubeconfig(&path, &json!({"token": token}))?;
        Ok(path)
    }

    /// Writes the administrator's kubeconfig.
    pub(super) fn write_admin(&self) -> Result<()> {
        let (certificate, key) = self.pki.admin();
        let (certificate, key) = (STANDARD.encode(certificate), STANDARD.encode(key));
        self.write_kubeconfig(&self.admin(), &json!({"client-certificate-data": certificate, "client-key-data": key}))
    }

    fn write_kubeconfig(&self, path: &Path, user: &Value) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": {
                "server": self.url(),
                "certificate-authority-data": STANDARD.encode(&self.pki.ca),
            }}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "user"}}],
            "current-context": "testbed",
        });
        fs::write(path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn run_kubectl(&self, ns: &Netns, kubeconfig: &Path, arguments: &[&str], stdin: &str) -> Result<String> {
        let mut command = ns.command(&self.programs.kubectl);
        command.env("KUBECONFIG", kubeconfig).env("KUBECACHEDIR", self.run.path().join("kubectl"));
        // A server that hangs must not hang the test.
        command.arg("--request-timeout=20s").args(arguments);
        feed(command, stdin)
    }
}
