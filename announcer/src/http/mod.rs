//! The agent's HTTP surface: what it tells over TCP, and what can be done to it over its unix socket.
//!
//! One router serves both doors: `/metrics`, `/healthz`, `/readyz`, `/api/v1/status` and the page `/`. Only the unix
//! socket (mode 0600, so root only) also has `/api/v1/flows`, which names clients, and the actions: `POST /api/v1/drain`, `/api/v1/undrain`,
//! `/api/v1/rebalance` and `/api/v1/announce`. The app stands behind two seams: [`StatusSource`] for what is read, and a channel of [`Order`]s
//! for what is to be done.
//!
//! Use: [`listen::bind_tcp`] and [`listen::bind_unix`] first, so that a port in use is found before anything else
//! starts; then [`listen::serve`] with [`router::reading`] and [`router::acting`].

use tokio::sync::{mpsc, oneshot};

use crate::metrics::Snapshot;

pub mod flows;
pub mod listen;
mod page;
pub mod router;
pub mod status;

pub use status::Status;

/// What the HTTP surface reads of the agent. Every call is answered from values at hand and never waits.
pub trait StatusSource: Send + Sync + 'static {
    /// What `/api/v1/status` and the page show.
    fn status(&self) -> Status;
    /// What `/readyz` says.
    fn readiness(&self) -> Readiness;
    /// The state that `/metrics` is made of, beside the counters.
    fn snapshot(&self) -> Snapshot;
    /// What `/api/v1/flows` lists. Looks through the flow table, which takes a while if it is large: the one call that is
    /// for a thread that may wait.
    ///
    /// # Errors
    /// A sentence for the person who asked.
    fn flows(&self, query: &flows::FlowQuery) -> Result<flows::Flows, Refused>;
}

/// Whether the agent is fully at work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is still awaited, a short sentence each (`source: /etc/crier/manifests has not been read yet`). Empty: ready.
    pub awaiting: Vec<String>,
}

impl Readiness {
    /// Nothing is awaited.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.awaiting.is_empty()
    }
}

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hand all VIPs over and take none.
    Drain,
    /// End the drain.
    Undrain,
    /// Take this node's share of the VIPs over.
    Rebalance,
    /// Announce owned VIPs anew; `None`: all of them.
    Announce(Option<std::net::IpAddr>),
}

/// An [`Action`] on its way to the app.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub action: Action,
    /// Where the outcome goes: a sentence for the person who asked. Dropping it counts as an agent that is shutting down.
    pub reply: oneshot::Sender<Result<String, Refused>>,
}

/// The sending half of the orders' channel. A depth of 8 is plenty: people type these.
pub type Orders = mpsc::Sender<Order>;

/// Why an action was not done; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(
    /// The reason and what to do instead, a sentence.
    pub String,
);
