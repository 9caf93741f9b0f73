//! `crier cleanup` removes every trace of an agent: what was there before is there, and nothing else.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, loaded_links, loaded_programs};
use e2e::{
    agent::Agent,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
    topology::Host,
};

/// What the kernel holds of eBPF, by id.
#[derive(Debug, Default, PartialEq, Eq)]
struct Loaded {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Loaded {
    /// All that belongs to the programs attached to a host's uplink: their maps, the programs that share these (the
    /// further stages), and the links.
    fn of(host: &Host) -> Result<Self> {
        let mut loaded = Self::default();
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            let attached = host.ns.run(|| Ok(SchedClassifier::query_tcx("eth0", hook)?.1))?;
            loaded.programs.extend(attached.iter().map(aya::programs::ProgramInfo::id));
        }
        let all = loaded_programs().collect::<Result<Vec<_>, _>>()?;
        for _ in 0..2 {
            for program in &all {
                let maps = program.map_ids()?.unwrap_or_default();
                if loaded.programs.contains(&program.id()) {
                    loaded.maps.extend(&maps);
                } else if maps.iter().any(|map| loaded.maps.contains(map)) {
                    loaded.programs.insert(program.id());
                }
            }
        }
        for link in loaded_links() {
            let link = link?;
            if loaded.programs.contains(&link.program_id()) {
                loaded.links.insert(link.id());
            }
        }
        Ok(loaded)
    }

    /// What of it the kernel still holds.
    fn left(&self) -> Result<Self> {
        Ok(Self {
            programs: &self.programs & &ids(NEXT_PROGRAM)?,
            maps: &self.maps & &ids(NEXT_MAP)?,
            links: &self.links & &ids(NEXT_LINK)?,
        })
    }
}

/// Numbers of `bpf(2)`.
const NEXT_PROGRAM: libc::c_long = 11;
const NEXT_MAP: libc::c_long = 12;
const NEXT_LINK: libc::c_long = 31;

/// All ids of a kind. Nothing is opened: to hold an array of programs in the moment in which the kernel empties it may keep it for
/// ever.
fn ids(next: libc::c_long) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    // Where to begin, where the next is, and flags.
    let mut request = [0_u32; 4];
    loop {
        // SAFETY: the kernel reads and writes no more than the size given.
        let done = unsafe { libc::syscall(libc::SYS_bpf, next, request.as_mut_ptr(), size_of_val(&request)) };
        if done == 0 {
            found.insert(request[1]);
            request = [request[1], 0, 0, 0];
            continue;
        }
        let error = io::Error::last_os_error();
        ensure!(error.raw_os_error() == Some(libc::ENOENT), "bpf({next}): {error}");
        return Ok(found);
    }
}

/// What else there is of a host to be seen from outside an agent: by question, the answer.
fn seen(host: &Host) -> Result<Vec<String>> {
    let questions: [(&str, &[&str]); 6] = [
        ("ip", &["-o", "address"]),
        ("ip", &["-o", "maddress"]),
        ("ip", &["-o", "route", "show", "table", "all"]),
        ("tc", &["qdisc", "show", "dev", "eth0"]),
        ("ip", &["-d", "-o", "link", "show", "dev", "eth0"]),
        ("cat", &["/proc/net/packet"]),
    ];
    let ask = |(program, arguments): &(&str, &[&str])| {
        let answer = host.ns.output(program, arguments, "")?;
        // Lifetimes of addresses that count down, and counters, are no traces.
        Ok(answer.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    };
    questions.iter().map(ask).collect()
}

/// All files below a folder, and file systems mounted there.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    found.extend(below.filter(|path| path.starts_with(folder)).map(|path| path.join("(a mount)")));
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    Ok(found)
}

#[test]
fn cleanup_leaves_no_trace_of_an_agent() -> Result<()> {
    let service = web().tcp(WEB).udp(DNS).dual_stack();
    let cluster =
        Cluster::three("cleanup").nothing_moves_by_itself().extra("restartGrace: 60s\n").service(service).build()?;
    let agent = &cluster.agents[0];
    let host = cluster.lan.host(&agent.name)?;
    let folder = agent.config_path().parent().context("the config is in a folder")?.to_owned();
    let before = (seen(host)?, files(&folder)?);

    cluster.agents.iter().try_for_each(Agent::start)?;
    cluster.settle()?;
    ensure!(cluster.get(cluster.vip4()).is_ok() && cluster.get(cluster.vip6()).is_ok());
    let loaded = Loaded::of(host)?;
    ensure!(loaded.programs.len() >= 5 && loaded.maps.len() >= 10 && loaded.links.len() >= 2, "{loaded:?}");

    // A restart that is announced leaves the most: claims, and all that goes on; a crash leaves the socket.
    for crash in [false, true] {
        if crash {
            agent.start()?;
            eventually(SETTLE, "it is ready", || agent.get("/readyz")?.ok().map(drop))?;
            agent.kill()?;
        } else {
            agent.terminate()?;
            ensure!(files(&folder)?.iter().any(|file| file.ends_with("restart.json")));
        }
        let loaded = Loaded::of(host)?;
        ensure!(!loaded.links.is_empty(), "nothing is left to be cleaned up");
        let config = agent.config_path();
        let output = agent.run(&["cleanup", "--config", &config.to_string_lossy()])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let after = files(&folder)?;
        let log = |path: &PathBuf| path.file_name().is_some_and(|name| name == "log");
        let left: Vec<_> = after.difference(&before.1).filter(|path| !log(path)).collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        // The kernel frees what nobody holds a moment later.
        eventually(SETTLE, "no program, map or link is left", || {
            let left = loaded.left()?;
            ensure!(left == Loaded::default(), "{left:?}");
            Ok(())
        })?;
        eventually(SETTLE, "the host is as it was", || {
            let now = seen(host)?;
            for (was, is) in before.0.iter().zip(&now) {
                ensure!(was == is, "was:\n{was}\nis:\n{is}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
