//! The parts of the programs that few packets need.

/// A part of the ingress or egress program that is a program of its own, reached by a tail call: it has a stack of its own, and the
/// kernel's verifier looks at it by itself. It reads the packet anew, so that nothing has to be handed over.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A packet without a flow here: another node's, or a pod's from now on.
    Connect = 0,
    /// ICMP and ICMPv6.
    Icmp = 1,
    /// A packet to a port that the VIP does not have.
    Refuse = 2,
    /// ARP and neighbour discovery.
    Answer = 3,
    /// A packet to a backend whose connections are translated.
    Translate = 4,
    /// A packet to this node itself, by an uplink: a translated backend's?
    Return = 5,
    /// An ICMP error about a translated connection, from either side.
    TranslatedError = 6,
    /// A part of a packet to a VIP.
    Fragment = 7,
    /// The first part of a packet without a flow here, as [`Stage::Connect`].
    FragmentConnect = 8,
    /// A part of a packet on its way out.
    FragmentOut = 9,
}

/// Where the same array leads to a predecessor's programs, while its flows are taken over: with what it may know, and this
/// program does not yet. They are told apart so that they can end one after another.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Predecessor {
    /// From the wire, what may begin a connection.
    Beginning = Stage::COUNT,
    /// From the wire, all else.
    Ongoing = Stage::COUNT + 1,
    /// To the wire.
    Leaving = Stage::COUNT + 2,
}

impl Predecessor {
    /// How many there are.
    pub const COUNT: u32 = 3;
    /// All of them.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Beginning, Self::Ongoing, Self::Leaving];
}

impl Stage {
    /// How many there are.
    pub const COUNT: u32 = 10;
    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Connect,
        Self::Icmp,
        Self::Refuse,
        Self::Answer,
        Self::Translate,
        Self::Return,
        Self::TranslatedError,
        Self::Fragment,
        Self::FragmentConnect,
        Self::FragmentOut,
    ];

    /// The program's name in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Connect => "crier_connect",
            Self::Icmp => "crier_icmp",
            Self::Refuse => "crier_refuse",
            Self::Answer => "crier_answer",
            Self::Translate => "crier_translate",
            Self::Return => "crier_return",
            Self::TranslatedError => "crier_nat_error",
            Self::Fragment => "crier_fragment",
            Self::FragmentConnect => "crier_frag_new",
            Self::FragmentOut => "crier_frag_out",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_of_all() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number, "{}", stage.program());
        }
        assert!(
            Predecessor::ALL.into_iter().map(|slot| slot as u32).eq(Stage::COUNT..Stage::COUNT + Predecessor::COUNT)
        );
    }
}
