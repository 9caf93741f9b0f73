//! The task that owns a [`Cluster`]: socket and clock in, socket and view out. It decides nothing.
#![expect(clippy::disallowed_methods, reason = "edge: reads the clock for the pure cluster")]

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{
    Rng as _, SeedableRng as _, TryRng as _,
    rngs::{StdRng, SysRng},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant as TokioInstant, sleep_until},
};

use super::{
    generation,
    peers::Remembered,
    udp::{admit_only, bind, canonical, sendable},
    watch as watcher,
};
use crate::{
    Cluster, Command, Config, Identity, KeyRing, NodeName, Nonces, Stats, View, Watch,
    channel::DATAGRAM_MAX,
    header::WATCH_VERSION,
    seal::NONCE_LEN,
    watch::{Plan, Watcher},
};

/// Datagrams read before others have their turn.
const BATCH: usize = 64;
/// How often the counters are published and the peers stored.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the goodbye is said, and the pause between: a single lost datagram costs the others a suspicion.
const GOODBYES: usize = 3;
const GOODBYE_PAUSE: Duration = Duration::from_millis(10);

/// What a node's gossip is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// The socket's address.
    pub bind: SocketAddr,
    /// Where peers reach this node: a specified address.
    pub advertise: SocketAddr,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// Addresses to join by.
    pub seeds: Vec<SocketAddr>,
    /// How closely members watch each other.
    pub watch: Watch,
    /// Where `generation` and `peers` are kept; made if it does not exist, and done without if it is not writable.
    pub state_dir: PathBuf,
}

/// Why the gossip did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the port.
    #[error("{address} is in use: another agent or program has this UDP port; stop it or change `gossip.bind`")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The socket could not be bound for another reason.
    #[error("cannot bind {address}: {error}; `gossip.bind` must be an address of this machine, or a wildcard")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Peers could not answer.
    #[error(
        "cannot advertise {address}: peers need a specified address and port to reach this node, and not a link-local \
         one (fe80::), which means nothing without its interface"
    )]
    Advertise {
        /// The address given.
        address: SocketAddr,
    },
    /// The watch's thread could not be started.
    #[error("cannot start the watch: {0}")]
    Watch(#[source] io::Error),
    /// The system has no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// A running gossip. Dropping it stops the task without a goodbye, whoever still holds [`Handle::commands`].
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<View>>,
    stats: watch::Receiver<Arc<Stats>>,
    /// Sent: say goodbye in these words and end. Dropped: end.
    stop: oneshot::Sender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    /// The newest view; a slow reader skips those between.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The counters, renewed every second.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Arc<Stats>> {
        self.stats.clone()
    }

    /// A way for others to hand over commands.
    #[must_use]
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Hands over a command; waits if the task is behind. Ignored after a [`Command::Leave`].
    pub async fn command(&self, command: Command) {
        // The task only ends with this handle; then there is nobody to tell.
        let _ = self.commands.send(command).await;
    }

    /// Carries out the commands handed over before, says goodbye, and returns when that is sent and the socket closed.
    pub async fn shutdown(self) {
        self.end(Command::Leave).await;
    }

    /// As [`Self::shutdown`], but says that the next start comes within `grace`.
    pub async fn restart(self, grace: Duration) {
        self.end(Command::Restart(grace)).await;
    }

    async fn end(self, farewell: Command) {
        // It fails only if the task has ended; the join below says how.
        let _ = self.stop.send(farewell);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the gossip task ended badly");
        }
    }
}

/// Starts a node's gossip on the current tokio runtime.
///
/// # Errors
/// See [`StartError`].
pub async fn start(options: Options) -> Result<Handle, StartError> {
    let Options { node, bind: address, advertise, keys, seeds, watch, state_dir } = options;
    let link_local = matches!(advertise.ip(), std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
    if advertise.ip().is_unspecified() || advertise.port() == 0 || link_local {
        return Err(StartError::Advertise { address: advertise });
    }
    let sockets = bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
        _ => StartError::Bind { address, error },
    })?;
    let seed = random()?;
    // Before anything runs, so blocking a little is fine.
    let remembered = Remembered::load(&state_dir);
    let identity =
        Identity { name: node, address: canonical(advertise), generation: generation::next(&state_dir), renewal: 0 };
    let seeds = seeds.into_iter().map(canonical).collect();
    let orders = watcher::Orders { plan: Plan::default(), keys: keys.clone(), at: Instant::now() };
    let watch = watch.clamped();
    let phase = watch.interval.mul_f64(f64::from(seed[0]) / 256.0);
    let watching = Watcher::new(watch.into(), keys.clone(), system_nonces(random()?), phase, Instant::now());
    let config = Config { identity, keys, seeds, remembered: remembered.peers(), watch };
    let mut cluster = Cluster::new(config, seed, system_nonces(random()?), Instant::now());
    if let Err(error) = admit_only(&sockets.watch, cluster.session()) {
        tracing::warn!(%error, "the kernel does not filter what comes to the watch: garbage wakes it");
    }
    let socket = UdpSocket::from_std(sockets.gossip.into()).map_err(|error| StartError::Bind { address, error })?;
    let watch = watcher::start(watching, sockets.watch, address, orders).map_err(StartError::Watch)?;

    let (view_out, view) = watch::channel(cluster.poll_view().unwrap_or_default());
    let (stats_out, stats) = watch::channel(Arc::default());
    let (commands, commands_in) = mpsc::channel(64);
    let (stop, stopped) = oneshot::channel();
    let driver = Driver {
        cluster,
        socket,
        bind: address,
        watch,
        seen: 0,
        watching: true,
        view: view_out,
        stats: stats_out,
        remembered,
    };
    let task = tokio::spawn(driver.run(commands_in, stopped));
    Ok(Handle { commands, view, stats, stop, task })
}

/// Nonces from the system's generator. It answered at the start, and does not stop doing so; should it, one seeded by it
/// is better than repeating a nonce.
fn system_nonces(seed: [u8; 32]) -> Nonces {
    let mut fallback = StdRng::from_seed(seed);
    Nonces::new(move || {
        let mut nonce = [0; NONCE_LEN];
        if SysRng.try_fill_bytes(&mut nonce).is_err() {
            fallback.fill_bytes(&mut nonce);
        }
        nonce
    })
}

/// Numbers nobody can guess.
fn random() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).map_err(|error| StartError::Random(error.to_string()))?;
    Ok(seed)
}

struct Driver {
    cluster: Cluster,
    socket: UdpSocket,
    bind: SocketAddr,
    watch: watcher::Link,
    /// The version of the watch's report that was taken in last.
    seen: u64,
    /// The watch's thread runs.
    watching: bool,
    view: watch::Sender<Arc<View>>,
    stats: watch::Sender<Arc<Stats>>,
    remembered: Remembered,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut stopped: oneshot::Receiver<Command>) {
        let mut buffer = vec![0; DATAGRAM_MAX + 1];
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let farewell = loop {
            let wake = self.cluster.poll_timeout().map(TokioInstant::from_std);
            let timer = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                readable = self.socket.readable() => {
                    if let Err(error) = readable {
                        tracing::warn!(%error, "gossip socket");
                    }
                }
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break None,
                },
                farewell = &mut stopped => break farewell.ok(),
                () = timer => {}
                // An error would mean that the thread has ended; then it cannot be missed in the log.
                changed = self.watch.returns.changed(), if self.watching => self.watching = changed.is_ok(),
                Some((datagram, from)) = self.watch.returned.recv() => {
                    self.cluster.handle_datagram(&datagram, canonical(from), Instant::now());
                }
                _ = housekeeping.tick() => self.keep(),
            }
            // What peers have said comes before what they have failed to say.
            self.receive(&mut buffer);
            let now = Instant::now();
            self.look(now);
            if self.cluster.poll_timeout().is_some_and(|due| due <= now) {
                self.cluster.handle_timeout(now);
            }
            self.put_out();
        };
        if let Some(farewell) = farewell {
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            self.say(farewell).await;
        }
        self.publish();
        self.watch.finish().await;
        self.remembered.finish(self.cluster.peers()).await;
    }

    async fn say(&mut self, farewell: Command) {
        for _ in 0..GOODBYES {
            self.cluster.handle_command(farewell.clone(), Instant::now());
            self.put_out();
            tokio::time::sleep(GOODBYE_PAUSE).await;
        }
    }

    fn command(&mut self, command: Command) {
        if let Command::SetKeys(keys) = &command {
            self.watch.order(|orders| orders.keys.clone_from(keys));
        }
        self.cluster.handle_command(command, Instant::now());
    }

    /// Takes in what the watch has seen.
    fn look(&mut self, now: Instant) {
        let report = {
            let returns = self.watch.returns.borrow_and_update();
            (returns.version != self.seen).then(|| {
                self.seen = returns.version;
                returns.report.clone()
            })
        };
        if let Some(report) = report {
            self.cluster.handle_report(report, now);
        }
    }

    /// Sends what is to be sent, and shows what is to be seen.
    fn put_out(&mut self) {
        self.transmit();
        if let Some(plan) = self.cluster.poll_plan() {
            self.watch.order(|orders| {
                orders.plan = plan;
                orders.at = Instant::now();
            });
        }
        if let Some(view) = self.cluster.poll_view() {
            self.view.send_replace(view);
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(buffer) {
                Ok((len, from)) => {
                    let datagram = buffer.get(..len).unwrap_or_default();
                    if datagram.first() == Some(&WATCH_VERSION) {
                        self.watch.hand_over(datagram, from);
                        continue;
                    }
                    self.cluster.handle_datagram(datagram, canonical(from), Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error about an earlier send, such as a peer whose agent is down.
                Err(error) => tracing::trace!(%error, "gossip receive"),
            }
        }
    }

    fn transmit(&mut self) {
        while let Some((to, datagram)) = self.cluster.poll_transmit() {
            // A datagram that cannot be sent is a lost one: the protocol copes.
            if let Err(error) = self.socket.try_send_to(&datagram, sendable(to, self.bind)) {
                tracing::trace!(%to, %error, "gossip send");
            }
        }
    }

    fn keep(&mut self) {
        self.watch.alive(Instant::now());
        self.publish();
        self.remembered.store(self.cluster.peers());
    }

    fn publish(&self) {
        let mut stats = self.cluster.stats().clone();
        stats.watch.clone_from(&self.watch.returns.borrow().stats);
        self.stats.send_replace(Arc::new(stats));
    }
}

#[cfg(test)]
mod tests;
