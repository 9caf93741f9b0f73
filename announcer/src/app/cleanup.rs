//! `crier cleanup`: what agents leave on a machine on purpose is removed. All else is gone with their process.
//!
//! | left | for |
//! |---|---|
//! | programs, links, maps (`pinDir`) | traffic that goes on without an agent |
//! | generation, known peers, claims before a restart (`stateDir`) | the next start |
//! | the unix socket's file | nobody, after a crash |

use std::{fs, io, path::Path};

use super::restart;
use crate::{config::Settings, forward, http::listen};

/// Something cannot be removed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct CleanupError {
    /// What.
    what: String,
    /// Why not.
    source: io::Error,
}

/// Removes all that an agent with these settings has left. While one runs, its state and its socket stay.
///
/// # Errors
/// If something cannot be removed; what could be is, then.
pub fn cleanup(settings: &Settings) -> Result<(), CleanupError> {
    let state = &settings.state_dir;
    let mut done = vec![(&settings.pin_dir, forward::detach_all(&settings.pin_dir))];
    if !listen::is_answered(&settings.socket) {
        done.push((&settings.socket, listen::remove_unix(&settings.socket)));
        done.push((state, restart::forget(state).and_then(|()| membership::io::forget(state))));
        done.push((state, remove_if_empty(state)));
    }
    let failed = done.into_iter().find_map(|(path, done)| Some((path, done.err()?)));
    failed.map_or(Ok(()), |(path, source)| Err(CleanupError { what: path.display().to_string(), source }))
}

fn remove_if_empty(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, ReadOnlyFilesystem, ResourceBusy};
    match fs::remove_dir(folder) {
        // What is in it is somebody else's; or it is a mount of its own, in a container perhaps whose root is read-only.
        Err(error) if [DirectoryNotEmpty, ResourceBusy, ReadOnlyFilesystem].contains(&error.kind()) => Ok(()),
        other => gone(other),
    }
}

/// What is not there need not be removed.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
