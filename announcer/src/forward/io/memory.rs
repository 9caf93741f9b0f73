//! A map of the kernel's in this process's memory, while the kernel's programs work on it too.

use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// An array that was made to be mapped. Its records begin on multiples of eight bytes.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
}

// SAFETY: a mapping is the process's, no thread's; what lies there is only ever reached atomically.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Of an array whose records have so many bytes.
    pub(super) fn of(map: &MapData, record: u32) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() != record {
            return Err(io::Error::other(format!("records of {} bytes, not {record}", info.value_size())));
        }
        let bytes = (record as usize).next_multiple_of(8).checked_mul(info.max_entries() as usize);
        let bytes = bytes.and_then(NonZeroUsize::new).ok_or_else(|| io::Error::other("an empty map"))?;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map.fd(), 0)
        }?;
        Ok(Self { start, bytes })
    }

    /// All of it, as words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, begins with a page, so is aligned, and is a whole number of words; others
        // change it as atomically as this process.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes.get() / size_of::<AtomicU64>()) }
    }

    /// All of it, as half words.
    pub(super) fn half_words(&self) -> &[AtomicU32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes.get() / size_of::<AtomicU32>()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `of`, and nobody has a reference to it any more.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}
