//! The node agent `crier`: command line and runtime; everything else is in the library.

use std::process::ExitCode;

use announcer::{
    app::{self, Reload},
    config::{self, Args, Settings, args::Command},
    log::{self, Lines},
};
use clap::Parser as _;

/// The C library's gives every thread a heap and keeps what was freed there: an agent that reads thousands of objects on whichever
/// thread is free had three times of what it used. This one gives back, and what a thread of the watch allocates comes from a
/// cache of its own, so that it waits for no thread of lesser priority.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc(3), TUNING: few heaps, and what was freed goes back to the kernel within a fifth of a second of further use.
// SAFETY: jemalloc reads this name as the address of a text that ends with NUL.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATES: &[u8; 46] = b"narenas:4,dirty_decay_ms:200,muzzy_decay_ms:0\0";

/// The exit code for a mistake in what was given: command line, configuration, manifests.
const MISTAKE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let settings = match config::load(&args, &hostname) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("crier: {error}");
            return ExitCode::from(MISTAKE);
        }
    };
    match args.command {
        Some(Command::Cleanup) => return cleanup(&settings),
        None if args.check => return check(&settings),
        None => {}
    }
    let (lines, log_levels) = match log::start(&settings.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("crier: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    end_on_panic(lines.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("crier: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(app::run(settings, Reload { args, hostname, log_levels }, lines.clone()));
    lines.settle();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crier: {}", app::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An agent of which a part has died would go on answering for VIPs and look healthy. Better that all of it ends: its
/// hooks go on forwarding, its peers take over, and whatever started it starts it again.
fn end_on_panic(lines: Lines) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        lines.settle();
        report(panic);
        std::process::abort();
    }));
}

fn check(settings: &Settings) -> ExitCode {
    let report = config::check(settings);
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    println!("{}", report.summary);
    if report.ok { ExitCode::SUCCESS } else { ExitCode::from(MISTAKE) }
}

fn cleanup(settings: &Settings) -> ExitCode {
    match app::cleanup(settings) {
        Ok(()) => {
            println!("no eBPF program, link or map of Crier is left under {}", settings.pin_dir.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crier: cleanup: {error}");
            ExitCode::FAILURE
        }
    }
}
