//! Asks for every VIP on the wire, as a client would: an owner that is up and silent is the failure nobody sees.
//!
//! Every few seconds one peer resolves each VIP. [`assign`] says who tests what: alike on all nodes, the candidate that
//! ranks next behind the owner, so that whoever finds an owner silent may rightly replace it. [`tester`] is the pure core
//! that asks and judges: jobs, frames and time in, questions and [`Verdicts`] out. It is made of [`trial`] (the rounds of
//! one VIP) and [`question`] (frames). `io` holds the sockets and the thread.
//!
//! ```text
//! unicast to the owner, each 12th round to all --answered by the owner----------------> fine
//!   |--answered by another MAC; again, a second later-------------------------------> reported, the owner told
//!   |--unanswered: 3 times more, to all; and the owner's own address is asked for
//!        |--that is answered: silent-------> reported; again, the next round--------> replaced
//!        |--that is not: the segment's matter, or the membership's----------------> reported
//! ```
//! A question has the tester's own addresses as its sender, so it claims nothing and neighbour caches learn only what is true.

pub mod assign;
mod io;
pub mod question;
pub mod tester;
pub mod trial;
pub mod vigil;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use membership::NodeName;

use crate::wire::MacAddr;
pub use assign::Scene;
pub use io::{Scenes, SelfTest, start};

/// What a round of questions for one VIP came to; a label of `crier_vip_selftest_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// By the owner, and nobody else.
    Answered,
    /// Not by anybody, though the owner answers for its own address: its announcer has failed.
    Silent,
    /// Neither is the owner's own address, though another peer's is.
    Unreachable,
    /// Nor is any other: this node's own link is in doubt.
    Deaf,
    /// By another member, whether or not the owner answers too.
    OtherMember,
    /// By a machine outside the cluster, whether or not the owner answers too.
    Foreign,
}

impl Outcome {
    /// Every outcome, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Answered, Self::Silent, Self::Unreachable, Self::Deaf, Self::OtherMember, Self::Foreign];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Deaf => "deaf",
            Self::OtherMember => "other_member",
            Self::Foreign => "foreign",
        }
    }

    /// Whether somebody else than the owner answered.
    #[must_use]
    pub fn is_dispute(self) -> bool {
        matches!(self, Self::OtherMember | Self::Foreign)
    }
}

/// What is wrong with a VIP, as this node found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Who should answer.
    pub owner: NodeName,
    /// On which of this node's uplinks it was asked for.
    pub interface: String,
    /// What happened instead.
    pub outcome: Outcome,
    /// Who else answered: Ethernet addresses, and the member with it. At most [`trial::STRANGERS`].
    pub others: BTreeMap<MacAddr, Option<NodeName>>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, interface) = (&self.owner, &self.interface);
        match self.outcome {
            Outcome::Answered => write!(f, "its owner {owner} answers on {interface}"),
            Outcome::Silent => {
                write!(f, "its owner {owner} does not answer for it on {interface}, but does for its own address")
            }
            Outcome::Unreachable => write!(f, "its owner {owner} cannot be reached on {interface}, another node can"),
            Outcome::Deaf => write!(f, "neither its owner {owner} nor another node can be reached on {interface}"),
            Outcome::OtherMember | Outcome::Foreign => {
                write!(f, "not only its owner {owner} answers for it on {interface}:")?;
                for (mac, node) in &self.others {
                    match node {
                        Some(node) => write!(f, " {node} ({mac})")?,
                        None => write!(f, " {mac}, which is outside the cluster")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// What ownership has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// VIPs whose owner, by its claim of that epoch, has been silent for long enough.
    pub replace: BTreeMap<IpAddr, Silence>,
    /// Members whose agents restart, and whose machines do not answer either.
    pub gone: BTreeSet<NodeName>,
    /// For the peers to know.
    pub findings: membership::Findings,
}

/// An owner that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// The owner.
    pub owner: NodeName,
    /// The epoch of its claim.
    pub epoch: u64,
    /// In how many rounds one after another; so each is a change of the verdicts.
    pub rounds: u32,
}

/// What people may want to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// How many VIPs this node tests.
    pub tested: usize,
    /// How many VIPs this node owns that nobody can test: no peer has an address on their segment.
    pub untested: usize,
    /// The rounds that came to an end, by outcome.
    pub rounds: BTreeMap<Outcome, u64>,
    /// The VIPs that are not in order.
    pub troubles: BTreeMap<IpAddr, Trouble>,
    /// How often there was more to tell the peers than they are told, by what.
    pub limits: BTreeMap<&'static str, u64>,
}

/// The nodes with these addresses.
pub type Directory = BTreeMap<MacAddr, NodeName>;

/// The addresses that are asked for beside VIPs, and whose they are.
pub type Controls = BTreeMap<IpAddr, BTreeSet<MacAddr>>;
