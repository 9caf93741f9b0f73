//! A real Kubernetes API server: kube-apiserver and etcd on a host of the segment, `api`, and kubectl to talk to it.
//!
//! ```no_run
//! use e2e::{kubernetes::ApiServer, topology::Lan};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lan = Lan::new().nodes(3).client().api_server().build()?;
//! let api = ApiServer::on(&lan)?;
//! api.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}")?;
//! let token = api.token("crier-system", "crier")?;
//! let kubeconfig = api.kubeconfig_for(&token)?; // what an agent on n1 reads: https://10.77.0.10:6443
//! lan.cut("api")?; // for the nodes it is gone; this test still talks to it, from its own host
//! api.kill()?;
//! api.start()?; // with all its objects
//! api.wipe()?; // without them
//! # Ok(())
//! # }
//! ```
//!
//! Nothing else of Kubernetes runs: no controllers, no scheduler, no kubelet. Tests write Nodes, Pods and EndpointSlices
//! themselves. What is left to controllers does not happen: objects outlive their owners, a namespace that is
//! deleted stays, and there are no ServiceAccounts but those that are made.
//!
//! The programs come from `hack/kubernetes`; their data, logs and keys are in a run directory.

mod certificates;
mod daemon;
mod kubectl;
mod programs;
mod proxy;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use crate::{cleanup::RunDir, http, netns::Netns, observe::eventually, topology::Lan};
use certificates::Pki;
use daemon::Daemon;
use programs::Programs;
pub use proxy::Proxy;

/// The port of the API.
pub const PORT: u16 = 6443;
/// etcd's port on its loopback.
const ETCD_PORT: u16 = 2379;
/// How long the API server may take to be ready: a few seconds, many times that on a busy machine.
const READY: Duration = Duration::from_secs(90);
/// How long a process may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// An API server, running or not; its processes and its data go on Drop.
#[derive(Debug)]
pub struct ApiServer {
    /// Before etcd, which it needs: fields are dropped in order.
    server: Daemon,
    etcd: Daemon,
    programs: Programs,
    ns: Arc<Netns>,
    address: Ipv4Addr,
    pki: Pki,
    kubeconfigs: AtomicU32,
    run: RunDir,
}

impl ApiServer {
    /// Starts one on the host `api` of a network that was built with [`api_server`](crate::topology::LanBuilder::api_server),
    /// and waits until it is ready.
    ///
    /// # Errors
    /// When its programs are not built, or it is not ready in time: with the ends of the logs.
    pub fn on(lan: &Lan) -> Result<Self> {
        let host = lan.host("api").context("the network was built without .api_server()")?;
        let programs = Programs::find()?;
        let run = RunDir::new("api")?;
        let pki = Pki::create(&run.path().join("pki"), &host.addresses())?;
        let daemon = |name| Daemon::new(name, run.path().join(format!("{name}.log")));
        let api = Self {
            server: daemon("kube-apiserver"),
            etcd: daemon("etcd"),
            programs,
            ns: Arc::clone(&host.ns),
            address: host.v4,
            pki,
            kubeconfigs: AtomicU32::new(0),
            run,
        };
        api.write_admin()?;
        api.start()?;
        Ok(api)
    }

    /// Starts it again, with the objects it had, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already, or is not ready in time: with the ends of the logs.
    pub fn start(&self) -> Result<()> {
        self.etcd.start(self.etcd_command())?;
        self.await_ready("etcd is healthy", || {
            let health = self.ns.run(|| http::get((Ipv4Addr::LOCALHOST, ETCD_PORT).into(), "/health"))?.ok()?;
            ensure!(health.contains("true"), "it says {health}");
            Ok(())
        })?;
        self.server.start(self.server_command())?;
        // Cheaper to ask than by kubectl, and most of the wait.
        let address = SocketAddr::from((self.address, PORT));
        self.await_ready("the API server listens", || self.ns.run(|| Ok(TcpStream::connect(address)?)).map(drop))?;
        self.await_ready("the API server is ready", || self.kubectl(&["get", "--raw", "/readyz?verbose"]).map(drop))
    }

    /// Ends it as an administrator would, etcd last (SIGTERM).
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&self) -> Result<()> {
        self.server.end(Signal::SIGTERM, END)?;
        self.etcd.end(Signal::SIGTERM, END)
    }

    /// Ends it as a power cut would (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        self.server.end(Signal::SIGKILL, END)?;
        self.etcd.end(Signal::SIGKILL, END)
    }

    /// Takes all its objects from it, whether it runs or not, and starts it anew. Tokens given out before are no longer valid.
    ///
    /// # Errors
    /// As [`ApiServer::kill`] and [`ApiServer::start`].
    pub fn wipe(&self) -> Result<()> {
        if self.server.pid().is_some() {
            self.kill()?;
        }
        fs::remove_dir_all(self.etcd_data()).context("cannot remove etcd's data")?;
        self.start()
    }

    /// It hangs: connections are taken and nothing is answered (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.server.signal(Signal::SIGSTOP)
    }

    /// It goes on after [`ApiServer::freeze`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.server.signal(Signal::SIGCONT)
    }

    /// Where nodes reach it.
    fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// Waits until `check` succeeds; there is no use in waiting for a process that has ended.
    fn await_ready(&self, what: &str, check: impl Fn() -> Result<()>) -> Result<()> {
        let outcome = eventually(READY, what, || match self.obituary() {
            Some(obituary) => Ok(Err(anyhow!(obituary))),
            None => check().map(Ok),
        });
        let logs = || format!("{}{}", self.etcd.log_tail(), self.server.log_tail());
        outcome.and_then(|ended| ended).with_context(logs)
    }

    fn obituary(&self) -> Option<String> {
        self.etcd.obituary().or_else(|| self.server.obituary())
    }

    fn etcd_data(&self) -> PathBuf {
        self.run.path().join("etcd")
    }

    /// The administrator's kubeconfig.
    fn admin(&self) -> PathBuf {
        self.run.path().join("admin.kubeconfig")
    }

    /// The next file for a kubeconfig.
    fn next_kubeconfig(&self) -> PathBuf {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        self.run.path().join(format!("user{number}.kubeconfig"))
    }

    fn etcd_command(&self) -> Command {
        let url = format!("http://127.0.0.1:{ETCD_PORT}");
        let mut command = self.ns.command(&self.programs.etcd);
        command.arg(option("data-dir", self.etcd_data().display()));
        for name in ["listen-client-urls", "advertise-client-urls"] {
            command.arg(option(name, &url));
        }
        // No peers: any free port, on a loopback that nobody else is on.
        command.arg("--listen-peer-urls=http://127.0.0.1:0").arg("--log-level=warn");
        // What is written survives a process that is killed; the machine itself does not go down here.
        command.arg("--unsafe-no-fsync");
        command
    }

    fn server_command(&self) -> Command {
        let pki = |file: &str| self.pki.path(file);
        let mut command = self.ns.command(&self.programs.kube_apiserver);
        command.args([
            option("etcd-servers", format!("http://127.0.0.1:{ETCD_PORT}")),
            option("bind-address", "::"),
            option("secure-port", PORT),
            option("advertise-address", self.address),
            option("tls-cert-file", pki("server.crt")),
            option("tls-private-key-file", pki("server.key")),
            option("client-ca-file", pki("ca.crt")),
            option("service-account-issuer", "https://kubernetes.default.svc"),
            option("service-account-key-file", pki("accounts.pub")),
            option("service-account-signing-key-file", pki("accounts.key")),
            option("authorization-mode", "Node,RBAC"),
            option("service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112"),
            option("allow-privileged", true),
            // It wants each pod's ServiceAccount, which a controller would make.
            option("disable-admission-plugins", "ServiceAccount"),
            // Nobody is behind the Service `kubernetes`: agents come by their kubeconfig.
            option("endpoint-reconciler-type", "none"),
            option("profiling", false),
        ]);
        command
    }
}

fn option(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
