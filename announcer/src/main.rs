//! The node agent `crier`: command line, log, runtime; everything else is in the library.

use std::{io::IsTerminal as _, process::ExitCode, sync::Arc};

use announcer::{
    app::{self, LogLevels, Reload},
    config::{self, Args, LogFormat, LogLevel, LogSettings, Settings, args::Command},
    forward,
};
use clap::Parser as _;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry, filter::Targets, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

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
    let log_levels = start_log(&settings.log);
    end_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("crier: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(app::run(settings, Reload { args, hostname, log_levels })) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crier: {}", app::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An agent of which a part has died would go on answering for VIPs and look healthy. Better that all of it ends: its
/// hooks go on forwarding, its peers take over, and whatever started it starts it again.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
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
    match forward::detach_all(&settings.pin_dir) {
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

/// Logs go to standard error; what SIGHUP needs to change the level comes back.
fn start_log(log: &LogSettings) -> LogLevels {
    let (filter, handle) = reload::Layer::<Targets, Registry>::new(filter_of(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => {
            // Colours are for people; a file or a journal is searched for words.
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false)).init();
        }
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).init(),
    }
    Arc::new(move |level| {
        if let Err(error) = handle.modify(|filter| *filter = filter_of(level)) {
            tracing::warn!(%error, "the log's level could not be changed");
        }
    })
}

fn filter_of(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // It warns at every look at the links of attributes that the kernel has and it does not know.
    Targets::new().with_default(level).with_target("netlink_packet_route", LevelFilter::ERROR)
}
