//! What is done to an agent's disk: one that is full, and one that hangs.
//!
//! Both are file systems of their own, mounted on the agent's state folder while the agent does not run: a tmpfs of a
//! few pages, and an ext4 on a loop device, which can be frozen (ioctl_fsfreeze): then who writes waits, for ever.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// A file system mounted on a folder; unmounted, and let go first if it hangs, on Drop.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// So small that a file can fill it: 64 KiB.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn tiny(folder: &Path) -> Result<Self> {
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", text(folder)?])?;
        Ok(Self { folder: folder.to_owned(), image: None })
    }

    /// One that can hang: 16 MiB.
    ///
    /// # Errors
    /// Without loop devices or the programs for ext4.
    pub fn that_may_hang(folder: &Path) -> Result<Self> {
        let image = folder.with_extension("img");
        File::create(&image)?.set_len(16 << 20)?;
        run("mkfs.ext4", &["-q", "-F", text(&image)?])?;
        run("mount", &["-o", "loop", text(&image)?, text(folder)?])?;
        Ok(Self { folder: folder.to_owned(), image: Some(image) })
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When writing fails for another reason than a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.folder.join("ballast"))?;
        // Page by page, and the rest byte by byte.
        for chunk in [[0_u8; 4096].as_slice(), &[0]] {
            loop {
                match ballast.write_all(chunk) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!(error),
                }
            }
        }
        Ok(())
    }

    /// Whoever writes to it waits from now on.
    ///
    /// # Errors
    /// When the file system cannot be frozen.
    pub fn hang(&self) -> Result<()> {
        run("fsfreeze", &["--freeze", text(&self.folder)?])
    }

    /// It works again.
    ///
    /// # Errors
    /// When it did not hang.
    pub fn resume(&self) -> Result<()> {
        run("fsfreeze", &["--unfreeze", text(&self.folder)?])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            // Unmounting a file system that hangs would hang as well; one that does not hang refuses this.
            let _ = self.resume();
        }
        if let Some(folder) = self.folder.to_str()
            && let Err(error) = run("umount", &["--lazy", folder])
        {
            eprintln!("testbed: {error:#}");
        }
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// Whether a disk that hangs can be made here; if not, why.
///
/// # Errors
/// The reason.
pub fn can_hang() -> Result<()> {
    for program in ["mkfs.ext4", "fsfreeze", "losetup"] {
        ensure!(
            Command::new(program).arg("--version").output().is_ok() || Command::new(program).arg("-V").output().is_ok(),
            "{program} is not installed"
        );
    }
    run("losetup", &["--find"]).context("no loop device is to be had")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not text")
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", arguments.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_no_byte_more_and_goes_when_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        {
            let disk = Disk::tiny(folder.path()).expect("needs root");
            disk.fill().expect("fills");
            let one_more = fs::write(folder.path().join("more"), "x").map_err(|error| error.kind());
            assert_eq!(one_more, Err(ErrorKind::StorageFull));
        }
        assert!(!folder.path().join("ballast").exists(), "unmounted");
    }
}
