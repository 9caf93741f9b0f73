//! What takes an instruction that the compiler does not write by itself.

use core::arch::asm;

/// Compares and exchanges a word: whether it was what it should be. In assembly, since the target's standard library
/// has no such operation.
#[inline(always)]
pub fn compare_exchange(word: *mut u32, old: u32, new: u32) -> bool {
    let found: u64;
    // SAFETY: an aligned word in a map; the kernel's instruction of that name, known since Linux 5.12.
    unsafe {
        asm!("w0 = cmpxchg32_32(r1 + 0, w0, w2)", inout("r0") old as u64 => found, in("r1") word, in("r2") new as u64);
    }
    found as u32 == old
}

/// Writes a word after all that was written before, which a plain write need not on every processor.
#[inline(always)]
pub fn publish(word: *mut u32, new: u32) {
    // SAFETY: as above.
    unsafe { asm!("w2 = xchg32_32(r1 + 0, w2)", in("r1") word, inout("r2") new as u64 => _) };
}

/// Adds to a word that other CPUs add to.
#[inline(always)]
pub fn add(word: *mut u64, more: u64) {
    // SAFETY: an aligned word in a map; the kernel has known the instruction from the beginning.
    unsafe { asm!("lock *(u64 *)(r1 + 0) += r2", in("r1") word, in("r2") more) };
}

/// Counts a loop's turns so that the compiler does not see how many there will be: written out one after another, they
/// need more of the stack than there is. By an instruction: without one, the debugger's lines of this and of what follows would be
/// the same instruction's, which the kernel refuses.
#[inline(always)]
pub fn once_more(mut turn: u32) -> u32 {
    // SAFETY: an addition.
    unsafe { asm!("{0} += 1", inout(reg) turn, options(nomem, nostack, preserves_flags)) };
    turn
}
