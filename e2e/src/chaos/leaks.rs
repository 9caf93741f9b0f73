//! Leaks: what an agent's process holds is noted after each round, when all is healed and settled; from its first note
//! to its last it may not have grown beyond what a settled agent's ups and downs explain.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

use crate::scenario::Cluster;

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors, sockets included.
    pub files: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
    /// Resident memory in KiB.
    pub resident: u64,
}

/// Descriptors beyond the first note: a client that is being answered, a file that is being written.
const FILES: u64 = 8;
/// The same of sockets.
const SOCKETS: u64 = 6;
/// Threads beyond the first note: those for blocking work end after ten idle seconds.
const THREADS: u64 = 6;
/// Memory beyond the first note, in KiB: caches fill, and the allocator keeps what it once had.
const RESIDENT: u64 = 16 * 1024;

/// The notes: by process, first and last.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<u32, (String, Holdings, Holdings, u32)>);

impl Ledger {
    /// Notes what each running agent holds.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn note(&mut self, cluster: &Cluster) -> Result<()> {
        for agent in cluster.agents.iter().filter(|agent| agent.is_running()) {
            let Some(pid) = agent.pid() else { continue };
            let now = read(pid).with_context(|| format!("what agent {} holds", agent.name))?;
            let entry = self.0.entry(pid).or_insert_with(|| (agent.name.clone(), now, now, 0));
            entry.2 = now;
            entry.3 += 1;
        }
        Ok(())
    }

    /// A line for each process that was noted more than once: what it held first and last.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let often = self.0.values().filter(|(.., notes)| *notes > 1);
        often
            .map(|(name, first, last, notes)| {
                format!(
                    "{name}, {notes} rounds: files {} -> {}, sockets {} -> {}, threads {} -> {}, memory {:.1} -> {:.1} MiB",
                    first.files, last.files, first.sockets, last.sockets, first.threads, last.threads,
                    mib(first.resident), mib(last.resident),
                )
            })
            .collect()
    }

    /// What has grown too much.
    #[must_use]
    pub fn leaks(&self) -> Vec<String> {
        self.0.values().flat_map(|(name, first, last, _)| growth(name, *first, *last)).collect()
    }
}

fn growth(name: &str, first: Holdings, last: Holdings) -> Vec<String> {
    let checks = [
        ("file descriptors", first.files, last.files, FILES),
        ("sockets", first.sockets, last.sockets, SOCKETS),
        ("threads", first.threads, last.threads, THREADS),
        ("KiB of memory", first.resident, last.resident, RESIDENT),
    ];
    let grown = checks.into_iter().filter(|(_, first, last, most)| *last > first + most);
    grown
        .map(|(what, first, last, most)| {
            format!("agent {name} leaks {what}: {first}, then {last} (at most {most} more)")
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn read(pid: u32) -> Result<Holdings> {
    let (mut files, mut sockets) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        files += 1;
        let is_socket = fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        sockets += u64::from(is_socket);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).with_context(|| format!("no {name}"))
    };
    Ok(Holdings { files, sockets, threads: field("Threads")?, resident: field("VmRSS")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_the_allowance_is_a_leak_and_names_itself() {
        let first = Holdings { files: 30, sockets: 10, threads: 5, resident: 20_000 };
        let settled = Holdings { files: 34, sockets: 10, threads: 7, resident: 22_000 };
        assert_eq!(growth("n1", first, settled), Vec::<String>::new());
        let leaked = growth("n1", first, Holdings { sockets: 17, threads: 99, ..settled });
        assert_eq!(leaked.len(), 2, "{leaked:?}");
        assert!(leaked[0].contains("n1") && leaked[0].contains("sockets: 10, then 17"));
    }

    #[test]
    fn this_process_holds_something() {
        let held = read(std::process::id()).expect("/proc");
        assert!(held.files > 2 && held.threads > 0 && held.resident > 100, "{held:?}");
    }
}
