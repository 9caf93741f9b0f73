//! Remembered peers: the addresses to try first at the next start, one a line in `stateDir/peers`.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

const FILE: &str = "peers";

/// The file of remembered peers, and what it says.
#[derive(Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    stored: Vec<SocketAddr>,
}

impl Remembered {
    /// Reads the file; one that is not there or not readable remembers nobody.
    pub(super) fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let stored = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Self { path, stored }
    }

    /// What the file says.
    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        self.stored.clone()
    }

    /// Writes the file if it says something else.
    pub(super) fn store(&mut self, peers: Vec<SocketAddr>) {
        if peers == self.stored {
            return;
        }
        let text: String = peers.iter().map(|peer| format!("{peer}\n")).collect();
        if let Err(error) = replace(&self.path, &text) {
            tracing::warn!(path = %self.path.display(), %error, "peers not remembered");
        }
        // Also after a failure: the next change is reason to try again, the passing of time is not.
        self.stored = peers;
    }
}

/// Replaces a file such that a reader, or a crash at any moment, finds the old or the new text, whole.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_remembered_across_starts() {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<SocketAddr> = vec!["10.0.0.1:9651".parse().unwrap(), "[fe80::1]:9651".parse().unwrap()];
        let mut remembered = Remembered::load(dir.path());
        assert!(remembered.peers().is_empty());
        remembered.store(peers.clone());
        assert_eq!(Remembered::load(dir.path()).peers(), peers);
        assert!(!dir.path().join("peers.new").exists());
    }

    #[test]
    fn lines_that_make_no_sense_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "nonsense\n10.0.0.1:1\n\n").unwrap();
        assert_eq!(Remembered::load(dir.path()).peers(), ["10.0.0.1:1".parse().unwrap()]);
    }
}
