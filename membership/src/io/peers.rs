//! Remembered peers: the addresses to try first at the next start, one a line in `stateDir/peers`.
//!
//! Written on a blocking thread, one write at a time, and not forced to the disk: every node writes in the same second
//! when a member joins, and a gossip that waits for slow disks makes living nodes look dead. A file lost to a power
//! failure costs a slower start only.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::task::{JoinHandle, spawn_blocking};

pub(super) const FILE: &str = "peers";

/// The file of remembered peers, and what it says.
#[derive(Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    stored: Vec<SocketAddr>,
    /// The write under way, or the last one.
    writing: Option<JoinHandle<()>>,
}

impl Remembered {
    /// Reads the file; one that is not there or not readable remembers nobody.
    pub(super) fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let stored = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Self { path, stored, writing: None }
    }

    /// What the file says.
    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        self.stored.clone()
    }

    /// Begins to write the file if it says something else; does nothing while a write is under way. Needs a runtime.
    pub(super) fn store(&mut self, peers: Vec<SocketAddr>) {
        if peers == self.stored || self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let text: String = peers.iter().map(|peer| format!("{peer}\n")).collect();
        let path = self.path.clone();
        self.writing = Some(spawn_blocking(move || {
            if let Err(error) = replace(&path, &text) {
                tracing::warn!(path = %path.display(), %error, "peers not remembered");
            }
        }));
        // Also after a failure: the next change is reason to try again, the passing of time is not.
        self.stored = peers;
    }

    /// Writes what is yet to be written, and waits for it.
    pub(super) async fn finish(mut self, peers: Vec<SocketAddr>) {
        self.written().await;
        self.store(peers);
        self.written().await;
    }

    async fn written(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Err(error) = writing.await
        {
            tracing::error!(%error, "writing the peers ended badly");
        }
    }
}

/// Replaces a file such that a reader, or a crash of this process, finds the old or the new text, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (_, temporary) = write_beside(path, text)?;
    fs::rename(&temporary, path)
}

/// The same, and it outlasts a power failure as well. Waits for the disk.
pub(super) fn replace_durably(path: &Path, text: &str) -> io::Result<()> {
    let (file, temporary) = write_beside(path, text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn write_beside(path: &Path, text: &str) -> io::Result<(fs::File, PathBuf)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    Ok((file, temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn peers_are_remembered_across_starts() {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<SocketAddr> = vec!["10.0.0.1:9651".parse().unwrap(), "[fe80::1]:9651".parse().unwrap()];
        let remembered = Remembered::load(dir.path());
        assert!(remembered.peers().is_empty());
        run(remembered.finish(peers.clone()));
        assert_eq!(Remembered::load(dir.path()).peers(), peers);
        assert!(!dir.path().join("peers.new").exists());
    }

    #[test]
    fn a_slow_disk_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let peer = |last: u8| vec![SocketAddr::from(([10, 0, 0, last], 9651))];
        // A pipe without a reader in the file's place: to open it for writing blocks, as a stuck disk does.
        let pipe = dir.path().join("peers.new");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        run(async {
            let mut remembered = Remembered::load(dir.path());
            remembered.store(peer(1));
            remembered.store(peer(2));
            assert_eq!(remembered.peers(), peer(1), "one write at a time; what came after it is yet to be written");
            let reader = spawn_blocking(move || fs::read_to_string(&pipe).unwrap());
            assert_eq!(reader.await.unwrap(), "10.0.0.1:9651\n");
            remembered.finish(peer(2)).await;
        });
        // The pipe was renamed into place by the first write, and replaced by the second.
        assert_eq!(Remembered::load(dir.path()).peers(), peer(2));
    }

    #[test]
    fn lines_that_make_no_sense_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "nonsense\n10.0.0.1:1\n\n").unwrap();
        assert_eq!(Remembered::load(dir.path()).peers(), ["10.0.0.1:1".parse().unwrap()]);
    }
}
