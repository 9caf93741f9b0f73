//! Signals: SIGTERM and SIGINT stop the agent in good order, a second one at once; SIGHUP reads configuration and keys anew.

use membership::Command;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};

use crate::{
    config::{Args, HostPort, Settings, SourceSettings},
    log,
};

/// What is needed to read the configuration again.
pub struct Reload {
    /// The command line, which names the file and overrides it.
    pub args: Args,
    /// The name of the machine.
    pub hostname: String,
    /// Sets the level of the log.
    pub log_levels: log::Levels,
}

/// The signals the agent acts on: caught from its very start, so that an early SIGHUP does not end it.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Reload {
    /// Waits for signals until it has told `stop`. `started` are the settings in effect.
    pub(super) async fn run(
        self,
        mut signals: Signals,
        started: Settings,
        gossip: mpsc::Sender<Command>,
        seeds: watch::Sender<Vec<HostPort>>,
        stop: watch::Sender<bool>,
    ) {
        loop {
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => self.reread(&started, &gossip, &seeds).await,
            }
        }
        stop.send_replace(true);
        signals.stop().await;
        warn!("second signal: stopping at once, without handing over");
        exit_at_once();
    }

    /// Puts what can change into effect; a faulty file changes nothing.
    async fn reread(&self, started: &Settings, gossip: &mpsc::Sender<Command>, seeds: &watch::Sender<Vec<HostPort>>) {
        let new = match crate::config::load(&self.args, &self.hostname) {
            Ok(new) => with_keys_of(started, new),
            Err(problem) => {
                error!(%problem, "SIGHUP: the configuration is faulty; the one in effect stays");
                return;
            }
        };
        let keys = match super::read_keys(&new) {
            Ok(keys) => keys,
            Err(problem) => {
                error!(%problem, "SIGHUP: the keys are faulty; those in effect stay");
                return;
            }
        };
        if gossip.send(Command::SetKeys(keys)).await.is_err() {
            error!("SIGHUP: the gossip has ended");
        }
        seeds.send_replace(new.gossip.join.clone());
        (self.log_levels)(new.log.level);
        let waiting = needs_restart(started, &new);
        if waiting.is_empty() {
            info!("SIGHUP: keys, gossip.join and log.level are in effect");
        } else {
            warn!(keys = ?waiting, "SIGHUP: keys, gossip.join and log.level are in effect; these changes wait for a restart");
        }
    }
}

/// Where the keys came from the API server, they still do: the file that is configured need not be there.
fn with_keys_of(started: &Settings, mut new: Settings) -> Settings {
    if matches!(new.source, SourceSettings::Kubernetes(_)) && !new.gossip.key_file.exists() {
        new.gossip.key_file.clone_from(&started.gossip.key_file);
    }
    new
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
        ("rebalance", old.rebalance != new.rebalance),
        ("restartGrace", old.restart_grace != new.restart_grace),
        ("forwarder.mode", old.forwarder != new.forwarder),
        ("forwarder.flows", old.flows != new.flows),
        ("forwarder.rows", old.rows != new.rows),
        ("http.bind", old.http != new.http),
        ("stateDir", old.state_dir != new.state_dir),
        ("socket", old.socket != new.socket),
        ("pinDir", old.pin_dir != new.pin_dir),
        ("log.format", old.log.format != new.log.format),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[expect(clippy::disallowed_methods, reason = "edge: a second signal means now")]
fn exit_at_once() -> ! {
    std::process::exit(130)
}
