//! The generation of this start: higher than that of any start before.
#![expect(clippy::disallowed_methods, reason = "edge: reads the wall clock once at start")]

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::peers::replace_durably;

pub(super) const FILE: &str = "generation";

/// max(stored + 1, unix milliseconds), stored for the next start.
///
/// A state directory that cannot be read or written is a warning only: the clock alone usually serves, and where it
/// does not, peers tell this node the generation to jump above.
pub(super) fn next(state_dir: &Path) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis());
    next_at(state_dir, u64::try_from(now).unwrap_or(u64::MAX))
}

fn next_at(state_dir: &Path, unix_ms: u64) -> u64 {
    let path = state_dir.join(FILE);
    let stored = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "not a generation; going by the clock");
            0
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "generation not readable; going by the clock");
            0
        }
    };
    let generation = unix_ms.max(u64::saturating_add(stored, 1));
    if let Err(error) = replace_durably(&path, &format!("{generation}\n")) {
        tracing::warn!(path = %path.display(), %error, "generation not stored; the next start goes by the clock");
    }
    generation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_grow_even_if_the_clock_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(next_at(dir.path(), 1000), 1000);
        assert_eq!(next_at(dir.path(), 1000), 1001);
        assert_eq!(next_at(dir.path(), 5), 1002, "the clock was set back");
        assert_eq!(next_at(dir.path(), 2000), 2000);
    }

    #[test]
    fn without_a_usable_directory_the_clock_serves() {
        assert_eq!(next_at(Path::new("/proc/no/such/place"), 7), 7);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "garbage").unwrap();
        assert_eq!(next_at(dir.path(), 7), 7);
    }
}
