//! The programs' way into the kernel and out of it, as the agent goes it.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use announcer::forward::{
    Forwarder, Mode, Options, StartError, Wanted, detach_all,
    wanted::{Node, Uplink},
};
use anyhow::{Context, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use forwarder_ebpf::limits;

const PINS: &str = "/sys/fs/bpf/crier";
const UPLINK: &str = "check0";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PATIENCE: Duration = Duration::from_secs(10);
/// The first release with TCX.
const TCX: (u32, u32) = (6, 6);

/// Loads and attaches the programs, puts a second agent's in their place, and removes them. How they were attached.
pub(crate) fn check(release: &str) -> Result<&'static str> {
    run("ip", &["link", "add", UPLINK, "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "check1"])?;
    run("ip", &["link", "set", UPLINK, "up"])?;
    let hook = attach().context("the first agent")?;
    let expected = if version(release)? >= TCX { "tcx" } else { "clsact" };
    ensure!(hook == expected, "attached by {hook}, and this kernel has {expected}");
    expect(hook, [1, 1], "by the first agent")?;
    attach().context("the second agent")?;
    expect(hook, [1, 1], "by the second agent, in the first one's place")?;
    detach_all(Path::new(PINS)).context("cleaning up")?;
    expect(hook, [0, 0], "after the clean-up")?;
    ensure!(!Path::new(PINS).exists(), "{PINS} is left");
    run("ip", &["link", "delete", UPLINK])?;
    Ok(hook)
}

/// What an agent does when it starts; dropping it leaves the programs attached.
fn attach() -> Result<&'static str> {
    let options = Options {
        mode: Mode::Auto,
        pin_dir: PathBuf::from(PINS),
        flows: limits::FLOWS,
        rows: limits::ROWS,
        nat_ports: None,
    };
    let mut forwarder = Forwarder::start(options).map_err(|error| explained(&error))?;
    let index: u32 = fs::read_to_string(format!("/sys/class/net/{UPLINK}/ifindex"))?.trim().parse()?;
    let wanted = Wanted {
        uplinks: [(index, Uplink { name: UPLINK.into(), mac: MAC })].into(),
        nodes: [("n1".parse()?, Node { me: true, macs: [(index, MAC)].into() })].into(),
        ..Wanted::default()
    };
    forwarder.apply(&wanted, Instant::now())?;
    let info = forwarder.info();
    ensure!(info.interfaces == [UPLINK], "attached to {:?}", info.interfaces);
    Ok(info.hook)
}

/// The error with all its causes: the last is the verifier's log.
fn explained(error: &StartError) -> anyhow::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}\n{error}");
        cause = error.source();
    }
    anyhow::Error::msg(text)
}

/// The kernel lets go of a link a moment after its last pin is gone.
fn expect(hook: &str, expected: [usize; 2], when: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = attached(hook)?;
        if found == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{found:?} programs are attached {when}, not {expected:?}");
    }
}

/// How many programs are attached to the uplink, inbound and outbound, asked of the kernel.
fn attached(hook: &str) -> Result<[usize; 2]> {
    let count = |direction, name| -> Result<usize> {
        if hook == "tcx" {
            return Ok(SchedClassifier::query_tcx(UPLINK, direction)?.1.len());
        }
        Ok(run("tc", &["filter", "show", "dev", UPLINK, name])?.matches(" handle ").count())
    };
    Ok([count(TcAttachType::Ingress, "ingress")?, count(TcAttachType::Egress, "egress")?])
}

/// The first two numbers of a release.
fn version(release: &str) -> Result<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("{release} is no release of Linux"),
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
