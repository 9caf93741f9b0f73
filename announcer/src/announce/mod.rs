//! Answers ARP and NDP for the VIPs that this node owns, and tells the segment when it takes one over.
//!
//! The agent hands the whole set of VIPs to announce to [`Announcer::set`]; ownership decides, this part obeys.
//! [`speaker`] is the pure core: frames, links and wishes in, frames and conflicts out. It is made of [`responder`]
//! (an answer to a frame), [`burst`] (when to announce unasked), [`conflict`] (someone else answers for our VIP), [`inquiry`]
//! (questions for VIPs that may be another's) and [`doubt`] (after a hold-up ours may be, too).
//! `io` holds the packet sockets, group memberships and the thread that serves nothing else.
//!
//! The VIPs are on no interface, so the kernel neither answers for them nor joins their groups.

pub mod burst;
pub mod conflict;
pub mod doubt;
pub mod inquiry;
mod io;
pub mod responder;
pub mod speaker;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use membership::Voice;

use crate::wire::MacAddr;
pub use conflict::Conflict;
pub use io::{Announcer, Counters, HookMaps, Order, StartError, start};
pub use responder::Kind;

/// The wish that a VIP be announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The epoch of the claim; when it grows, the VIP is announced again.
    pub epoch: u64,
    /// The names of the uplinks it is announced on.
    pub interfaces: BTreeSet<String>,
    /// Whether it is announced unasked. What is louder than before is announced again.
    pub voice: Voice,
}

/// The wish to hear of VIPs that are others'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// The VIPs to ask for, about once a second, with the names of the uplinks to ask on. All who answer are reported.
    pub ask: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Machines whose announcements are reported whatever VIP they are of: members that gossip does not reach.
    pub heed: BTreeSet<MacAddr>,
}
