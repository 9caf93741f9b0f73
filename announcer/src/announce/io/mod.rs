//! The announcer's edge: a thread of its own for sockets and timers, so that an answer waits for nothing else.
//!
//! ```text
//!  set, again --+                            +--> frames
//!  Links -------+--> Speaker (pure) --ports--+--> sockets opened and closed
//!  frames ------+                    groups  +--> memberships (multicast)
//!  time --------+                   conflicts --> the agent
//! ```

#![expect(clippy::disallowed_methods, reason = "edge: tells the core the time")]

mod counters;
mod driver;
mod hooks;
mod multicast;

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Announcement, Conflict, Inquiry};
use crate::{
    io::{packet, publish},
    link::Links,
};
pub use counters::Counters;
use counters::Tally;
use driver::{Driver, Inputs};
pub use hooks::HookMaps;

/// Conflicts that wait for the agent; beyond that they are only counted.
const CONFLICTS: usize = 256;
/// Calls of [`Announcer::again`] that wait for the thread.
const AGAIN: usize = 4096;

/// Why the announcer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process may not open packet sockets.
    #[error(
        "announcing needs packet sockets, and the kernel refuses them: run as root or give the capability CAP_NET_RAW \
         (systemd: AmbientCapabilities=CAP_NET_RAW, Kubernetes: securityContext.capabilities.add: [NET_RAW])"
    )]
    Permission(#[source] io::Error),
    /// Packet sockets do not work for another reason.
    #[error("cannot open a packet socket: {0}")]
    Socket(#[source] io::Error),
    /// The thread or its event loop could not be made.
    #[error("cannot start the announcer's thread: {0}")]
    Thread(#[source] io::Error),
}

/// What the announcer is told about the hooks, which answer while it does not.
#[derive(Debug)]
pub enum Order {
    /// A program has been attached: its maps.
    Maps(Box<HookMaps>),
    /// The agent stops for a restart: the hooks are to answer for so long. Answered by whether they can.
    Leave(Duration, oneshot::Sender<bool>),
}

/// A handle to the announcer. When it is dropped, the announcer falls silent and its thread ends.
#[derive(Debug)]
pub struct Announcer {
    wishes: watch::Sender<BTreeMap<IpAddr, Announcement>>,
    inquiry: watch::Sender<Inquiry>,
    again: mpsc::Sender<IpAddr>,
    orders: mpsc::Sender<Order>,
    conflicts: Option<mpsc::Receiver<Conflict>>,
    tally: Arc<Tally>,
}

/// Starts the announcer in the calling thread's network namespace. It announces nothing until [`Announcer::set`] is
/// called; `refresh` is the time between announcements in calm times (at least a second, usually a minute).
///
/// # Errors
/// See [`StartError`]. An interface on which sockets cannot be opened is no error: it is logged and tried again.
pub fn start(links: watch::Receiver<Arc<Links>>, refresh: Duration) -> Result<Announcer, StartError> {
    packet::probe().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => StartError::Permission(error),
        _ => StartError::Socket(error),
    })?;
    let (wishes, wished) = watch::channel(BTreeMap::new());
    let (inquiry, inquired) = watch::channel(Inquiry::default());
    let (again, asked_again) = mpsc::channel(AGAIN);
    let (reports, conflicts) = mpsc::channel(CONFLICTS);
    let (orders, ordered) = mpsc::channel(4);
    let tally = Arc::new(Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let driver = Driver::new(refresh, Arc::clone(&tally), reports);
    let inputs = Inputs { links, wished, inquiry: inquired, again: asked_again, orders: ordered };
    std::thread::Builder::new()
        .name("announcer".into())
        .spawn(move || runtime.block_on(driver.run(inputs)))
        .map_err(StartError::Thread)?;
    Ok(Announcer { wishes, inquiry, again, orders, conflicts: Some(conflicts), tally })
}

impl Announcer {
    /// Announce exactly these VIPs. A new one, one on a new interface, or one of a higher epoch is announced with a
    /// burst; one that is missing falls silent at once. Never blocks.
    pub fn set(&self, wished: BTreeMap<IpAddr, Announcement>) {
        publish(&self.wishes, wished);
    }

    /// Ask and listen for exactly this from now on; what is heard comes by [`Announcer::conflicts`]. Never blocks.
    pub fn inquire(&self, inquiry: Inquiry) {
        publish(&self.inquiry, inquiry);
    }

    /// Announce the VIP with a burst now, if it is among those set. Never blocks.
    pub fn again(&self, vip: IpAddr) {
        if self.again.try_send(vip).is_err() {
            tracing::warn!(%vip, "the announcer has too much to do to announce again");
        }
    }

    /// Where other machines that answer for our VIPs, and those found by [`Announcer::inquire`], are reported. The first
    /// call gets the reports; the channel of later calls is closed.
    pub fn conflicts(&mut self) -> mpsc::Receiver<Conflict> {
        self.conflicts.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Where it is told of the hooks.
    #[must_use]
    pub fn orders(&self) -> mpsc::Sender<Order> {
        self.orders.clone()
    }

    /// Has the hooks answer for the VIPs from now on, for so long: whether they can. This announcer goes on until it is dropped.
    pub async fn leave_to_hooks(&self, grace: Duration) -> bool {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Leave(grace, answer)).await.is_ok() && answered.await.unwrap_or(false)
    }

    /// What has been done since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tally.read()
    }
}
