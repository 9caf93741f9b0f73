//! What the announcer's thread counts, readable from any other.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::announce::Kind;

/// Everything counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gratuitous ARP frames sent, of either form.
    pub garp: u64,
    /// Unsolicited neighbour advertisements sent.
    pub unsolicited_na: u64,
    /// ARP requests answered.
    pub arp_reply: u64,
    /// Neighbour solicitations answered.
    pub na: u64,
    /// Questions asked for VIPs that may be another's.
    pub question: u64,
    /// Frames by which someone else claimed an owned VIP; more than were reported.
    pub conflicts: u64,
    /// Conflicts not reported because the agent did not fetch them.
    pub conflicts_unreported: u64,
    /// Frames that could not be sent.
    pub send_errors: u64,
    /// Frames that break the rules of ARP or neighbour discovery.
    pub malformed: u64,
    /// Interfaces on which a solicited-node group could not be joined, counted at each try.
    pub group_errors: u64,
}

/// [`Counters`] in the making.
#[derive(Debug, Default)]
pub(super) struct Tally {
    garp: AtomicU64,
    unsolicited_na: AtomicU64,
    arp_reply: AtomicU64,
    na: AtomicU64,
    question: AtomicU64,
    conflicts: AtomicU64,
    conflicts_unreported: AtomicU64,
    send_errors: AtomicU64,
    malformed: AtomicU64,
    group_errors: AtomicU64,
}

/// Something that is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Sent(Kind),
    SendError,
    Conflict,
    ConflictUnreported,
    Malformed,
    GroupError,
}

impl Tally {
    pub(super) fn count(&self, event: Event) {
        let counter = match event {
            Event::Sent(Kind::Garp) => &self.garp,
            Event::Sent(Kind::UnsolicitedNa) => &self.unsolicited_na,
            Event::Sent(Kind::ArpReply) => &self.arp_reply,
            Event::Sent(Kind::Na) => &self.na,
            Event::Sent(Kind::Question) => &self.question,
            Event::SendError => &self.send_errors,
            Event::Conflict => &self.conflicts,
            Event::ConflictUnreported => &self.conflicts_unreported,
            Event::Malformed => &self.malformed,
            Event::GroupError => &self.group_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            garp: read(&self.garp),
            unsolicited_na: read(&self.unsolicited_na),
            arp_reply: read(&self.arp_reply),
            na: read(&self.na),
            question: read(&self.question),
            conflicts: read(&self.conflicts),
            conflicts_unreported: read(&self.conflicts_unreported),
            send_errors: read(&self.send_errors),
            malformed: read(&self.malformed),
            group_errors: read(&self.group_errors),
        }
    }
}
