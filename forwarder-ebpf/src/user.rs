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
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../obj/crier.o");

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
