//! The BPF file system, where what must outlive the agent is pinned.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::StartError;

/// Where distributions mount it.
const USUAL: &str = "/sys/fs/bpf";

/// Makes the directory, on a BPF file system; mounts one if there is none: at the usual place if the directory lies
/// below it, else on the directory itself.
pub(super) fn prepare(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::NoBpffs { path: path.to_owned(), source };
    let mount_point = if path.starts_with(USUAL) { Path::new(USUAL) } else { path };
    fs::create_dir_all(mount_point).map_err(failed)?;
    // A path below the usual place may also be on a BPF file system that is mounted deeper.
    let _ = fs::create_dir_all(path);
    if is_bpffs(path).map_err(failed).unwrap_or(false) {
        return Ok(());
    }
    mount(Some("bpf"), mount_point, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
        .map_err(|errno| failed(errno.into()))?;
    fs::create_dir_all(path).map_err(failed)
}

/// Whether a path is on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}
