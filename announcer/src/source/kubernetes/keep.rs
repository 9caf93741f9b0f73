//! Keeps the state on disk as it changes: not more often than it is cheap, one file at a time, and beside what is read meanwhile,
//! since a disk may be slow.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, warn};

use super::{cache, store::Store};

/// Changes are kept on disk after so long.
const AFTER: Duration = Duration::from_millis(200);
/// Of the time at most one part in so many goes into preparing what is kept.
const SHARE: u32 = 20;

/// See the module's documentation.
pub(super) struct Keeper {
    folder: PathBuf,
    /// Something has changed since the state was prepared last.
    unkept: bool,
    /// It is not prepared before.
    due: Instant,
    /// How long preparing it took last.
    prepared: Duration,
    /// What is being written; in the end it says how long that took.
    saving: Option<JoinHandle<Duration>>,
}

impl Keeper {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, unkept: false, due: Instant::now(), prepared: Duration::ZERO, saving: None }
    }

    /// Something has changed.
    pub(super) fn note(&mut self) {
        if !self.unkept {
            self.unkept = true;
            self.due = self.due.max(Instant::now() + AFTER);
        }
    }

    /// Waits until there is something to keep, and it is time. It may be dropped and called again.
    pub(super) async fn due(&mut self) {
        if let Some(saving) = &mut self.saving {
            let took = saving.await.unwrap_or_default();
            self.saving = None;
            self.due = self.due.max(Instant::now() + took.max(self.prepared * SHARE));
        }
        crate::io::sleep_until(self.unkept.then_some(self.due)).await;
    }

    /// Begins to keep the state. Gives it back; `None` if that failed inside.
    pub(super) async fn keep(&mut self, store: Store) -> Option<Store> {
        self.unkept = false;
        let begun = Instant::now();
        let prepared = spawn_blocking(move || (cache::write(&store.live), store)).await;
        self.prepared = begun.elapsed();
        let (bytes, store) = match prepared {
            Ok(prepared) => prepared,
            Err(panic) => {
                error!(%panic, "keeping the state failed inside");
                return None;
            }
        };
        let folder = self.folder.clone();
        self.saving = Some(spawn_blocking(move || {
            let begun = Instant::now();
            if let Err(error) = bytes.and_then(|bytes| cache::save(&folder, &bytes)) {
                warn!(%error, folder = %folder.display(), "the state cannot be kept on disk");
            }
            begun.elapsed()
        }));
        Some(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_changes_is_kept_once_and_what_does_not_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(folder.path().to_owned());
        let moment = Duration::from_millis(50);
        assert!(tokio::time::timeout(moment, keeper.due()).await.is_err(), "nothing has changed");
        keeper.note();
        keeper.due().await;
        let mut store = Store::remembering("one".to_owned(), Vec::new());
        store = keeper.keep(store).await.unwrap();
        keeper.note();
        keeper.due().await;
        assert_eq!(cache::load(folder.path()).unwrap().0, "one", "it is on disk before it is to be kept again");
        keeper.keep(store).await.unwrap();
        assert!(tokio::time::timeout(moment + AFTER, keeper.due()).await.is_err(), "nothing has changed since");
    }
}
