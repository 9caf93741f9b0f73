//! The edges: the task that owns a [`crate::Cluster`], its socket and its files;
//! and the thread of its watch.
//!
//! An agent calls [`start`] and keeps the [`Handle`].

use std::{fs, io as std_io, path::Path};

mod driver;
mod generation;
mod peers;
mod priority;
mod udp;
mod watch;

pub use driver::{Handle, Options, StartError, start};

/// Removes what a gossip has stored for its next start, as far as it is there.
///
/// # Errors
/// If some of it stays.
pub fn forget(state_dir: &Path) -> std_io::Result<()> {
    for name in [generation::FILE, peers::FILE] {
        let path = state_dir.join(name);
        for file in [path.with_extension("new"), path] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std_io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
