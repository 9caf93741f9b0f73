//! What lies in the maps of flows, which outlive the agent: whoever changes these, or what [`crate::table`] makes of them, raises
//! [`LAYOUT_VERSION`].

use crate::{
    Address,
    table::{State, WAYS},
};

/// Version of the layouts that outlive an agent (flows). Part of the pins' names.
pub const LAYOUT_VERSION: u32 = 5;

/// A connection to one of this node's pods: a cache line. What is known without looking at it is in its [`State`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// A [`Grant`]. One word, so that whoever reads it reads it whole.
    pub grant: u64,
    /// The client's address.
    pub client: Address,
    /// The VIP.
    pub vip: Address,
    /// The client's own port, network order.
    pub client_port: [u8; 2],
    /// The service's port, network order.
    pub port: [u8; 2],
    /// [`crate::TCP`], [`crate::UDP`] or [`crate::SCTP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// The pod's index among the backends when it was chosen, below [`crate::limits::BACKENDS`].
    pub backend: u16,
    /// The pod's [`crate::BackendEntry::tag`].
    pub tag: u32,
    /// Which [`crate::Counter`] the pod has, if that has its tag.
    pub counted: u32,
    /// Seconds of the kernel's monotonic clock when the client was last heard.
    pub seen: u32,
    /// Microseconds of the kernel's monotonic clock when the client began to connect, going round in 71 minutes; 0: the
    /// pod has answered, or it is not known.
    pub begun: u32,
}

/// What decides where a client's packets go. It is found by comparing the flow's ends, which another CPU may be
/// replacing at that moment; therefore it names, by a hash, the flow that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The pod's index in the map `PODS`.
    pub pod: u16,
    /// The client's port as the pod sees it, network order: its own, unless the pod has that from the same client already.
    pub client_port: [u8; 2],
    /// [`crate::table::Home::guard`] of the flow.
    pub guard: u32,
}

impl Grant {
    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.pod as u64 | ((u16::from_le_bytes(self.client_port) as u64) << 16) | ((self.guard as u64) << 32)
    }

    /// From one word.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { pod: word as u16, client_port: ((word >> 16) as u16).to_le_bytes(), guard: (word >> 32) as u32 }
    }
}

/// The states of the places where flows of the same bucket lie: a cache line of [`State`]s.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStates {
    /// The states.
    pub states: [u32; WAYS as usize],
}

/// A pod's socket to which flows lead. The kernel program enters it itself, so that flows neither depend on what the
/// agent says of their pod now, nor on how a successor numbers the pods. A cache line; what is beyond its first half only
/// translated connections look at.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's address.
    pub address: Address,
    /// The pod's port, network order.
    pub port: [u8; 2],
    /// [`Pod::DIRECT`] or [`Pod::TRANSLATED`].
    pub way: [u8; 2],
    /// [`Pod::FREE`], [`Pod::BUSY`], [`Pod::THERE`].
    pub state: u32,
    /// Seconds of the kernel's monotonic clock when a flow to it was last heard.
    pub seen: u32,
    /// Zero.
    pub rest: u32,
    /// This node's address that the pod knows in the clients' place, if it is [`Pod::TRANSLATED`]; else zero.
    pub own: Address,
    /// Zero.
    pub spare: [u8; 16],
}

impl Pod {
    /// It sees the client's address, and its replies leave by an uplink.
    pub const DIRECT: [u8; 2] = [0, 0];
    /// It sees this node's address, and its replies come in by an uplink.
    pub const TRANSLATED: [u8; 2] = [1, 0];
    /// No pod yet.
    pub const FREE: u32 = 0;
    /// Being written.
    pub const BUSY: u32 = 1;
    /// A pod.
    pub const THERE: u32 = 2;
}

const _: () = assert!(size_of::<Flow>() == 64);
const _: () = assert!(size_of::<FlowStates>() == 64);
const _: () = assert!(size_of::<State>() * WAYS as usize == size_of::<FlowStates>());
const _: () = assert!(size_of::<Pod>() == 64);
const _: () = assert!(crate::limits::BACKENDS <= 1 << 16 && crate::limits::PODS <= 1 << 16);
