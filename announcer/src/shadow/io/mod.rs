//! The shadow standby's edge: a thread of its own, so that an owner that lives is asked, and an ask answered, at once.
//!
//! ```text
//!  Wishes ---+                         +--> the kernel's maps
//!  floods ---+--> Keeper (pure) -------+--> memberships: which MACs the network card lets in
//!  answers --+                         +--> asks
//!  asks of other standbys ----------------> echoes, answers
//! ```

#![expect(clippy::disallowed_methods, reason = "edge: tells the core the time")]

mod driver;
mod maps;
mod port;

use std::{io, sync::Arc};

use membership::NodeName;
use tokio::sync::{mpsc, watch};

use super::{State, Wishes};
use crate::{link::Links, metrics::Limits};
use driver::Driver;

pub use maps::Maps;

/// What is told of the shadows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// For whom this node stands in, by which interface, and how that is.
    pub shadows: Vec<(NodeName, String, State)>,
    /// How often it stood down.
    pub stand_downs: u64,
    /// How often frames to a shadowed MAC began to be flooded.
    pub floods: u64,
}

/// Both ends of the running thread. It ends when the wishes' sender is dropped.
#[derive(Debug)]
pub struct Shadowing {
    /// For whom this node shall stand in.
    pub wishes: watch::Sender<Arc<Wishes>>,
    /// What is told.
    pub report: watch::Receiver<Arc<Report>>,
}

/// Starts the thread in the calling thread's network namespace. `maps` gives those of each program that is loaded; it
/// stands in for nobody before.
///
/// # Errors
/// If there is no thread or event loop. Sockets that cannot be opened are logged and tried again.
pub fn start(links: watch::Receiver<Arc<Links>>, maps: mpsc::Receiver<Maps>, limits: Limits) -> io::Result<Shadowing> {
    let (wishes, wished) = watch::channel(Arc::default());
    let (reports, report) = watch::channel(Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let driver = Driver::new(reports, limits);
    std::thread::Builder::new()
        .name("shadow".into())
        .spawn(move || runtime.block_on(driver.run(links, maps, wished)))?;
    Ok(Shadowing { wishes, report })
}
