//! Arrays of the kernel's in this process's memory, while the kernel's programs work on them too.

use std::{
    io,
    num::NonZeroUsize,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Records of an array that was made to be mapped, one after another. They begin on multiples of eight bytes.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
}

// SAFETY: a mapping is the process's, no thread's; what lies there is only ever reached atomically, or copied.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// A whole array, whose records have so many bytes, to be read and changed.
    pub(super) fn of(map: &MapData, record: u32) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() != record {
            return Err(io::Error::other(format!("records of {} bytes, not {record}", info.value_size())));
        }
        Self::map(map, record as usize, 0..info.max_entries(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// `count` records from `first` on, which begins a page, to be read only: nothing in them may be changed.
    pub(super) fn piece<T: aya::Pod>(map: &MapData, first: u32, count: u32) -> io::Result<Self> {
        Self::map(map, size_of::<T>(), first..first + count, ProtFlags::PROT_READ)
    }

    fn map(map: &MapData, record: usize, records: Range<u32>, may: ProtFlags) -> io::Result<Self> {
        let stride = record.next_multiple_of(8);
        let offset = stride.checked_mul(records.start as usize).and_then(|offset| offset.try_into().ok());
        let bytes = stride.checked_mul(records.len()).and_then(NonZeroUsize::new);
        let (offset, bytes) = offset.zip(bytes).ok_or_else(|| io::Error::other("an empty map"))?;
        // SAFETY: a new mapping, at a place that the kernel chooses; it maps no more than there is of the array.
        let start = unsafe { mmap(None, bytes, may, MapFlags::MAP_SHARED, map.fd(), offset) }?;
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

    /// The half word there; beyond the end, zero.
    pub(super) fn half_word(&self, at: u32) -> u32 {
        self.half_words().get(at as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// A copy of a record, which the kernel's programs may be changing: of parts that belong together, perhaps.
    pub(super) fn copy<T: aya::Pod>(&self, number: u32) -> Option<T> {
        let at = size_of::<T>().next_multiple_of(8).checked_mul(number as usize)?;
        let is_there = at.checked_add(size_of::<T>())? <= self.bytes.get() && align_of::<T>() <= 8;
        // SAFETY: mapped while `self` lives, and aligned; any bytes are a value (`aya::Pod`).
        is_there.then(|| unsafe { self.start.byte_add(at).cast::<T>().read_volatile() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and nobody has a reference to it any more.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}
