//! What is counted beside the services' packets, by number in the map `EVENTS`: drops by [`DropReason`], then what is here.

use crate::{DropReason, table::Standing};

/// Where second hops are counted in the map `EVENTS`, after the drops.
pub const SECOND_HOPS: u32 = DropReason::COUNT;
const SHADOW: u32 = SECOND_HOPS + 1;
const MESSAGES: u32 = SHADOW + ShadowEvent::COUNT;
const EVICTIONS: u32 = MESSAGES + Message::COUNT;
/// Where clients are counted that were not remembered for their service's affinity before, after the evictions.
pub const AFFINITIES_ADDED: u32 = EVICTIONS + Eviction::COUNT;
/// Entries of the map `EVENTS`.
pub const EVENTS: u32 = AFFINITIES_ADDED + 1;

/// What became of a frame that a switch flooded to this node though it is addressed to a MAC that this node shadows.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShadowEvent {
    /// For a VIP, and carried in the owner's stead.
    Carried = SHADOW,
    /// For a VIP, but not carried: not armed, stood down, or the agent is gone.
    Refused = SHADOW + 1,
    /// The owner's own business.
    Passed = SHADOW + 2,
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
    EchoReply = MESSAGES,
    /// An ICMP error about a connection of a VIP's, told to its pod on this node.
    Error = MESSAGES + 1,
    /// A TCP segment to a port that the VIP does not have, answered by a reset.
    Reset = MESSAGES + 2,
    /// A UDP datagram to such a port, answered by an ICMP error.
    Unreachable = MESSAGES + 3,
    /// A question for a VIP by ARP or neighbour discovery, answered while no agent did.
    Neighbour = MESSAGES + 4,
    /// An SCTP packet to a port that the VIP does not have, answered by an abort.
    Abort = MESSAGES + 5,
}

impl Message {
    /// How many there are.
    pub const COUNT: u32 = 6;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::EchoReply, Self::Error, Self::Reset, Self::Unreachable, Self::Neighbour, Self::Abort];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EchoReply => "echo_reply",
            Self::Error => "error",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Neighbour => "neighbour",
            Self::Abort => "abort",
        }
    }
}

/// What a flow was that made room for a new one, though it was not over.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eviction {
    /// TCP, closed by both ends within the last minute.
    Closed = EVICTIONS,
    /// Of one packet, or a UDP flow without an answer.
    HalfOpen = EVICTIONS + 1,
    /// UDP.
    Datagrams = EVICTIONS + 2,
    /// Established TCP, silent for minutes.
    Quiet = EVICTIONS + 3,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_of_all() {
        let shadow = ShadowEvent::ALL.map(|event| event as u32);
        let (messages, evictions) = (Message::ALL.map(|message| message as u32), Eviction::ALL.map(|gone| gone as u32));
        let all = shadow.into_iter().chain(messages).chain(evictions);
        assert!(all.chain([AFFINITIES_ADDED]).eq(SECOND_HOPS + 1..EVENTS));
    }
}
