//! A virtual machine with nothing but an initramfs: makes it ready, and switches it off.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// The modules' paths, one a line, each after those it needs.
const MODULES: &str = "/modules.list";

/// Mounts what programs expect, and loads the modules.
pub(crate) fn prepare() -> Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("bpf", "/sys/fs/bpf")] {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    for place in ["/run", "/tmp"] {
        fs::create_dir_all(place)?;
    }
    for module in fs::read_to_string(MODULES)?.lines() {
        load(module).with_context(|| format!("cannot load {module}"))?;
    }
    Ok(())
}

/// The kernel's release, such as `6.1.0-50-cloud-amd64`.
pub(crate) fn release() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

fn load(module: &str) -> Result<()> {
    let file = File::open(Path::new(module))?;
    // SAFETY: the descriptor is open, and the parameters are an empty C string that lives as long as the program.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    // Built in, or loaded by another.
    if done != 0 && error.raw_os_error() != Some(libc::EEXIST) {
        return Err(error.into());
    }
    Ok(())
}

/// Ends the machine; the first process must not end before.
pub(crate) fn switch_off() -> ExitCode {
    // SAFETY: takes no pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    ExitCode::FAILURE
}
