//! The first process of a virtual machine that `hack/test-kernels` starts: does this kernel carry Crier?
//!
//! 1. The machine is made ready: file systems, modules ([`machine`]).
//! 2. The programs are loaded, attached, replaced and removed; if the kernel refuses, the verifier's log is printed
//!    ([`hooks`]).
//! 3. The forwarder's own tests run, with real packets between network namespaces.
//!
//! The last line on the console is [`PASSED`] or names what failed. Then the machine is switched off.
#![expect(clippy::disallowed_methods, reason = "edge: checks a real kernel in real time")]

mod hooks;
mod machine;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// What `hack/test-kernels` looks for.
const PASSED: &str = "kernel check: passed";
/// Where the initramfs has the forwarder's tests.
const TESTS: &str = "/forwarder-tests";
/// On the kernel's command line: only the tests whose names contain this.
const ONLY: &str = "crier.only=";

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a virtual machine: run hack/test-kernels");
        return ExitCode::FAILURE;
    }
    match check() {
        Ok(()) => println!("{PASSED}"),
        Err(error) => println!("kernel check: failed: {error:#}"),
    }
    machine::switch_off()
}

fn check() -> Result<()> {
    machine::prepare()?;
    let release = machine::release()?;
    println!("kernel check: Linux {release}");
    let hook = hooks::check(&release)?;
    println!("kernel check: loaded, attached by {hook}, replaced, removed");
    run_tests()
}

fn run_tests() -> Result<()> {
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let only = line.split_whitespace().find_map(|word| word.strip_prefix(ONLY));
    // One at a time: an emulated machine is slow, and the tests' patience is measured in seconds.
    let mut tests = Command::new(TESTS);
    // How much fits is the agent's matter more than the kernel's, and takes minutes here.
    tests.args(["--test-threads=2", "--skip", "scale::"]).env("CRIER_FUZZ_PACKETS", "2000");
    let status = tests.args(only).status().context("the tests cannot be started")?;
    ensure!(status.success(), "a test of the forwarder");
    Ok(())
}
