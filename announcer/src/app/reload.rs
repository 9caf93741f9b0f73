//! Signals: SIGTERM and SIGINT stop the agent in good order, a second one at once; SIGHUP reads configuration and keys anew.

use std::sync::Arc;

use membership::Command;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};

use crate::config::{Args, LogLevel, Settings};

/// Sets the level of the log while the agent runs.
pub type LogLevels = Arc<dyn Fn(LogLevel) + Send + Sync>;

/// What is needed to read the configuration again.
pub struct Reload {
    /// The command line, which names the file and overrides it.
    pub args: Args,
    /// The name of the machine.
    pub hostname: String,
    /// Sets the level of the log.
    pub log_levels: LogLevels,
}

impl Reload {
    /// Waits for signals until it has told `stop`.
    pub(super) async fn run(self, mut settings: Settings, gossip: mpsc::Sender<Command>, stop: watch::Sender<bool>) {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
            error!("signals cannot be received; stop the agent with SIGKILL and it is replaced as after a crash");
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => settings = self.reread(settings, &gossip).await,
                () = either(&mut terminate, &mut interrupt) => break,
            }
        }
        stop.send_replace(true);
        either(&mut terminate, &mut interrupt).await;
        warn!("second signal: stopping at once, without handing over");
        exit_at_once();
    }

    /// Puts what can change into effect; a faulty file changes nothing.
    async fn reread(&self, old: Settings, gossip: &mpsc::Sender<Command>) -> Settings {
        let new = match crate::config::load(&self.args, &self.hostname) {
            Ok(new) => new,
            Err(problem) => {
                error!(%problem, "SIGHUP: the configuration is faulty; the one in effect stays");
                return old;
            }
        };
        let keys = match super::read_keys(&new) {
            Ok(keys) => keys,
            Err(problem) => {
                error!(%problem, "SIGHUP: the keys are faulty; those in effect stay");
                return old;
            }
        };
        let seeds = super::resolve_seeds(&new.gossip.join).await;
        for command in [Command::SetKeys(keys), Command::SetSeeds(seeds)] {
            if gossip.send(command).await.is_err() {
                error!("SIGHUP: the gossip has ended");
            }
        }
        (self.log_levels)(new.log.level);
        let waiting = needs_restart(&old, &new);
        if waiting.is_empty() {
            info!("SIGHUP: keys, gossip.join and log.level are in effect");
        } else {
            warn!(keys = ?waiting, "SIGHUP: keys, gossip.join and log.level are in effect; these changes wait for a restart");
        }
        new
    }
}

/// The keys that differ and are only read at the start.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let differs = [
        ("node", old.node != new.node),
        ("interfaces", old.interfaces != new.interfaces),
        ("gossip.bind", old.gossip.bind != new.gossip.bind),
        ("gossip.advertise", old.gossip.advertise != new.gossip.advertise),
        ("gossip.watch", old.gossip.watch != new.gossip.watch),
        ("source", old.source != new.source),
        ("forwarder", old.forwarder != new.forwarder),
        ("http.bind", old.http != new.http),
        ("stateDir", old.state_dir != new.state_dir),
        ("socket", old.socket != new.socket),
        ("pinDir", old.pin_dir != new.pin_dir),
        ("log.format", old.log.format != new.log.format),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "edge: a second signal means now")]
fn exit_at_once() -> ! {
    std::process::exit(130)
}
