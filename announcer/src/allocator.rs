//! How the C library's allocator is set for an agent that lives for months.
//!
//! glibc gives every thread a heap of its own (eight for each processor), keeps what was freed in each, and as soon as a large
//! buffer has been freed once puts such buffers among the small ones. An agent that reads thousands of objects on whichever thread is
//! free then keeps two to four times of what it uses. It is not an agent's allocations that must be fast, so: one heap, and
//! what is large comes from the kernel and goes back to it. Other allocators (musl's) are left as they are.

/// Sets it. To be called before there are threads, which is when heaps are chosen.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        // Bytes; setting them also ends their growth.
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 1 << 20),
    ] {
        // SAFETY: it takes two numbers and changes the allocator's settings under the allocator's own lock. A setting that is refused
        // leaves the one before.
        unsafe { libc::mallopt(option, value) };
    }
}
