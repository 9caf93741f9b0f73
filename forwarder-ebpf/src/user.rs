//! For the agent: the object, and leave to copy the layouts to and from maps.

use crate::{
    counter::{Counter, Handed, Waits},
    flow::{Flow, FlowStates, Pod},
    layout::{
        Affinity, AffinityKey, BackendEntry, Bucket, NodeEntry, Row, ServiceEntry, ServiceKey, Shadow, ShadowKey,
        ShadowState, ShadowedVip, Source, Uplinks,
    },
    lease::{Lease, OwnedVip},
};

/// The built eBPF object; `hack/build-ebpf` makes it from `kernel/`.
#[cfg(not(feature = "other-layout"))]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../obj/crier.o");
/// The same with the other layout, for tests.
#[cfg(feature = "other-layout")]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../obj/crier-other.o");

macro_rules! words {
    ($($record:ty),*) => {$(
        impl $record {
            /// As it lies in memory.
            #[must_use]
            pub fn words(self) -> [u64; size_of::<Self>() / 8] {
                // SAFETY: made of integers and arrays of them alone, without padding, and of the same size.
                unsafe { core::mem::transmute(self) }
            }

            /// From what lies in memory.
            #[must_use]
            pub fn from_words(words: [u64; size_of::<Self>() / 8]) -> Self {
                // SAFETY: every bit pattern is a value.
                unsafe { core::mem::transmute(words) }
            }
        }
    )*};
}

words!(Flow, Pod);

macro_rules! pod {
    ($($layout:ty),*) => {$(
        // SAFETY: repr(C), made of integers and arrays of them alone, without padding (sizes are asserted beside
        // the definitions), so every bit pattern is a value and every byte is initialised.
        unsafe impl aya::Pod for $layout {}
    )*};
}

pod!(
    Affinity,
    AffinityKey,
    BackendEntry,
    Bucket,
    Counter,
    Flow,
    FlowStates,
    Handed,
    NodeEntry,
    Pod,
    Row,
    ServiceEntry,
    ServiceKey,
    Shadow,
    ShadowKey,
    ShadowState,
    ShadowedVip,
    Source
);
pod!(Lease, OwnedVip, Uplinks, Waits);
