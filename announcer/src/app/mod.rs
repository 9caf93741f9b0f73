//! The agent put together: starts the parts in the order in which they need each other, and stops them in the reverse.
//!
//! Start: what can fail for a mistake in the configuration comes first (sockets, keys, eBPF), so that a faulty agent
//! ends with one clear error before peers have heard of it. Stop: hand over, fall silent, leave the gossip.
//! The eBPF programs stay attached and go on carrying established connections; `crier cleanup` removes them.

#![expect(clippy::disallowed_methods, reason = "edge: notes when the agent started")]

mod carried;
mod changes;
mod cleanup;
pub mod controller;
pub mod forwarding;
mod gossip;
mod macs;
mod reload;
pub mod report;
mod restart;
mod shortages;
mod source;
pub mod strangers;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use membership::{
    Facts, KeyRing,
    claims::{Listen, Ownership},
    io::Options,
};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::{
    announce,
    config::{ForwarderMode, Settings},
    forward, health,
    http::{Orders, listen, router},
    link::{self, Links},
    log::Lines,
    metrics::{Limits, Metrics, MetricsError},
    selftest, shadow,
    source::{Limit, kubernetes::AccessError},
};
use changes::{count_limits, count_lost_lines};
pub use cleanup::{CleanupError, cleanup};
use controller::{Controller, Ending, Inputs, Outputs};
pub use gossip::GossipError;
use gossip::{Gossip, keep_seeds, literal_seeds};
pub use reload::Reload;
use reload::Signals;
use report::Reporter;

/// Between announcements of a VIP in calm times.
const REFRESH: Duration = Duration::from_secs(60);
/// A stopping agent waits at most this long for others to take its VIPs over.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent waits at its start for an uplink with an address, as when the machine is booting.
const UPLINK_PATIENCE: Duration = Duration::from_secs(30);

/// Why the agent could not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The cluster's keys cannot be read.
    #[error(
        "gossip.keyFile: {path}: {reason}; make one with `head -c 32 /dev/urandom | base64 > {path}` and put the same file on every node"
    )]
    Keys {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no way to the API server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The uplinks cannot be watched.
    #[error(transparent)]
    Links(#[from] link::LinkError),
    /// No uplink has an address that peers could reach.
    #[error(
        "no uplink has an address of the family of gossip.bind ({bind}): configure one, or set `gossip.advertise` (uplinks: {uplinks})"
    )]
    NoAddress {
        /// Where gossip listens.
        bind: SocketAddr,
        /// The uplinks looked at.
        uplinks: String,
    },
    /// The HTTP port or the unix socket cannot be had.
    #[error(transparent)]
    Http(#[from] listen::BindError),
    /// eBPF cannot be loaded.
    #[error(transparent)]
    Forwarder(#[from] forward::StartError),
    /// Packet sockets cannot be had.
    #[error(transparent)]
    Announcer(#[from] announce::StartError),
    /// The self-test's thread cannot be had.
    #[error("cannot start the self-test's thread: {0}")]
    SelfTest(#[source] std::io::Error),
    /// The shadow standby's thread cannot be had.
    #[error("cannot start the shadow standby's thread: {0}")]
    Shadow(#[source] std::io::Error),
    /// The gossip port cannot be had.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// TLS for HTTPS probes cannot be set up.
    #[error("TLS for HTTPS probes: {0}")]
    Tls(#[from] rustls::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Metrics could not be registered.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Runs the agent until a signal stops it. `lines` is where its log goes.
///
/// # Errors
/// See [`AppError`]: only while starting.
pub async fn run(mut settings: Settings, reload: Reload, lines: Lines) -> Result<(), AppError> {
    let started = SystemTime::now();
    let signals = Signals::install().map_err(AppError::Signals)?;
    let (origin, keys) = find_source(&mut settings).await?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
    let doors = Doors::open(&settings).await?;
    let links = link::watch(settings.interfaces.clone()).await?;
    let advertise = advertised(&settings, links.clone()).await?;
    let forwarder = forward::Forwarder::start(forward_options(&settings))?;
    let mut announcer = announce::start(links.clone(), REFRESH)?;
    let conflicts = announcer.conflicts();
    let announcer = Arc::new(announcer);

    let gossiping = start_gossip(&settings, keys, advertise).await?;
    let gossip = gossiping.handle();
    let source_name = origin.name();
    log_start(&settings, advertise, &source_name.1, &links.borrow());

    let objects = origin.read(&settings.state_dir).await;
    let (snapshot, peers) = (objects.snapshots.clone(), objects.peers(settings.gossip.bind.port()));
    let (plan, plans) = watch::channel(None);
    let prober = health::start(plans, metrics.probes.clone(), metrics.limits.clone(), name_seed(&settings))?;
    let forwarding = forwarding::start(forwarder, metrics.limits.clone(), announcer.orders());
    let (scenes_out, scenes) = watch::channel(None);
    let selftest = selftest::start(settings.node.clone(), scenes, links.clone()).map_err(AppError::SelfTest)?;
    let shadowing =
        shadow::start(links.clone(), forwarding.shadow, metrics.limits.clone()).map_err(AppError::Shadow)?;
    let (owners_out, owners) = watch::channel(Arc::default());
    let (facts_out, facts) = watch::channel(Facts { listening: true, ..Facts::default() });
    let (strangers_out, strangers) = watch::channel(strangers::Strangers::default());
    let (orders, orders_in) = mpsc::channel(8);

    let reporter = Arc::new(Reporter {
        node: settings.node.clone(),
        started,
        source: source_name,
        forwarder_off: settings.forwarder == ForwarderMode::Off,
        view: gossip.view(),
        gossip: gossip.stats(),
        snapshot: snapshot.clone(),
        owners,
        facts,
        strangers,
        verdicts: prober.verdicts(),
        forwarding: forwarding.report.clone(),
        shadowing: shadowing.report,
        announcer: Arc::clone(&announcer),
        selftest: selftest.results.clone(),
    });
    doors.serve(&reporter, &metrics, orders);
    objects.write_back(&settings.node, gossip.view(), reporter.owners.clone());

    let inputs = Inputs {
        view: gossip.view(),
        snapshot,
        links,
        verdicts: prober.verdicts(),
        forwarding: forwarding.carrying.clone(),
        conflicts,
        selftest: selftest.verdicts,
        orders: orders_in,
    };
    let outputs = Outputs {
        gossip: gossip.commands(),
        announcer: Arc::clone(&announcer),
        wanted: forwarding.wanted,
        shadows: shadowing.wishes,
        plan,
        scenes: scenes_out,
        owners: owners_out,
        facts: facts_out,
        strangers: strangers_out,
        events: metrics.events.clone(),
    };
    count_bounds(&metrics.limits, gossip, &reporter, lines);
    let controller = Controller::new(settings.node.clone(), ownership(&settings), inputs, outputs);
    let ending = until_stopped(controller, &settings, reload, signals, gossip, peers).await;
    say_farewell(ending, gossiping, &settings).await;
    info!(
        "the agent has left; its forwarding hooks stay and carry established connections (`crier cleanup` removes them)"
    );
    Ok(())
}

/// Where the objects come from; and the gossip's keys, which may come from there as well.
async fn find_source(settings: &mut Settings) -> Result<(source::Origin, KeyRing), AppError> {
    let origin = source::Origin::find(settings).await?;
    settings.gossip.key_file = origin.key_file(settings).await;
    Ok((origin, read_keys(settings)?))
}

/// Who owns what, as far as this agent knows at its start.
fn ownership(settings: &Settings) -> Ownership {
    let mut ownership = Ownership::new(settings.node.clone(), Listen::default(), Instant::now());
    ownership.set_rebalance(settings.rebalance);
    if let Some((claims, until)) = restart::find(&settings.state_dir) {
        ownership.resume(claims, until);
    }
    ownership
}

/// Tells the peers, and for a restart the next agent.
async fn say_farewell(ending: Ending, gossiping: Gossip, settings: &Settings) {
    match ending {
        Ending::Gone => gossiping.shutdown().await,
        Ending::Restart(claims) => {
            if let Err(error) = restart::leave(&settings.state_dir, claims, settings.restart_grace) {
                warn!(%error, "the next agent will not know what this one owned, and others will take its VIPs");
            }
            gossiping.restart(settings.restart_grace).await;
        }
    }
}

/// Runs the controller, and beside it what follows signals and seeds, until a signal stops the agent.
async fn until_stopped(
    controller: Controller,
    settings: &Settings,
    reload: Reload,
    signals: Signals,
    gossip: &membership::io::Handle,
    peers: watch::Receiver<Vec<SocketAddr>>,
) -> Ending {
    let (stop, stopped) = watch::channel(false);
    let (seeds_out, seeds) = watch::channel(settings.gossip.join.clone());
    let helpers = [
        tokio::spawn(keep_seeds(seeds, peers, gossip.commands())),
        tokio::spawn(reload.run(signals, settings.clone(), gossip.commands(), seeds_out, stop)),
    ];
    let ending = controller.run(stopped, HANDOVER_PATIENCE, settings.restart_grace).await;
    helpers.iter().for_each(tokio::task::JoinHandle::abort);
    ending
}

/// Counts the bounds that parts reach, for as long as these parts live.
fn count_bounds(limits: &Limits, gossip: &membership::io::Handle, reporter: &Reporter, lines: Lines) {
    tokio::spawn(count_lost_lines(lines, limits.clone()));
    let (read, asked) = (reporter.snapshot.clone(), reporter.selftest.clone());
    tokio::spawn(count_limits(read, |read| &read.limits, Limit::label, limits.clone()));
    tokio::spawn(count_limits(gossip.stats(), |stats| &stats.limits, membership::Limit::label, limits.clone()));
    tokio::spawn(count_limits(asked, |asked| &asked.limits, |what| what, limits.clone()));
}

fn log_start(settings: &Settings, advertise: SocketAddr, source: &str, links: &Links) {
    info!(
        node = %settings.node, %advertise, version = env!("CARGO_PKG_VERSION"), source,
        interfaces = links.uplinks.keys().map(String::as_str).collect::<Vec<_>>().join(","),
        "the agent has started"
    );
    debug!(?settings, "with these settings");
}

async fn start_gossip(settings: &Settings, keys: KeyRing, advertise: SocketAddr) -> Result<Gossip, GossipError> {
    let watch = membership::Watch { interval: settings.gossip.watch.interval, misses: settings.gossip.watch.misses };
    Gossip::start(Options {
        node: settings.node.clone(),
        bind: settings.gossip.bind,
        advertise,
        keys,
        seeds: literal_seeds(&settings.gossip.join),
        watch,
        state_dir: settings.state_dir.clone(),
    })
    .await
}

/// An error with what caused it, as far as its own text does not say so.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Where the agent is asked: opened before anything else starts, served when there is something to tell.
struct Doors {
    tcp: Option<tokio::net::TcpListener>,
    unix: listen::UnixDoor,
}

impl Doors {
    async fn open(settings: &Settings) -> Result<Self, listen::BindError> {
        let tcp = match settings.http {
            Some(address) => Some(listen::bind_tcp(address).await?),
            None => None,
        };
        Ok(Self { tcp, unix: listen::bind_unix(&settings.socket)? })
    }

    fn serve(self, reporter: &Arc<Reporter>, metrics: &Arc<Metrics>, orders: Orders) {
        if let Some(tcp) = self.tcp {
            let reading = router::reading(Arc::clone(reporter) as _, Arc::clone(metrics));
            tokio::spawn(listen::serve(tcp, reading, metrics.limits.clone()));
        }
        let acting = router::acting(Arc::clone(reporter) as _, Arc::clone(metrics), orders);
        tokio::spawn(listen::serve(self.unix, acting, metrics.limits.clone()));
    }
}

/// The cluster's keys from their file.
fn read_keys(settings: &Settings) -> Result<KeyRing, AppError> {
    let path = settings.gossip.key_file.display().to_string();
    let text = std::fs::read_to_string(&settings.gossip.key_file)
        .map_err(|error| AppError::Keys { path: path.clone(), reason: error.to_string() })?;
    KeyRing::parse(&text).map_err(|error| AppError::Keys { path, reason: error.to_string() })
}

/// Where peers reach this node: as configured, or its address on the first uplink that has one.
async fn advertised(settings: &Settings, mut links: watch::Receiver<Arc<Links>>) -> Result<SocketAddr, AppError> {
    let bind = settings.gossip.bind;
    if let Some(address) = settings.gossip.advertise {
        return Ok(address);
    }
    if !bind.ip().is_unspecified() {
        return Ok(bind);
    }
    let of_family = |address: &IpAddr| bind.is_ipv6() || address.is_ipv4();
    let found = async {
        loop {
            let address = links
                .borrow_and_update()
                .usable()
                .find_map(|uplink| uplink.prefixes.iter().map(ipnet::IpNet::addr).find(of_family));
            if let Some(address) = address {
                return SocketAddr::new(address, bind.port());
            }
            warn!("waiting for an uplink with an address");
            if links.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::time::timeout(UPLINK_PATIENCE, found).await.map_err(|_| {
        let uplinks = links.borrow().uplinks.keys().cloned().collect::<Vec<_>>().join(", ");
        AppError::NoAddress { bind, uplinks }
    })
}

fn forward_options(settings: &Settings) -> forward::Options {
    let mode = match settings.forwarder {
        ForwarderMode::Auto => forward::Mode::Auto,
        ForwarderMode::Xdp => forward::Mode::Xdp,
        ForwarderMode::Tc => forward::Mode::Tc,
        ForwarderMode::Off => forward::Mode::Off,
    };
    let (pin_dir, flows, rows) = (settings.pin_dir.clone(), settings.flows, settings.rows);
    forward::Options { mode, pin_dir, flows, rows, nat_ports: None }
}

/// A number of this node's own, so that nodes do not probe in step.
fn name_seed(settings: &Settings) -> u64 {
    xxhash_rust::xxh3::xxh3_64(settings.node.as_str().as_bytes())
}
