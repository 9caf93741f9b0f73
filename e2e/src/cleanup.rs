//! Nothing stays behind: run directories, and the removal of what an ended or interrupted process left.
//!
//! Every name the testbed gives to something outside the process begins with `cr<pid>-`. So what belongs to a
//! process that no longer lives is known by its name, and is swept when the next testbed starts. A process that is
//! interrupted (SIGINT, SIGTERM) sweeps its own things first; its children die with it (`PR_SET_PDEATHSIG`).

use std::{
    fs, io,
    os::fd::{IntoRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction},
};

use crate::netns;

/// Where run directories are made: short, since unix socket paths may have 107 bytes.
const RUN_ROOT: &str = "/tmp/crier-e2e";

static COUNTER: AtomicU64 = AtomicU64::new(1);
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// A name that no other testbed uses: this process's id, a counter, and `label` for the reader.
pub(crate) fn unique_name(label: &str) -> String {
    format!("cr{}-{}-{label}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A directory for configs, logs, state and pins of one testbed; removed on Drop with everything mounted in it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes an empty directory.
    ///
    /// # Errors
    /// When `/tmp` cannot be written.
    pub fn new(label: &str) -> Result<Self> {
        prepare();
        let path = Path::new(RUN_ROOT).join(unique_name(label));
        fs::create_dir_all(&path).with_context(|| format!("cannot make run directory {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove_run_dir(&self.path);
    }
}

/// Sweeps what dead processes left and installs the handler for SIGINT and SIGTERM; once per process.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        sweep(|pid| pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists());
        if let Err(error) = install_handler() {
            eprintln!("testbed: no clean-up on interrupt: {error}");
        }
    });
}

/// Removes everything whose owner's process id satisfies `remove`.
fn sweep(remove: impl Fn(u32) -> bool) {
    for dir in [netns::DIR, RUN_ROOT] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_str().and_then(owner_of).is_some_and(&remove) {
                continue;
            }
            if dir == netns::DIR {
                netns::remove(&entry.path());
            } else {
                remove_run_dir(&entry.path());
            }
        }
    }
}

/// The process id in a name made by [`unique_name`].
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix("cr")?.split_once('-')?.0.parse().ok()
}

fn remove_run_dir(path: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(target).starts_with(path) {
            // A disk that was made to hang would hang this as well. Those that do not hang refuse, at no cost.
            let _ = std::process::Command::new("fsfreeze").args(["--unfreeze", target]).output();
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("testbed: {} stays behind: {error}", path.display());
    }
    // Succeeds only for the last one out.
    let _ = fs::remove_dir(RUN_ROOT);
}

extern "C" fn on_signal(signal: libc::c_int) {
    let fd = WAKE.load(Ordering::Relaxed);
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "signal numbers are 1 to 64")]
    let byte = [signal as u8];
    // SAFETY: write is async-signal-safe, the buffer lives on this stack, and the pipe is never closed.
    unsafe { libc::write(fd, byte.as_ptr().cast(), 1) };
}

/// A handler may do next to nothing, so it wakes a thread that sweeps and then lets the signal do its work.
fn install_handler() -> Result<()> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    WAKE.store(writer.into_raw_fd(), Ordering::Relaxed);
    std::thread::Builder::new().name("testbed-signals".into()).spawn(move || wait_for_signal(&reader))?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler only reads an atomic and writes to a pipe.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

fn wait_for_signal(reader: &OwnedFd) {
    let mut byte = [0_u8];
    loop {
        match nix::unistd::read(reader, &mut byte) {
            Ok(1) => break,
            Err(nix::Error::EINTR) => {}
            _ => return,
        }
    }
    netns::kill_children();
    sweep(|pid| pid == std::process::id());
    let signal = Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: restores the default disposition, no handler involved.
    let _ = unsafe { sigaction(signal, &default) };
    let _ = raise(signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_back_from_a_name() {
        assert_eq!(owner_of(&unique_name("n1")), Some(std::process::id()));
        for other in ["cr-1-x", "crier", "cni-1234", "cr12", "crx-1"] {
            assert_eq!(owner_of(other), None, "{other} is not ours to remove");
        }
    }
}
