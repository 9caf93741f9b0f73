//! A process that runs in the background: its log in a file, an end that is noticed, killed on Drop.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    netns::{reaped, spawn},
    observe::eventually,
};

/// A process, running or not.
#[derive(Debug)]
pub(super) struct Daemon {
    name: &'static str,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// One that is not started yet.
    pub(super) fn new(name: &'static str, log: PathBuf) -> Self {
        Self { name, log, child: Mutex::new(None) }
    }

    /// Starts it; its log is appended to.
    pub(super) fn start(&self, mut command: Command) -> Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(spawn(command).with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// The id of its process, if it was started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.pid().with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Sends it a signal and waits for its end.
    pub(super) fn end(&self, signal: Signal, timeout: Duration) -> Result<()> {
        self.signal(signal)?;
        eventually(timeout, &format!("{} ends after {signal}", self.name), || {
            let mut slot = self.child();
            let child = slot.as_mut().context("it was not started")?;
            child.try_wait()?.context("it still runs")?;
            reaped(child.id());
            *slot = None;
            Ok(())
        })
    }

    /// What to say of a process that was started and has ended though nobody ended it.
    pub(super) fn obituary(&self) -> Option<String> {
        let status = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())?;
        Some(format!("{} ended by itself ({status})", self.name))
    }

    /// The end of its log, under a headline.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- end of the log of {} ---\n{tail}\n", self.name)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
            reaped(child.id());
        }
    }
}
