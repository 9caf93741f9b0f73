//! The gossip on a thread of its own, so that no scrape, map write or slow disk makes this node look dead to its peers;
//! and its seeds, which may be names.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use membership::{
    Command,
    io::{Handle, Options, StartError},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use crate::config::HostPort;

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between tries while a name does not resolve, and between looks while all do.
const RETRY: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(60);

/// A running gossip and its thread.
#[derive(Debug)]
pub(super) struct Gossip {
    handle: Handle,
    /// Dropped when the thread may end.
    alive: oneshot::Sender<()>,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// See [`StartError`].
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system gives no thread.
    #[error("cannot start the gossip's thread: {0}")]
    Thread(#[from] io::Error),
}

impl Gossip {
    /// Starts the gossip on a new thread, in the calling thread's network namespace.
    pub(super) async fn start(options: Options) -> Result<Self, GossipError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (answer, answered) = oneshot::channel();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("gossip".into()).spawn(move || {
            runtime.block_on(async move {
                if answer.send(membership::io::start(options).await).is_ok() {
                    let _ = ended.await;
                }
            });
        })?;
        let handle = answered.await.map_err(|_| io::Error::other("it ended at once"))??;
        Ok(Self { handle, alive })
    }

    /// What the rest of the agent reads and tells.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Says that the next start comes within `grace`.
    pub(super) async fn restart(self, grace: Duration) {
        self.handle.restart(grace).await;
        drop(self.alive);
    }

    /// Says goodbye.
    pub(super) async fn shutdown(self) {
        self.handle.shutdown().await;
        drop(self.alive);
    }
}

/// The seeds that are addresses: at hand without asking anybody.
pub(super) fn literal_seeds(seeds: &[HostPort]) -> Vec<SocketAddr> {
    seeds.iter().filter_map(literal).collect()
}

fn literal(seed: &HostPort) -> Option<SocketAddr> {
    Some(SocketAddr::new(seed.host.parse::<IpAddr>().ok()?, seed.port))
}

/// Keeps the gossip's seeds what their names resolve to. A name that does not resolve keeps its last addresses, and is
/// tried again: at boot, name servers may come up later than this agent.
///
/// Beside them, `peers` are where the source says that nodes are.
pub(super) async fn keep_seeds(
    mut seeds: watch::Receiver<Vec<HostPort>>,
    mut peers: watch::Receiver<Vec<SocketAddr>>,
    gossip: mpsc::Sender<Command>,
) {
    let mut known: BTreeMap<(String, u16), Vec<SocketAddr>> = BTreeMap::new();
    let mut told = Vec::new();
    loop {
        let wanted = seeds.borrow_and_update().clone();
        let mut all = literal_seeds(&wanted);
        let mut unresolved = false;
        for seed in wanted.iter().filter(|seed| literal(seed).is_none()) {
            let key = (seed.host.clone(), seed.port);
            let looked_up = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((seed.host.as_str(), seed.port)));
            if let Ok(Ok(addresses)) = looked_up.await {
                known.insert(key.clone(), addresses.collect());
            } else {
                unresolved = true;
                if !known.contains_key(&key) {
                    warn!(seed = %seed.host, "gossip.join: the name does not resolve; trying again");
                }
            }
            all.extend(known.get(&key).into_iter().flatten());
        }
        all.extend(peers.borrow_and_update().iter());
        known.retain(|(host, port), _| wanted.iter().any(|seed| (&seed.host, seed.port) == (host, *port)));
        if all != told {
            told.clone_from(&all);
            if gossip.send(Command::SetSeeds(all)).await.is_err() {
                return;
            }
        }
        let pause = tokio::time::sleep(if unresolved { RETRY } else { REFRESH });
        tokio::select! {
            changed = seeds.changed() => if changed.is_err() { return },
            Ok(()) = peers.changed() => {}
            () = pause => {}
        }
    }
}
