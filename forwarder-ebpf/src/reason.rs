//! What is counted beside the services: why packets were dropped, which way they went, which flows were pushed out.

/// Why a packet to a VIP was dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Headers shorter than they say.
    Malformed = 0,
    /// A part of a packet whose first part was not carried here before it, or longer ago than hosts put packets together; or one to a
    /// translated backend.
    Fragment = 1,
    /// More IPv6 extension headers than are walked, or one that cannot be.
    Extension = 2,
    /// Neither TCP, UDP nor SCTP, nor ICMP that has a meaning for a VIP.
    Protocol = 3,
    /// The VIP has no such port, and the sender is not told ([`crate::Message::Reset`] and the like).
    NoService = 4,
    /// No usable pod, or no node to reach one.
    NoBackend = 5,
    /// Handed from node to node too often.
    TtlExpired = 6,
    /// The kernel refused to change the packet.
    Rewrite = 7,
    /// The flow could not be remembered: where it may lie, there are established connections in use.
    FlowTable = 8,
    /// The pod knows other live connections of the client's by each of the ports that were tried; with SCTP only its own is.
    ClientPort = 9,
    /// The client is outside the service's source ranges.
    SourceRange = 10,
    /// An ICMP error that is about no known connection of the VIP's.
    StrayError = 11,
    /// A [`crate::Stage`] of the program was not there.
    Stage = 12,
    /// All ports that were tried for a connection to a translated backend are taken.
    NatPort = 13,
    /// A translated packet could not be sent on: no way to where it goes, or by no uplink, or it is too large for it.
    NatRoute = 14,
    /// A packet to a translated backend, of no known connection: a reset, as a rule.
    NatStray = 15,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: u32 = 16;
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
        Self::NatPort,
        Self::NatRoute,
        Self::NatStray,
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
            Self::NatPort => "nat_port",
            Self::NatRoute => "nat_route",
            Self::NatStray => "nat_stray",
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
        for (number, direction) in Direction::ALL.into_iter().enumerate() {
            assert_eq!(direction as usize, number, "{}", direction.as_str());
        }
    }
}
