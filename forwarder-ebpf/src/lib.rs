//! What the kernel program and the agent share: map layouts, names, limits, the flow hash and drop reasons.
//!
//! `kernel/` beside this library is the eBPF program itself, a package outside the workspace; `obj/` holds it
//! built, so that a plain stable `cargo build` needs no eBPF toolchain. `hack/build-ebpf` builds the object anew,
//! `hack/check-ebpf` proves that it belongs to the sources.
//!
//! Reading order: [`layout`] (what lies in the maps), [`vips`] and [`directory`] (where a service is found), [`steer`] (which slot a
//! connection hashes to), [`flow`] and [`table`] (how and where a connection is remembered), [`describe`] (how a successor reads that),
//! [`counter`], [`reason`] and [`event`] (what is counted), [`Stage`] (the program's parts), then `kernel/src/main.rs`.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

#[cfg(test)]
extern crate std;

pub mod counter;
pub mod describe;
pub mod directory;
pub mod event;
pub mod flow;
pub mod layout;
mod lease;
pub mod limits;
pub mod reason;
mod slot;
mod stage;
pub mod steer;
pub mod table;
pub mod vips;

#[cfg(feature = "user")]
mod user;

pub use counter::{Counter, Handed, Waits};
pub use event::{AFFINITIES_ADDED, EVENTS, Eviction, Message, SECOND_HOPS, ShadowEvent};
pub use flow::*;
pub use layout::*;
pub use lease::{Lease, OwnedVip};
pub use reason::{Direction, DropReason};
pub use slot::NodeSlot;
pub use stage::{Predecessor, Stage};
#[cfg(feature = "user")]
pub use user::OBJECT;

/// Names of the programs in the object.
pub mod program {
    /// TC ingress: from the wire.
    pub const INGRESS: &str = "crier_ingress";
    /// TC egress: to the wire.
    pub const EGRESS: &str = "crier_egress";
    /// XDP: what is handed on to other nodes, before the stack sees it.
    pub const XDP: &str = "crier_xdp";
}

/// Names of the constants that the agent sets before it loads the object.
pub mod constant {
    /// `u32`: buckets of the flow table.
    pub const FLOW_BUCKETS: &str = "FLOW_BUCKETS";
    /// `u32`: the first of the ports from which connections to translated backends come.
    pub const NAT_FIRST: &str = "NAT_FIRST";
    /// `u32`: how many of them there are.
    pub const NAT_PORTS: &str = "NAT_PORTS";
}

/// Names of the maps in the object.
pub mod map {
    /// Array of programs, by [`crate::Stage`] and [`crate::Predecessor`].
    pub const STAGES: &str = "STAGES";
    /// Array of one [`crate::Uplinks`].
    pub const UPLINKS: &str = "UPLINKS";
    /// Hash: address to a word that is not looked at.
    pub const VIPS: &str = "VIPS";
    /// Array of `u64`: bits of addresses that may be in [`VIPS`], see [`crate::vips`].
    pub const VIP_BITS: &str = "VIP_BITS";
    /// Array of [`crate::Bucket`]: [`crate::ServiceKey`]s to numbers of [`crate::ServiceEntry`]s.
    pub const DIRECTORY: &str = "DIRECTORY";
    /// Array of [`crate::ServiceEntry`].
    pub const SERVICES: &str = "SERVICES";
    /// Longest prefix match: [`crate::Source`]s to a word that is not looked at.
    pub const SOURCES: &str = "SOURCES";
    /// Array of [`crate::Row`].
    pub const ROWS: &str = "ROWS";
    /// Array of [`crate::NodeEntry`], by [`crate::node_entry_index`].
    pub const NODES: &str = "NODES";
    /// Hash: other nodes' [`crate::node_mac_key`]s to [`crate::node_entry_index`]es.
    pub const NODE_MACS: &str = "NODE_MACS";
    /// Array of [`crate::BackendEntry`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Array of [`crate::Flow`]: [`crate::table::WAYS`] for each bucket.
    pub const FLOWS: &str = "FLOWS";
    /// Array of [`crate::FlowStates`].
    pub const FLOW_STATES: &str = "FLOW_STATES";
    /// Hash that pushes out the least recently used: [`crate::AffinityKey`] to [`crate::Affinity`].
    pub const AFFINITIES: &str = "AFFINITIES";
    /// Array of [`crate::Pod`].
    pub const PODS: &str = "PODS";
    /// Array of one [`crate::describe::Text`]: what the maps that outlive an agent look like.
    pub const LAYOUT: &str = "LAYOUT";
    /// Per-CPU array of [`crate::Counter`]: the services', then the pods'.
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash: [`crate::BackendEntry::tag`] of a pod to the number of its [`crate::Counter`].
    pub const COUNTED: &str = "COUNTED";
    /// Per-CPU array of [`crate::Handed`], by a service's number.
    pub const HANDED: &str = "HANDED";
    /// Array of [`crate::Waits`], by a service's number.
    pub const WAITS: &str = "WAITS";
    /// Hash: [`crate::ShadowKey`] to [`crate::Shadow`].
    pub const SHADOWS: &str = "SHADOWS";
    /// Hash: [`crate::ShadowedVip`] to a word that is not looked at.
    pub const SHADOWED_VIPS: &str = "SHADOWED_VIPS";
    /// Array of [`crate::ShadowState`], by [`crate::Shadow::slot`].
    pub const SHADOW_STATES: &str = "SHADOW_STATES";
    /// Hash: [`crate::OwnedVip`] to the time (nanoseconds of the monotonic clock) at which another's announcement was heard.
    pub const OWNED: &str = "OWNED";
    /// Array of one [`crate::Lease`].
    pub const LEASE: &str = "LEASE";
    /// Ring buffer: the slot (`u32`) of each shadowed MAC to which a flood begins.
    pub const FLOODS: &str = "FLOODS";
    /// Per-CPU array of `u64`: drops by [`crate::DropReason`], then second hops, then [`crate::ShadowEvent`]s, then
    /// [`crate::Message`]s, then [`crate::Eviction`]s, then [`crate::AFFINITIES_ADDED`].
    pub const EVENTS: &str = "EVENTS";
}
