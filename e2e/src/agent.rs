//! A real agent in a node's namespace: its own config, state, socket, pins and log; started, stopped and asked.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    http::{self, Response},
    metrics::Metrics,
    netns::{Netns, reaped, spawn},
    observe::eventually,
    status::Status,
    topology::Host,
};

/// The gossip port.
pub const GOSSIP_PORT: u16 = 9651;
/// The HTTP port.
pub const HTTP_PORT: u16 = 9650;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Uplinks.
    pub interfaces: Vec<String>,
    /// Seeds.
    pub join: Vec<SocketAddr>,
    /// Base64 keys, the sealing one first.
    pub keys: Vec<String>,
    /// The heartbeat's interval and how many may be missed.
    pub watch: (Duration, u32),
    /// Where the manifests are.
    pub manifests: PathBuf,
    /// `forwarder.mode`.
    pub forwarder: String,
    /// `gossip.advertise`; by default the address on the first uplink.
    pub advertise: Option<SocketAddr>,
    /// More lines of the file.
    pub extra: String,
}

impl Config {
    /// The config file for an agent whose files are in `dir`.
    #[must_use]
    pub fn yaml(&self, dir: &Path) -> String {
        let dir = dir.display();
        let join: Vec<_> = self.join.iter().map(|seed| format!("\"{seed}\"")).collect();
        format!(
            "node: {node}\ninterfaces: [{interfaces}]\ngossip:\n  bind: 0.0.0.0:{GOSSIP_PORT}\n  join: [{join}]\n  \
             keyFile: {dir}/gossip.key\n  watch: {{interval: {interval}ms, misses: {misses}}}\n{advertise}\
             source:\n  manifests: {manifests}\nforwarder: {{mode: {forwarder}}}\nhttp: {{bind: \"0.0.0.0:{HTTP_PORT}\"}}\n\
             stateDir: {dir}/state\nsocket: {dir}/crier.sock\npinDir: {dir}/bpf/crier\nlog: {{level: info, format: text}}\n{extra}",
            node = self.node,
            interfaces = self.interfaces.join(", "),
            join = join.join(", "),
            interval = self.watch.0.as_millis(),
            misses = self.watch.1,
            manifests = self.manifests.display(),
            forwarder = self.forwarder,
            advertise = self.advertise.map(|address| format!("  advertise: \"{address}\"\n")).unwrap_or_default(),
            extra = self.extra,
        )
    }
}

/// An agent, running or not; killed on Drop.
#[derive(Debug)]
pub struct Agent {
    /// The node's name.
    pub name: String,
    ns: Arc<Netns>,
    dir: PathBuf,
    binary: PathBuf,
    child: Mutex<Option<Child>>,
    /// Capabilities that it is started without, by their numbers.
    withheld: Mutex<Vec<libc::c_ulong>>,
}

impl Agent {
    /// Prepares an agent for `host` with its files in `dir`; it is not started yet.
    ///
    /// # Errors
    /// When the binary is not built, or its BPF file system cannot be mounted.
    pub fn prepare(host: &Host, dir: PathBuf, config: &Config) -> Result<Self> {
        let agent = Self::unconfigured(host, dir)?;
        agent.configure(config)?;
        Ok(agent)
    }

    /// As [`Agent::prepare`], with the text of a config file and of a key file.
    ///
    /// # Errors
    /// As [`Agent::prepare`].
    pub fn prepare_with(host: &Host, dir: PathBuf, config: &str, keys: &str) -> Result<Self> {
        let agent = Self::unconfigured(host, dir)?;
        agent.write_config(config, keys)?;
        Ok(agent)
    }

    fn unconfigured(host: &Host, dir: PathBuf) -> Result<Self> {
        let binary = binary("crier")?;
        for sub in ["state", "bpf"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        mount(Some("bpf"), &dir.join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a BPF file system: the kernel needs CONFIG_BPF_SYSCALL")?;
        Ok(Self {
            name: host.name.clone(),
            ns: Arc::clone(&host.ns),
            dir,
            binary,
            child: Mutex::default(),
            withheld: Mutex::default(),
        })
    }

    /// Writes config and key file; a running agent reads them on [`Agent::hup`] or restart.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn configure(&self, config: &Config) -> Result<()> {
        self.write_config(&config.yaml(&self.dir), &(config.keys.join("\n") + "\n"))
    }

    fn write_config(&self, config: &str, keys: &str) -> Result<()> {
        let keyfile = self.dir.join("gossip.key");
        fs::write(&keyfile, keys)?;
        fs::set_permissions(&keyfile, fs::Permissions::from_mode(0o600))?;
        fs::write(self.config_path(), config).context("cannot write the agent's config")
    }

    /// The config file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("crier.yaml")
    }

    /// `stateDir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `pinDir`.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.dir.join("bpf/crier")
    }

    /// The id of its process, if it was started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// The unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("crier.sock")
    }

    /// Starts it; its log is appended to. Does not wait for it to be ready.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&self) -> Result<()> {
        self.spawn(&self.binary)
    }

    /// Starts one whose pinned maps are laid out otherwise, as another version's would be.
    ///
    /// # Errors
    /// When it runs already, or that program is not built.
    pub fn start_other(&self) -> Result<()> {
        self.spawn(&binary("crier-other")?)
    }

    /// From its next start on it has none of these capabilities, given by their numbers (capability.h).
    pub fn withhold(&self, capabilities: impl IntoIterator<Item = libc::c_ulong>) {
        *self.withheld.lock().unwrap_or_else(PoisonError::into_inner) = capabilities.into_iter().collect();
    }

    /// A command in the node's namespace, with the capabilities that the agent has.
    fn command(&self, binary: &Path) -> Command {
        let withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut command = self.ns.command(binary);
        command.env_remove("CRIER_BIN");
        // SAFETY: only prctl is called between fork and exec, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                let drop_one = |capability: &libc::c_ulong| libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0);
                if withheld.iter().all(|capability| drop_one(capability) == 0) {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        command
    }

    fn spawn(&self, binary: &Path) -> Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "agent {} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = self.command(binary);
        command.arg("--config").arg(self.config_path());
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(spawn(command).with_context(|| format!("cannot start {}", binary.display()))?);
        Ok(())
    }

    /// Runs `crier` with other arguments in the node's namespace, to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(&self.binary);
        command.args(arguments);
        command.output().with_context(|| format!("cannot run {}", self.binary.display()))
    }

    /// Whether its process lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether it was started and has ended though nobody ended it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// SIGKILL: no goodbye.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(5)).map(drop)
    }

    /// SIGTERM: hands over and leaves. Waits for the end of the process.
    ///
    /// # Errors
    /// When it does not run, or does not end within ten seconds, or not with success.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "agent {} ended with {status} after SIGTERM", self.name);
        Ok(())
    }

    /// SIGHUP: reads config and keys again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hup(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// SIGSTOP: the agent hangs, the node lives on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When it was not started or goes on.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        eventually(timeout, &format!("agent {} ends", self.name), || {
            let mut slot = self.child();
            let child = slot.as_mut().context("it was not started")?;
            let status = child.try_wait()?.context("it still runs")?;
            reaped(child.id());
            *slot = None;
            Ok(status)
        })
    }

    /// GET in the node's namespace.
    ///
    /// # Errors
    /// When nobody answers: with the end of the log if the process has ended.
    pub fn get(&self, path: &str) -> Result<Response> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
        let response = self.ns.run(|| http::get(address, path));
        response.with_context(|| if self.is_running() { self.name.clone() } else { self.obituary() })
    }

    /// `/api/v1/status`.
    ///
    /// # Errors
    /// When it does not answer as the contract says.
    pub fn status(&self) -> Result<Status> {
        let body = self.get("/api/v1/status")?.ok()?;
        serde_json::from_str(&body).with_context(|| format!("status of {}: {body}", self.name))
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.get("/metrics")?.ok()?))
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// What to tell a person about an agent that has ended.
    #[must_use]
    pub fn obituary(&self) -> String {
        let status = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten());
        let how = status.map_or("is not running".to_owned(), |status| format!("ended by itself ({status})"));
        format!("agent {} {how}. Its log:\n{}", self.name, self.log_tail(20))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(id) = self.child().as_ref().map(Child::id) else { bail!("agent {} does not run", self.name) };
        kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("{signal} to agent {}", self.name))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
            reaped(child.id());
        }
    }
}

/// Finds a program of the workspace: `CRIER_BIN` (a file, beside which the others are), else where cargo puts it,
/// seen from the running test, the profile of the test first.
///
/// # Errors
/// When it is not built: with the command that does.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CRIER_BIN").map(PathBuf::from) {
        let path = path.with_file_name(name);
        ensure!(path.is_file(), "CRIER_BIN leads to {}, which does not exist", path.display());
        return Ok(path);
    }
    let profile = profile_dir().context("set CRIER_BIN")?;
    let target = target_dir()?;
    let candidates = [profile.join(name), target.join("release").join(name), target.join("debug").join(name)];
    let found = candidates.into_iter().find(|path| path.is_file());
    let how = match name {
        "crier-other" => "hack/build-other".to_owned(),
        "crier" => "cargo build -p crier --bin crier".to_owned(),
        _ => format!("cargo build -p crierctl --bin {name}"),
    };
    found.with_context(|| format!("{name} is not built: run `{how}`, or set CRIER_BIN"))
}

/// Cargo's target folder, seen from the running test.
///
/// # Errors
/// When the test was taken elsewhere.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("a profile's folder is in another")?.to_owned())
}

fn profile_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let profile = executable.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release"));
    Ok(profile.context("the test runs outside cargo's target folder")?.to_owned())
}
