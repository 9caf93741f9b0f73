//! Objects from a Kubernetes API server.
//!
//! ```text
//!  watch (one per kind) --news--> store --> picture --> Snapshot: what the agent serves
//!                                   |          \-----> writer: what people see
//!                                 cache (disk)
//! ```
//! The API server is a source of wishes: while it is away, the last state keeps being served, and after a start it is read from
//! disk. Addresses are chosen by the same function as from manifests ([`crate::model`]); the server keeps them in the
//! services' status, where the [`writer`] puts them.
#![expect(clippy::disallowed_methods, reason = "edge: reads the time at which it resolves")]

mod access;
mod cache;
mod gate;
mod keep;
mod key;
mod picture;
mod store;
mod vip;
mod watch;
mod watched;
pub mod writer;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch as channel};
use tracing::{error, info};

use super::{Snapshot, report};
pub use access::{Access, AccessError};
use keep::Keeper;
pub use key::file as key_file;
use picture::Picture;
use store::Store;
use watch::News;
use watched::Watched;

/// News that wait to be taken in; watches wait beyond that.
const WAITING: usize = 256;
/// How long a burst of news must be quiet before it is resolved; and for how long it may go on.
const QUIET: Duration = Duration::from_millis(20);
const BURST: Duration = Duration::from_millis(250);
/// Of the time at most one part in so many goes into resolving.
const SHARE: u32 = 4;

/// What the source knows, whenever that changes.
pub struct Source {
    /// What is served.
    pub snapshots: channel::Receiver<Arc<Snapshot>>,
    pictures: channel::Receiver<Arc<Picture>>,
    access: Access,
}

/// Begins to watch. What was kept on disk is there when this returns.
pub async fn start(access: Access, state_dir: &Path) -> Source {
    let kept = cache::load(state_dir);
    let remembers = kept.is_some();
    let store = kept.map_or_else(Store::default, |(identity, objects)| Store::remembering(identity, objects));
    let (news_out, news) = mpsc::channel(WAITING);
    for what in Watched::all() {
        tokio::spawn(watch::watch(access.client.clone(), what, news_out.clone()));
    }
    let keeper = Keeper::new(state_dir.to_owned());
    let mut reader = Reader { store: Some(store), remembers, keeper, cost: Duration::ZERO };
    let (snapshot, picture) =
        reader.resolve().await.unwrap_or_else(|| (Snapshot::empty(SystemTime::now()), Picture::default()));
    if remembers {
        info!(services = snapshot.desired.services.len(), "serving what was kept on disk until the API server answers");
    }
    report(None, &snapshot);
    let (snapshot_out, snapshots) = channel::channel(Arc::new(snapshot));
    let (picture_out, pictures) = channel::channel(Arc::new(picture));
    tokio::spawn(reader.run(news, snapshot_out, picture_out));
    Source { snapshots, pictures, access }
}

/// Takes in what the watches say, and resolves it.
struct Reader {
    /// Away while it is worked on elsewhere.
    store: Option<Store>,
    /// It has begun with a state, so that it need not wait for all of it before it serves.
    remembers: bool,
    keeper: Keeper,
    /// How long resolving took last.
    cost: Duration,
}

impl Reader {
    async fn run(
        mut self,
        mut news: mpsc::Receiver<(Watched, News)>,
        snapshots: channel::Sender<Arc<Snapshot>>,
        pictures: channel::Sender<Arc<Picture>>,
    ) {
        loop {
            let first = tokio::select! {
                () = snapshots.closed() => return,
                first = news.recv() => first,
                () = self.keeper.due() => {
                    let Some(store) = self.store.take() else { return };
                    self.store = self.keeper.keep(store).await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            if !self.take_burst(first, &mut news).await {
                continue;
            }
            let Some((snapshot, picture)) = self.resolve().await else { return };
            if picture.current {
                self.keeper.note();
            }
            report(Some(&snapshots.borrow()), &snapshot);
            snapshots.send_replace(Arc::new(snapshot));
            pictures.send_replace(Arc::new(picture));
        }
    }

    /// Takes in a burst of news. Whether there is something to resolve.
    async fn take_burst(&mut self, first: (Watched, News), news: &mut mpsc::Receiver<(Watched, News)>) -> bool {
        let Some(store) = self.store.as_mut() else { return false };
        let end = Instant::now() + BURST.max(self.cost * SHARE);
        let quiet = QUIET.max(self.cost);
        let mut changed = store.take(first.0, first.1);
        while Instant::now() < end {
            match tokio::time::timeout(quiet, news.recv()).await {
                Ok(Some((what, next))) => changed |= store.take(what, next),
                Ok(None) | Err(_) => break,
            }
        }
        changed
    }

    /// Resolves on another thread: with thousands of services it takes a while. `None` if that failed inside.
    async fn resolve(&mut self) -> Option<(Snapshot, Picture)> {
        let mut store = self.store.take()?;
        if !self.remembers && !store.is_current() {
            // The first lists are coming; part of them would say that services have no pools.
            let snapshot = Snapshot {
                problems: store.problems(),
                limits: store.limits.clone(),
                ..Snapshot::empty(SystemTime::now())
            };
            self.store = Some(store);
            return Some((snapshot, Picture::default()));
        }
        self.remembers = true;
        let begun = Instant::now();
        let resolved = tokio::task::spawn_blocking(move || {
            let (snapshot, picture) = picture::take(&mut store, SystemTime::now());
            (store, snapshot, picture)
        });
        match resolved.await {
            Ok((store, snapshot, picture)) => {
                self.store = Some(store);
                self.cost = begun.elapsed();
                Some((snapshot, picture))
            }
            Err(panic) => {
                error!(%panic, "reading the objects failed inside; what was read before keeps serving");
                None
            }
        }
    }
}
