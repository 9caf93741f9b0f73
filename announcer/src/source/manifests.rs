//! Objects from a folder of manifests, watched for changes.
//!
//! - Read are `*.yaml`, `*.yml` and `*.json` directly in the folder, sorted by name, whose names do not begin with a
//!   dot (editors' temporary files, and the inner folders of a ConfigMap mount). Symbolic links are followed.
//! - A file that is broken or unreadable keeps its last good content; a file that is gone takes its objects with it.
//! - A folder that is empty, gone or cannot be listed is taken for an accident (an unmounted volume, a failed copy):
//!   everything keeps serving until there is a file again. Who wants no service leaves one file, such as a pool.
//! - Changes are noticed by inotify and read 100 ms after the last of a burst. Every few seconds names, sizes and
//!   times are compared too, since inotify cannot tell that the folder itself was replaced.
#![expect(clippy::disallowed_methods, reason = "edge: reads files and the time at which it does")]

mod folder;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use xxhash_rust::xxh3::Xxh3;

use super::{Limit, Snapshot, report};
use crate::model::{
    Index, Problem,
    parse::{self, line_of},
};
use folder::{Fingerprint, Listing};

/// How long a burst of changes must be quiet before it is read.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A burst is read at the latest after this many quiet waits in vain.
const MAX_DEBOUNCES: usize = 20;
/// How often the folder is looked at without having been told to.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Bytes of text walked at one reading to find lines; problems beyond that have the document's number alone.
const MAX_WALKED: usize = 16 << 20;
/// Objects in the whole folder: 10,000 services with a slice for each family, and room.
const MAX_OBJECTS: usize = 100_000;

/// Reads the folder once, as `crier --check` does.
#[must_use]
pub fn read_once(folder: &Path) -> Snapshot {
    Reader::new(folder.to_owned()).read()
}

/// Reads the folder, then again whenever it changes, for as long as there is a receiver. The first snapshot is there
/// when this returns; a missing folder is an error in it, and is read when it appears.
pub async fn watch(folder: PathBuf) -> watch::Receiver<Arc<Snapshot>> {
    let (wake, woken) = mpsc::channel(1);
    let mut reader = Reader::new(folder);
    // Armed before the first read, so that no change falls between the two.
    let mut alarm = Alarm::new(wake);
    alarm.arm(&reader.folder);
    let (reader, snapshot) = match tokio::task::spawn_blocking(move || {
        let snapshot = reader.read();
        (reader, snapshot)
    })
    .await
    {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    report(None, &snapshot);
    let (publish, published) = watch::channel(Arc::new(snapshot));
    tokio::spawn(run(reader, alarm, woken, publish));
    published
}

async fn run(
    mut reader: Reader,
    mut alarm: Alarm,
    mut woken: mpsc::Receiver<()>,
    publish: watch::Sender<Arc<Snapshot>>,
) {
    loop {
        let told = tokio::select! {
            () = publish.closed() => return,
            _ = woken.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if told {
            for _ in 0..MAX_DEBOUNCES {
                if tokio::time::timeout(DEBOUNCE, woken.recv()).await.is_err() {
                    break;
                }
            }
        }
        alarm.arm(&reader.folder);
        let read = tokio::task::spawn_blocking(move || {
            let snapshot = (told || reader.looks_changed()).then(|| reader.read());
            (reader, snapshot)
        });
        let Ok((back, snapshot)) = read.await else {
            tracing::error!("reading the manifests failed inside; what was read before keeps serving");
            return;
        };
        reader = back;
        if let Some(snapshot) = snapshot {
            report(Some(&publish.borrow()), &snapshot);
            publish.send_replace(Arc::new(snapshot));
        }
    }
}

/// Adds to problems on which line they stand. Each look walks a whole text, so there is an end to it.
///
/// # Errors
/// [`Limit::LinesLookedUp`] if some had to go without.
fn find_lines(problems: &mut [Problem], texts: &BTreeMap<String, String>) -> Result<(), Limit> {
    let mut left = MAX_WALKED;
    let mut skipped = 0;
    for problem in problems.iter_mut().filter(|problem| problem.line.is_none()) {
        let Some(origin) = &problem.origin else { continue };
        let Some(text) = texts.get(&origin.file) else { continue };
        let Some(rest) = left.checked_sub(text.len()) else {
            skipped += 1;
            continue;
        };
        left = rest;
        problem.line = line_of(text, origin, &problem.field);
    }
    if skipped > 0 {
        tracing::debug!(problems = skipped, "too many problems in large files to look up the line of each");
        return Err(Limit::LinesLookedUp);
    }
    Ok(())
}

/// Tells of changes in the folder, by inotify.
struct Alarm {
    wake: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    /// The folder (device and inode) that is watched.
    watched: Option<(u64, u64)>,
}

impl Alarm {
    fn new(wake: mpsc::Sender<()>) -> Self {
        Self { wake, watcher: None, watched: None }
    }

    /// Watches what is at the path now; a replaced folder is another one.
    fn arm(&mut self, path: &Path) {
        let there = folder::identity(path);
        if there == self.watched {
            return;
        }
        self.watcher = None;
        self.watched = None;
        if there.is_none() {
            return;
        }
        let wake = self.wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and must not lead to reading it again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // A full channel already holds the news.
                let _ = wake.try_send(());
            }
        });
        match watcher.and_then(|mut watcher| watcher.watch(path, RecursiveMode::NonRecursive).map(|()| watcher)) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = there;
            }
            Err(error) => {
                tracing::warn!(%error, folder = %path.display(), "cannot be watched; it is looked at every few seconds");
            }
        }
    }
}

/// The folder as it was read last.
struct Reader {
    folder: PathBuf,
    index: Index,
    /// Of each file in the index, a hash of the text it was last given.
    applied: BTreeMap<String, u64>,
    fingerprint: Option<Fingerprint>,
    /// How many readings ran into which limit.
    limits: BTreeMap<Limit, u64>,
}

impl Reader {
    fn new(folder: PathBuf) -> Self {
        Self { folder, index: Index::default(), applied: BTreeMap::new(), fingerprint: None, limits: BTreeMap::new() }
    }

    /// Whether names, sizes or times differ from what was read last.
    fn looks_changed(&self) -> bool {
        Fingerprint::of(&self.folder) != self.fingerprint
    }

    fn read(&mut self) -> Snapshot {
        self.fingerprint = Fingerprint::of(&self.folder);
        let mut texts = BTreeMap::new();
        let mut problems = Vec::new();
        let mut limits = BTreeSet::new();
        let connected = match Listing::read(&self.folder) {
            Err(problem) => {
                problems.push(*problem);
                false
            }
            Ok(listing) => {
                problems.extend(listing.problems);
                limits.extend(listing.limits);
                // An emptied folder is an accident.
                if !listing.files.is_empty() {
                    self.forget_all_but(|name| listing.files.contains_key(name) || listing.left_out.contains(name));
                }
                for (name, text) in listing.files {
                    match text.map(|text| self.apply(&name, &text).map(|()| texts.insert(name.clone(), text))) {
                        Ok(Ok(_)) => {}
                        Ok(Err(problem)) => {
                            limits.insert(Limit::Objects);
                            problems.push(*problem);
                        }
                        Err(problem) => {
                            self.applied.remove(&name);
                            self.index.refuse(&name, problem);
                        }
                    }
                }
                true
            }
        };
        let mut resolved = self.index.resolve();
        self.index.settle(&resolved);
        problems.append(&mut resolved.problems);
        limits.extend(find_lines(&mut problems, &texts).err());
        for limit in limits {
            *self.limits.entry(limit).or_default() += 1;
        }
        Snapshot {
            desired: resolved.desired,
            problems,
            objects: self.index.counts(),
            pools: resolved.pools,
            connected,
            current: false,
            loaded_at: SystemTime::now(),
            limits: self.limits.clone(),
            peers: BTreeSet::new(),
        }
    }

    fn forget_all_but(&mut self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<_> = self.index.files().filter(|name| !is_there(name)).map(str::to_owned).collect();
        for name in gone {
            self.index.delete(&name);
            self.applied.remove(&name);
        }
    }

    /// Puts a text into the index if it is another one than before; the error is that there is no room for its objects.
    fn apply(&mut self, name: &str, text: &str) -> Result<(), Box<Problem>> {
        let mut hasher = Xxh3::new();
        hasher.write(text.as_bytes());
        let hash = hasher.finish();
        if self.applied.get(name) == Some(&hash) {
            return Ok(());
        }
        match parse::parse_file(name, text) {
            Err(problem) => self.index.refuse(name, *problem),
            Ok(documents) if self.index.count_without(name) + documents.len() > MAX_OBJECTS => {
                // Not remembered as applied: there may be room once another file has shrunk.
                self.applied.remove(name);
                let message = format!("not read: with it the folder would hold more than {MAX_OBJECTS} objects");
                return Err(Box::new(Problem::of_file(name, message)));
            }
            Ok(documents) => self.index.apply(name, documents),
        }
        self.applied.insert(name.to_owned(), hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
