//! The alternative, in the same bed: keepalived on each node, and in front of the pods the NAT rules that kube-proxy
//! writes (DNAT to a random pod, MASQUERADE), so that it can be measured side by side.
//!
//! `n1` has the highest priority and takes the VIPs back whenever it can, so it is the owner at the start of a trial.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cleanup::RunDir,
    netns::{reaped, spawn},
    observe::{eventually, neighbour},
    pods::{Pod, TCP_PORT, UDP_PORT},
    scenario::{DNS, WEB},
    topology::{Host, Lan},
    traffic::{Transport, ask},
};

/// How keepalived is set up.
#[derive(Debug, Clone, Copy)]
pub struct Adverts {
    /// `vrrp_version`; 2 has whole seconds, and no IPv6.
    pub version: u8,
    /// `advert_int` in seconds, as written in the file.
    pub interval: &'static str,
}

/// The VIPs, IPv4 and IPv6: those of a scenario's first service.
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];

/// Three nodes with keepalived, pods behind each, a client. Fields are dropped in order: daemons before their network.
#[derive(Debug)]
pub struct Keepalived {
    daemons: Vec<Daemon>,
    /// The pods; those of `n1` get no traffic.
    pub pods: Vec<Pod>,
    /// The network.
    pub lan: Lan,
    _run: RunDir,
}

/// Whether the programs are there.
///
/// # Errors
/// Names the package.
pub fn installed() -> Result<()> {
    for (program, argument) in [("keepalived", "--version"), ("iptables-restore", "--version")] {
        let there = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        there.with_context(|| {
            format!(
                "{program} is not installed: `apt-get install keepalived iptables`, or leave keepalived out (--only crier)"
            )
        })?;
    }
    Ok(())
}

impl Keepalived {
    /// Builds the network and starts the daemons; [`Keepalived::settle`] waits until they serve.
    ///
    /// # Errors
    /// When keepalived or iptables is missing or fails.
    pub fn start(adverts: Adverts) -> Result<Self> {
        installed()?;
        let run = RunDir::new("keepalived")?;
        let lan = Lan::new().nodes(3).client().pods(2).build()?;
        let mut pods = Vec::new();
        for node in &lan.nodes {
            for host in &node.pods {
                pods.push(Pod::start(&host.name, &node.host.name, host)?);
            }
        }
        let mut daemons = Vec::new();
        for (node, priority) in lan.nodes.iter().zip([150, 100, 50]) {
            for (family, program) in ["iptables-restore", "ip6tables-restore"].into_iter().enumerate() {
                node.host.ns.output(program, &[], &nat_rules(family, &pods))?;
            }
            let daemon = Daemon { dir: run.path().join(&node.host.name), child: None };
            fs::create_dir_all(&daemon.dir)?;
            fs::write(daemon.dir.join("keepalived.conf"), config(adverts, &node.host.name, priority))?;
            daemons.push(daemon);
        }
        let mut bed = Self { daemons, pods, lan, _run: run };
        for (daemon, node) in bed.daemons.iter_mut().zip(&bed.lan.nodes) {
            daemon.start(&node.host)?;
        }
        Ok(bed)
    }

    /// The VIP of a family.
    ///
    /// # Panics
    /// Never: the addresses are constants.
    #[must_use]
    pub fn vip(&self, ipv6: bool) -> IpAddr {
        #[expect(clippy::expect_used, reason = "constants that a test parses")]
        VIPS[usize::from(ipv6)].parse().expect("an address")
    }

    /// Starts the daemons that do not run and waits until `n1` alone has the VIPs (`families` of them), and the client
    /// is served by it.
    ///
    /// When a cut node is back, two have the address. If the other one steps back at the first advert, the one that stays
    /// has noticed nothing and announces nothing, so clients go on sending to the other: it has the NAT rules, so it
    /// serves them, and that keeps their neighbour entry alive. A trial begins with the client at the owner, so it is
    /// made to forget.
    ///
    /// # Errors
    /// When it does not come to that: with the logs.
    pub fn settle(&mut self, families: usize) -> Result<()> {
        for (daemon, node) in self.daemons.iter_mut().zip(&self.lan.nodes) {
            if daemon.child.is_none() {
                daemon.start(&node.host)?;
            }
        }
        let settled = eventually(Duration::from_secs(30), "n1 alone has the VIPs", || {
            for vip in VIPS.into_iter().take(families) {
                self.owned_by_first(vip.parse()?)?;
            }
            Ok(())
        });
        settled.with_context(|| {
            self.daemons.iter().map(|daemon| format!("{}:\n{}", daemon.dir.display(), daemon.log())).collect::<String>()
        })
    }

    fn owned_by_first(&self, vip: IpAddr) -> Result<()> {
        self.only_first_has(vip)?;
        let client = self.lan.client();
        for (transport, port) in [(Transport::Tcp, WEB), (Transport::Udp, DNS)] {
            client.ns.run(|| ask(transport, (vip, port).into(), "hello", Duration::from_millis(300)))?;
        }
        if neighbour(client, vip)? != Some(self.lan.nodes[0].host.mac) {
            client.ns.ip(&[format!("neigh flush to {vip} dev eth0")])?;
            bail!("the client sent elsewhere");
        }
        Ok(())
    }

    /// That `n1` alone has the VIP.
    ///
    /// # Errors
    /// When it has not, or another has it, too.
    pub fn only_first_has(&self, vip: IpAddr) -> Result<()> {
        for (index, node) in self.lan.nodes.iter().enumerate() {
            let shown = node.host.ns.output("ip", &["addr", "show", "dev", "eth0", "to", &vip.to_string()], "")?;
            ensure!((index == 0) != shown.trim().is_empty(), "{vip} on {}: {shown:?}", node.host.name);
        }
        Ok(())
    }

    /// SIGKILL to all processes of `n1`'s daemon.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemons[0].kill()
    }
}

/// A daemon with its files; all its processes are killed on Drop.
#[derive(Debug)]
struct Daemon {
    dir: std::path::PathBuf,
    child: Option<Child>,
}

impl Daemon {
    fn start(&mut self, host: &Host) -> Result<()> {
        // A pid file of a killed daemon keeps the next from starting.
        for stale in ["pid", "vrrp.pid", "checkers.pid"] {
            let _ = fs::remove_file(self.dir.join(stale));
        }
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = host.ns.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--vrrp"]);
        for (option, file) in [
            ("--use-file", "keepalived.conf"),
            ("--pid", "pid"),
            ("--vrrp_pid", "vrrp.pid"),
            ("--checkers_pid", "c.pid"),
        ] {
            command.arg(option).arg(self.dir.join(file));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(spawn(command).context("cannot start keepalived")?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("keepalived does not run")?;
        let parent = i32::try_from(child.id())?;
        // The VRRP process first: when its parent dies it says goodbye. The parent has no time to start another.
        for process in children(parent).into_iter().chain([parent]) {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        child.wait()?;
        reaped(child.id());
        Ok(())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n") + "\n"
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn children(process: i32) -> Vec<i32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(Path::new(&path)).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Priorities decide; everything else is keepalived's default.
fn config(adverts: Adverts, node: &str, priority: u8) -> String {
    let Adverts { version, interval } = adverts;
    let mut text = format!("global_defs {{\n  router_id {node}\n  vrrp_version {version}\n}}\n");
    let families = if version == 2 { 1 } else { 2 };
    for (vip, (name, bits)) in VIPS.into_iter().zip([("v4", 24), ("v6", 64)]).take(families) {
        let _ = write!(
            text,
            "vrrp_instance {name} {{\n  state BACKUP\n  interface eth0\n  virtual_router_id 51\n  priority {priority}\n  \
             advert_int {interval}\n  virtual_ipaddress {{\n    {vip}/{bits} dev eth0\n  }}\n}}\n",
        );
    }
    text
}

/// As kube-proxy writes them, to the pods of the nodes that stay.
fn nat_rules(family: usize, pods: &[Pod]) -> String {
    let vip = VIPS[family];
    let pods: Vec<_> = pods.iter().filter(|pod| pod.node != "n1").map(|pod| pod.addresses[family]).collect();
    let mut rules = String::from("*nat\n:MARK-MASQ - [0:0]\n:SVC-TCP - [0:0]\n:SVC-UDP - [0:0]\n");
    rules += "-A MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n";
    rules += "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n";
    for (chain, protocol, port, target) in [("SVC-TCP", "tcp", WEB, TCP_PORT), ("SVC-UDP", "udp", DNS, UDP_PORT)] {
        let _ = writeln!(rules, "-A PREROUTING -d {vip} -p {protocol} --dport {port} -j {chain}");
        let _ = writeln!(rules, "-A {chain} -j MARK-MASQ");
        for (index, pod) in pods.iter().enumerate() {
            let pod = if family == 0 { pod.to_string() } else { format!("[{pod}]") };
            let chance = 1.0 / (pods.len() - index) as f64;
            let _ = writeln!(
                rules,
                "-A {chain} -p {protocol} -m statistic --mode random --probability {chance:.5} -j DNAT --to-destination {pod}:{target}"
            );
        }
    }
    rules + "COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_has_no_ipv6_and_every_setting_its_own_line() {
        let two = config(Adverts { version: 2, interval: "1" }, "n1", 150);
        assert!(two.contains("  advert_int 1\n") && two.contains("    10.77.0.100/24 dev eth0\n"), "{two}");
        assert!(!two.contains("fd77"), "{two}");
        let three = config(Adverts { version: 3, interval: "0.05" }, "n2", 100);
        assert_eq!(three.matches("  advert_int 0.05\n").count(), 2, "{three}");
    }
}
