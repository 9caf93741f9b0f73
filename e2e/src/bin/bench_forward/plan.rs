//! What the harness is told; see `e2e/ebpf`.

#[allow(dead_code, reason = "some of it is for the kernel program alone")]
#[path = "../../../ebpf/src/plan.rs"]
mod shared;

pub(crate) use shared::*;

// SAFETY: repr(C), made of integers alone (80 + 24 bytes, aligned to 8), so without padding.
unsafe impl aya::Pod for Plan {}

const _: () = assert!(size_of::<Plan>() == 104);
