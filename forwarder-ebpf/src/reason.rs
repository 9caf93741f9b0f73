//! What is counted beside the services: why packets were dropped, and which way they went.

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
    /// Neither TCP nor UDP, nor ICMP that has a meaning for a VIP.
    Protocol = 3,
    /// The VIP has no such port, and the sender is not told ([`Message::Reset`], [`Message::Unreachable`]).
    NoService = 4,
    /// No usable pod, or no node to reach one.
    NoBackend = 5,
    /// Handed from node to node too often.
    TtlExpired = 6,
    /// The kernel refused to change the packet.
    Rewrite = 7,
    /// The flow could not be remembered.
    FlowTable = 8,
    /// The pod knows other live connections of the client's by each of the ports that were tried.
    ClientPort = 9,
    /// The client is outside the service's source ranges.
    SourceRange = 10,
    /// An ICMP error that is about no known connection of the VIP's.
    StrayError = 11,
    /// A [`crate::Stage`] of the program was not there.
    Stage = 12,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: u32 = 13;
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
        Self::SourceRange,
        Self::StrayError,
        Self::Stage,
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
            Self::SourceRange => "source_range",
            Self::StrayError => "stray_error",
            Self::Stage => "stage",
        }
    }
}

/// Where second hops are counted in the map `EVENTS`, after the drops.
pub const SECOND_HOPS: u32 = DropReason::COUNT;
/// Entries of the map `EVENTS`.
pub const EVENTS: u32 = SECOND_HOPS + 1 + ShadowEvent::COUNT + Message::COUNT;

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

/// What is said about VIPs and their connections beside what clients and pods say to each other.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Message {
    /// A ping of a VIP, answered by the kernel program.
    EchoReply = SECOND_HOPS + 1 + ShadowEvent::COUNT,
    /// An ICMP error about a connection of a VIP's, told to its pod on this node.
    Error = SECOND_HOPS + 2 + ShadowEvent::COUNT,
    /// A TCP segment to a port that the VIP does not have, answered by a reset.
    Reset = SECOND_HOPS + 3 + ShadowEvent::COUNT,
    /// A UDP datagram to such a port, answered by an ICMP error.
    Unreachable = SECOND_HOPS + 4 + ShadowEvent::COUNT,
    /// A question for a VIP by ARP or neighbour discovery, answered while no agent did.
    Neighbour = SECOND_HOPS + 5 + ShadowEvent::COUNT,
}

impl Message {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::EchoReply, Self::Error, Self::Reset, Self::Unreachable, Self::Neighbour];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EchoReply => "echo_reply",
            Self::Error => "error",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Neighbour => "neighbour",
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
        for (number, message) in (EVENTS - Message::COUNT..EVENTS).zip(Message::ALL) {
            assert_eq!(message as u32, number, "{}", message.as_str());
        }
        for (number, direction) in Direction::ALL.into_iter().enumerate() {
            assert_eq!(direction as usize, number, "{}", direction.as_str());
        }
    }
}
