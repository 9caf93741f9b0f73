//! What an agent that stops for a restart leaves to the next one on its machine: the claims it had, in the state directory.
//!
//! Peers leave its VIPs to it for a grace (`membership`, "restarts"). The note counts for as long, by the clock that runs
//! since the machine booted and cannot be set, and only until a reboot; it is read once.

#![expect(clippy::disallowed_methods, reason = "edge: reads the clock since boot, and a file")]

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use membership::Claim;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::cleanup::gone;

const FILE: &str = "restart.json";
/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The boot in which it counts.
    boot: String,
    /// Until when: milliseconds since that boot.
    until_ms: u64,
    /// What the agent owned.
    claims: BTreeMap<IpAddr, Claim>,
}

impl Note {
    /// What is left of the grace, if the note counts now.
    fn left(&self, boot: &str, since_boot: Duration) -> Option<Duration> {
        let left = Duration::from_millis(self.until_ms).checked_sub(since_boot)?;
        (self.boot == boot && !left.is_zero()).then_some(left)
    }
}

/// Leaves the claims for an agent that starts within `grace`.
///
/// # Errors
/// If the file cannot be written; the next agent then starts as any other.
pub(super) fn leave(state_dir: &Path, claims: BTreeMap<IpAddr, Claim>, grace: Duration) -> io::Result<()> {
    let until = since_boot()? + grace;
    let note = Note { boot: boot()?, until_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX), claims };
    fs::write(state_dir.join(FILE), serde_json::to_vec(&note)?)
}

/// What the agent before left, and until when it counts. It is gone after that.
pub(super) fn find(state_dir: &Path) -> Option<(BTreeMap<IpAddr, Claim>, Instant)> {
    let path = state_dir.join(FILE);
    let text = fs::read(&path).ok()?;
    if let Err(error) = fs::remove_file(&path) {
        warn!(path = %path.display(), %error, "cannot remove what the agent before left");
    }
    let note: Note = match serde_json::from_slice(&text) {
        Ok(note) => note,
        Err(error) => {
            warn!(path = %path.display(), %error, "what the agent before left cannot be read");
            return None;
        }
    };
    let left = note.left(&boot().ok()?, since_boot().ok()?)?;
    info!(vips = note.claims.len(), ?left, "back from an announced restart");
    Some((note.claims, Instant::now() + left))
}

/// Removes what was left.
///
/// # Errors
/// If it is there and stays.
pub(super) fn forget(state_dir: &Path) -> io::Result<()> {
    gone(fs::remove_file(state_dir.join(FILE)))
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> BTreeMap<IpAddr, Claim> {
        [([10, 77, 0, 100].into(), Claim { epoch: 3, since_ms: 5, standby: 0 })].into()
    }

    #[test]
    fn a_note_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), claims(), Duration::from_secs(60)).unwrap();
        let (found, until) = find(dir.path()).unwrap();
        assert_eq!(found, claims());
        let left = until - Instant::now();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
        assert_eq!(find(dir.path()), None);
    }

    #[test]
    fn a_note_counts_within_its_grace_and_its_boot() {
        let note = Note { boot: "a".into(), until_ms: 10_000, claims: claims() };
        assert_eq!(note.left("a", Duration::from_secs(7)), Some(Duration::from_secs(3)));
        assert_eq!(note.left("a", Duration::from_secs(10)), None);
        assert_eq!(note.left("b", Duration::from_secs(7)), None, "the machine was rebooted");
    }

    #[test]
    fn a_torn_note_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"boot\":").unwrap();
        assert_eq!(find(dir.path()), None);
        assert_eq!(find(dir.path()), None);
    }
}
