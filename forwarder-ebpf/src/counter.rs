//! What is counted of connections: by pod, by service, and how long clients wait for a pod's first answer.

use crate::Direction;

/// What went by for one of a service's pods here, or for a service: of pods without a counter of their own, or no more.
/// A cache line, for both directions.
///
/// Counters are given to other pods after a while, and a successor of the agent gives them anew, while flows live for
/// days. So a counter says whose it is, and a flow that names one which is not its pod's is counted elsewhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// The pod's [`crate::BackendEntry::tag`]; 0: a service's, or nobody's.
    pub tag: u32,
    /// Opening packets that clients have repeated.
    pub retransmits: u32,
    /// Connections begun.
    pub flows: u64,
    /// Packets as on the wire (segments, where the kernel carries many as one): [`Direction::Inbound`],
    /// [`Direction::Outbound`].
    pub packets: [u64; 2],
    /// Bytes with link-layer headers, likewise.
    pub bytes: [u64; 2],
    /// Connections that a reset ended, likewise: from the client, from the pod.
    pub resets: [u64; 2],
}

const _: () = assert!(Direction::Inbound as usize == 0 && Direction::Outbound as usize == 1);

/// What was handed on to other nodes for a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Packets, as [`Counter::packets`].
    pub packets: u64,
    /// Bytes with link-layer headers.
    pub bytes: u64,
}

/// How long clients of a service waited from their opening packet until a pod accepted, as this node saw both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Microseconds together.
    pub micros: u64,
    /// How many waited not longer than [`Waits::bound`] says, but longer than the one before; the last: longer than all.
    pub counts: [u64; Self::BOUNDS as usize + 1],
}

impl Waits {
    /// How many bounds there are: 64 microseconds to 4.2 seconds, each twice the one before.
    pub const BOUNDS: u32 = 17;

    /// A bound in microseconds.
    #[inline(always)]
    #[must_use]
    pub const fn bound(number: u32) -> u64 {
        64 << number
    }
}

const _: () = assert!(size_of::<Counter>() == 64);
const _: () = assert!(size_of::<Handed>() == 16);
const _: () = assert!(size_of::<Waits>() == 152);
