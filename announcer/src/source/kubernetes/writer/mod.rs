//! Writes what people look at: addresses into services' status, `VIP` objects, conditions and events.
//!
//! `plan` compares what the API server has with what it should have, so what is written depends on nothing that was
//! written before, by whichever agent. `turn` says whose turn it is: the first by rendezvous hashing of the members that reach
//! the API server writes at once, the next ones only what is still missing after a while. So no lease is needed, an agent that
//! has lost its way to the API server is stood in for, and should two write at once, they write the same, and resource versions
//! keep the later from undoing what is newer.
#![expect(clippy::disallowed_methods, reason = "edge: waits, and tells the plan the time")]

mod apply;
mod conditions;
mod event;
mod pace;
mod plan;
mod turn;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt;
use membership::{NodeName, View};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Access, Source};
use crate::app::controller::Owners;
use apply::apply;
use pace::{AGAIN, Pace};
use plan::{Scene, Write};

/// How many requests are under way at once.
const AT_ONCE: usize = 16;
/// How many are begun before it is looked again what is to be written.
const ROUND: usize = 1024;
/// Changes of a burst are waited for; and of the time at most one part in so many goes into planning.
const QUIET: Duration = Duration::from_millis(50);
const SHARE: u32 = 10;

/// What the writer looks at beside the source.
pub struct Inputs {
    /// This node.
    pub me: NodeName,
    /// The cluster.
    pub view: watch::Receiver<Arc<View>>,
    /// Who owns what.
    pub owners: watch::Receiver<Arc<Owners>>,
}

/// Writes for as long as the agent lives.
pub async fn run(source: Source, mut inputs: Inputs) {
    let Source { mut pictures, access, .. } = source;
    let mut pace = Pace::default();
    loop {
        let picture = Arc::clone(&pictures.borrow_and_update());
        let view = Arc::clone(&inputs.view.borrow_and_update());
        let owners = Arc::clone(&inputs.owners.borrow_and_update());
        let begun = Instant::now();
        let mut cost = Duration::ZERO;
        let wake = if picture.current && turn::may_write(&inputs.me, &view) {
            let planned = plan::plan(&Scene::new(&picture, &owners, &view, SystemTime::now()));
            cost = begun.elapsed();
            let (due, wake) = pace.due(planned, turn::patience(&inputs.me, &view), Instant::now());
            let more = due.len() > ROUND;
            let again = write(&access, due, &mut pace).await;
            if more {
                continue;
            }
            again.into_iter().chain(wake).min()
        } else {
            None
        };
        tokio::select! {
            changed = pictures.changed() => if changed.is_err() { return },
            changed = inputs.view.changed() => if changed.is_err() { return },
            changed = inputs.owners.changed() => if changed.is_err() { return },
            () = crate::io::sleep_until(wake) => {}
        }
        tokio::time::sleep(QUIET.max(cost * SHARE)).await;
    }
}

/// Writes what is due, a round of it. When to look whether all of it was done.
async fn write(access: &Access, mut due: Vec<Write>, pace: &mut Pace) -> Option<Instant> {
    if due.is_empty() {
        return None;
    }
    due.truncate(ROUND);
    let written = futures_util::stream::iter(due).map(|write| async move {
        let done = apply(access, &write).await;
        (write, done)
    });
    let mut written = written.buffer_unordered(AT_ONCE);
    while let Some((write, done)) = written.next().await {
        pace.attempted(&write, Instant::now());
        match done {
            Ok(()) => {
                debug!(what = %write.change, "written");
                pace.done(&write);
            }
            // Somebody was faster; the newer version comes by the watch.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!(what = %write.change, reason = status.message, "not written");
            }
            Err(error) => {
                let error = match error {
                    kube::Error::Api(status) => status.message,
                    other => crate::app::with_causes(&other),
                };
                if pace.is_news(&write, &error) {
                    warn!(what = %write.change, error, "cannot be written to the API server; it is tried again");
                }
            }
        }
    }
    Some(Instant::now() + AGAIN)
}
