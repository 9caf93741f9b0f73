//! All processors loaded: `stress-ng --cpu`, and how much of them it really gets.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The kernel's unit of processor time in a second, the same on all machines that Crier runs on.
const TICKS: f64 = 100.0;

/// stress-ng, until it is dropped.
pub(crate) struct Stress {
    child: Child,
    start: Instant,
}

impl Stress {
    pub(crate) fn start(workers: usize, time: Duration) -> Result<Option<Self>> {
        if workers == 0 {
            return Ok(None);
        }
        // Should this process be killed, it ends by itself.
        let timeout = format!("{}s", time.as_secs() + 60);
        let mut command = Command::new("stress-ng");
        command.args(["--quiet", "--cpu", &workers.to_string(), "--timeout", &timeout]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.context("stress-ng is not installed: `apt-get install stress-ng`, or --stress 0")?;
        Ok(Some(Self { child, start: Instant::now() }))
    }

    /// How many processors its workers have had since it was started, on average.
    ///
    /// Fails when it has ended: then the machine was not loaded.
    pub(crate) fn processors(&mut self) -> Result<f64> {
        ensure!(self.child.try_wait()?.is_none(), "stress-ng has ended by itself");
        let id = self.child.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let ticks: u64 = workers.split_whitespace().filter_map(ticks_of).sum();
        Ok(ticks as f64 / TICKS / self.start.elapsed().as_secs_f64())
    }

    /// That, for a line of progress.
    pub(crate) fn told(&mut self) -> Result<String> {
        Ok(format!("stress-ng on {:.1} processors; ", self.processors()?))
    }
}

/// The time that a process has had, its own and the kernel's for it.
fn ticks_of(process: &str) -> Option<u64> {
    ticks(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// The same from the text of `/proc/<process>/stat`: the 14th and the 15th field, the second being a name in brackets.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

impl Drop for Stress {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_time_is_its_own_and_the_kernels_whatever_its_name() {
        let stat = "77 (stress) ng (x)) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("77 (short) R 1"), None);
    }
}
