//! What is counted beside the services: why packets were dropped, which way they went, which flows were pushed out.

use crate::table::Standing;

/// Why a packet to a VIP was dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Headers shorter than they say.
    Malformed = 0,
    /// A part of a packet; only whole packets are forwarded.
    Fragment = 1,
    /// More IPv6 extension headers than are walked, or one that cannot be.
    Extension = 2,
    /// Neither TCP nor UDP.
    Protocol = 3,
    /// The VIP has no such port.
    NoService = 4,
    /// No usable pod, or no node to reach one.
    NoBackend = 5,
    /// Handed from node to node too often.
    TtlExpired = 6,
    /// The kernel refused to change the packet.
    Rewrite = 7,
    /// The flow could not be remembered: where it may lie, there are established connections in use.
    FlowTable = 8,
    /// The pod knows other live connections of the client's by each of the ports that were tried.
    ClientPort = 9,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: u32 = 10;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Malformed,
        Self::Fragment,
        Self::Extension,
        Self::Protocol,
        Self::NoService,
        Self::NoBackend,
        Self::TtlExpired,
        Self::Rewrite,
        Self::FlowTable,
        Self::ClientPort,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Extension => "extension",
            Self::Protocol => "protocol",
            Self::NoService => "no_service",
            Self::NoBackend => "no_backend",
            Self::TtlExpired => "ttl_expired",
            Self::Rewrite => "rewrite",
            Self::FlowTable => "flow_table",
            Self::ClientPort => "client_port",
        }
    }
}

/// Where second hops are counted in the map `EVENTS`, after the drops.
pub const SECOND_HOPS: u32 = DropReason::COUNT;
/// Entries of the map `EVENTS`.
pub const EVENTS: u32 = SECOND_HOPS + 1 + ShadowEvent::COUNT + Eviction::COUNT;

/// What became of a frame that a switch flooded to this node though it is addressed to a MAC that this node shadows.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShadowEvent {
    /// For a VIP, and carried in the owner's stead.
    Carried = SECOND_HOPS + 1,
    /// For a VIP, but not carried: not armed, stood down, or the agent is gone.
    Refused = SECOND_HOPS + 2,
    /// The owner's own business.
    Passed = SECOND_HOPS + 3,
}

impl ShadowEvent {
    /// How many there are.
    pub const COUNT: u32 = 3;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Carried, Self::Refused, Self::Passed];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Refused => "refused",
            Self::Passed => "passed",
        }
    }
}

/// What a flow was that made room for a new one, though it was not over.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eviction {
    /// TCP, closed by both ends within the last minute.
    Closed = SECOND_HOPS + 1 + ShadowEvent::COUNT,
    /// Of one packet, or a UDP flow without an answer.
    HalfOpen = SECOND_HOPS + 2 + ShadowEvent::COUNT,
    /// UDP.
    Datagrams = SECOND_HOPS + 3 + ShadowEvent::COUNT,
    /// Established TCP, silent for minutes.
    Quiet = SECOND_HOPS + 4 + ShadowEvent::COUNT,
}

impl Eviction {
    /// How many there are.
    pub const COUNT: u32 = 4;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Closed, Self::HalfOpen, Self::Datagrams, Self::Quiet];

    /// Whether, and as what, the loss of a flow is counted.
    #[inline(always)]
    #[must_use]
    pub const fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Free | Standing::Over | Standing::Kept => None,
            Standing::Closed => Some(Self::Closed),
            Standing::HalfOpen => Some(Self::HalfOpen),
            Standing::Datagrams => Some(Self::Datagrams),
            Standing::Quiet => Some(Self::Quiet),
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Datagrams => "datagrams",
            Self::Quiet => "quiet",
        }
    }
}

/// Which way a packet went, as seen from the node that counts it. A connection's packets are counted as
/// `Forwarded` by the node that hands them on, and as `Inbound` by the pod's node.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From a client, delivered to a pod of this node.
    Inbound = 0,
    /// From a pod of this node to a client.
    Outbound = 1,
    /// From a client, handed on to another node.
    Forwarded = 2,
}

impl Direction {
    /// How many there are.
    pub const COUNT: u32 = 3;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Inbound, Self::Outbound, Self::Forwarded];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Forwarded => "forwarded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_of_all() {
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{}", reason.as_str());
        }
        for (number, event) in (SECOND_HOPS + 1..).zip(ShadowEvent::ALL) {
            assert_eq!(event as u32, number, "{}", event.as_str());
        }
        for (number, event) in (EVENTS - Eviction::COUNT..EVENTS).zip(Eviction::ALL) {
            assert_eq!(event as u32, number, "{}", event.as_str());
        }
        for (number, direction) in Direction::ALL.into_iter().enumerate() {
            assert_eq!(direction as usize, number, "{}", direction.as_str());
        }
    }
}
