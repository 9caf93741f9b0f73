//! What is in the folder: names, texts, and cheap signs of change.
//!
//! Everything is bounded (files, bytes a file, bytes in all), and nothing but regular files is opened: a FIFO named
//! `x.yaml` must not hang the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{model::Problem, source::Limit};

/// Bytes of one file.
const MAX_FILE: u64 = 8 << 20;
/// Bytes of all files together.
const MAX_FOLDER: u64 = 64 << 20;
/// Files read; those after them by name are left out.
const MAX_FILES: usize = 20_000;

/// The texts of all manifests by file name; of one that cannot be read, why.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: BTreeMap<String, Result<String, Problem>>,
    /// Those beyond the limit, by name: there, and not read.
    pub(super) left_out: BTreeSet<String>,
    /// About the folder as a whole.
    pub(super) problems: Vec<Problem>,
    /// The limits that something went beyond.
    pub(super) limits: BTreeSet<Limit>,
}

/// Why a file's text is not there.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{1}")]
    TooLarge(Limit, String),
}

impl Listing {
    /// Reads all manifests; the error is a problem of the folder.
    pub(super) fn read(folder: &Path) -> Result<Self, Box<Problem>> {
        let mut names = names(folder).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "; create it, or correct source.manifests",
                io::ErrorKind::PermissionDenied => "; make it readable for the agent",
                _ => "",
            };
            let shown = folder.display();
            let message = format!("the manifest folder {shown} cannot be read: {error}{hint}; it is watched for");
            Box::new(Problem::of_file("", message))
        })?;
        let mut listing = Self::default();
        if let Some(first) = names.keys().nth(MAX_FILES).cloned() {
            listing.left_out = names.split_off(&first).into_keys().collect();
            let message =
                format!("more than {MAX_FILES} files: the last {} by name are left out", listing.left_out.len());
            listing.problems.push(Problem::of_file("", message));
            listing.limits.insert(Limit::Files);
        }
        let mut left = MAX_FOLDER;
        for (name, path) in names {
            let text = match read_text(&path, left) {
                // Gone between listing and reading.
                Err(Unread::Io(error))
                    if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() =>
                {
                    continue;
                }
                Err(error) => {
                    if let Unread::TooLarge(limit, _) = error {
                        listing.limits.insert(limit);
                    }
                    Err(Problem::of_file(&name, format!("cannot be read: {error}")))
                }
                Ok(text) => {
                    left = left.saturating_sub(text.len() as u64);
                    Ok(text)
                }
            };
            listing.files.insert(name, text);
        }
        if listing.files.is_empty() {
            let message = format!(
                "the manifest folder {} holds no *.yaml, *.yml or *.json file; that is taken for a mistake, so whatever was \
                 read before is served on; put the files back, or, to really have no service, leave one file in it, such \
                 as the IPAddressPool",
                folder.display()
            );
            listing.problems.push(Problem::of_file("", message));
        }
        Ok(listing)
    }
}

/// The manifests in the folder, sorted.
fn names(folder: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_manifest = !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"));
        if is_manifest && !path.is_dir() {
            names.insert(name, path);
        }
    }
    Ok(names)
}

fn read_text(path: &Path, left: u64) -> Result<String, Unread> {
    let refuse = |why: String| Unread::Io(io::Error::new(io::ErrorKind::InvalidData, why));
    if !fs::metadata(path)?.is_file() {
        return Err(refuse("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size > MAX_FILE {
        return Err(Unread::TooLarge(Limit::FileBytes, format!("larger than {} MiB; split it", MAX_FILE >> 20)));
    }
    if size > left {
        let why = format!("with it the folder would be larger than {} MiB", MAX_FOLDER >> 20);
        return Err(Unread::TooLarge(Limit::FolderBytes, why));
    }
    String::from_utf8(bytes)
        .map_err(|error| refuse(format!("not UTF-8 text (byte {})", error.utf8_error().valid_up_to())))
}

/// Device and inode of the folder at a path.
pub(super) fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What shows, without reading any file, that something has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(String, Option<Sign>)>);

/// Inode, size, and time of change in seconds and nanoseconds.
type Sign = (u64, u64, i64, i64);

impl Fingerprint {
    /// Of the folder now; `None` if it cannot be listed.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        let sign = |metadata: Metadata| (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        let names = names(folder).ok()?;
        Some(Self(names.into_iter().map(|(name, path)| (name, fs::metadata(path).ok().map(sign))).collect()))
    }
}
