//! Sessions: which sealed datagrams are fresh.
//!
//! A key proves that a datagram came from the cluster, not that it came now. Each start of an agent draws a random
//! *session* number, and a datagram is fresh only if
//! - it names the receiver's session, so it was made for this receiver since its last start;
//! - its generation is the highest its sender ever used towards this session, so it is not from the sender's past;
//! - its counter passes the sender's [`Window`], so it has not been here before.
//!
//! A recorded datagram therefore opens nowhere: not at another node (another session), not here again (window), not
//! after the receiver's restart (new session), not after the sender's (lower generation). Neither files nor
//! synchronised clocks are needed.
//!
//! ```text
//!   A does not know B's session             B
//!   Greet, recipient 0, counter 7   ---->   stores nothing
//!   checks the echo           <----   Hello to A's session, echoes (A's generation, 7)
//!   what A wanted to say, recipient = B's session, counter 8   ---->   window for A opens
//! ```
//! A datagram for an old session or of an old generation is answered with a Hello too, so a restart heals itself
//! within a round trip. A Hello that says that this node was heard under a higher generation (its `stateDir` was lost
//! and its clock runs behind) makes it jump above. The header carries the sender's session, so one who was greeted
//! can answer without greeting back.
//!
//! Pure and without clocks; owned by [`crate::channel`].

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{header::Header, replay::Window, stats::RejectReason};

/// Senders whose counters are kept, over this agent's whole life: about 12 MiB when full.
const MAX_SENDERS: usize = 65_536;
/// A Hello must answer one of this many datagrams sent last.
const ECHO_REACH: u64 = 4096;

/// What is known of a sender whose datagrams were fresh.
#[derive(Debug)]
struct Sender {
    generation: u64,
    session: u64,
    window: Window,
    /// Where it was heard last, if that was noted.
    address: Option<SocketAddr>,
}

/// This node's own session, and all senders heard in it.
#[derive(Debug)]
pub(crate) struct Sessions {
    id: u64,
    generation: u64,
    session: u64,
    counter: u64,
    senders: BTreeMap<u64, Sender>,
    met: bool,
}

impl Sessions {
    /// `session` is drawn at random at each start and must not be 0.
    pub(crate) fn new(id: u64, generation: u64, session: u64) -> Self {
        Self { id, generation, session: session.max(1), counter: 0, senders: BTreeMap::new(), met: false }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// This node's id, generation and session.
    pub(crate) fn own(&self) -> (u64, u64, u64) {
        (self.id, self.generation, self.session)
    }

    /// Generation and session of a node that was heard.
    pub(crate) fn session_of(&self, id: u64) -> Option<(u64, u64)> {
        self.senders.get(&id).map(|sender| (sender.generation, sender.session))
    }

    /// Whether sessions became known, or changed, since the last call.
    pub(crate) fn take_met(&mut self) -> bool {
        std::mem::take(&mut self.met)
    }

    /// Whether frames can be sent to this node without a greeting.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.senders.contains_key(&id)
    }

    /// The head of the next datagram for a known node; one for a greeting if it is unknown.
    pub(crate) fn next_header(&mut self, to: u64) -> Header {
        let recipient = self.senders.get(&to).map_or(0, |sender| sender.session);
        self.header_for(recipient)
    }

    /// The head of the next datagram into a session that its holder has just named.
    pub(crate) fn header_for(&mut self, recipient: u64) -> Header {
        self.counter += 1;
        Header { sender: self.id, generation: self.generation, session: self.session, recipient, counter: self.counter }
    }

    /// Whether an opened datagram is fresh; if so its sender's session is known from here on.
    ///
    /// A `recipient` of 0 is a greeting and none of this function's business.
    pub(crate) fn admit(&mut self, header: &Header) -> Result<(), RejectReason> {
        if header.sender == self.id {
            return Err(RejectReason::OwnName);
        }
        if header.recipient != self.session {
            return Err(RejectReason::WrongSession);
        }
        let full = self.senders.len() >= MAX_SENDERS;
        let fresh = Sender {
            generation: header.generation,
            session: header.session,
            window: Window::starting_with(header.counter),
            address: None,
        };
        let Some(known) = self.senders.get_mut(&header.sender) else {
            if full {
                return Err(RejectReason::TooManySenders);
            }
            self.senders.insert(header.sender, fresh);
            self.met = true;
            return Ok(());
        };
        if header.generation > known.generation {
            *known = fresh;
            self.met = true;
            return Ok(());
        }
        if outruns(known, header) {
            return Err(RejectReason::StaleGeneration);
        }
        if known.window.accept(header.counter) { Ok(()) } else { Err(RejectReason::Replay) }
    }

    /// The generation that made the sender of `header` stale, to be told to it in a Hello.
    pub(crate) fn outrun_by(&self, header: &Header) -> Option<u64> {
        self.senders.get(&header.sender).filter(|known| outruns(known, header)).map(|known| known.generation)
    }

    /// Notes where a known sender was heard.
    pub(crate) fn note_address(&mut self, id: u64, address: SocketAddr) {
        if let Some(known) = self.senders.get_mut(&id) {
            known.address = Some(address);
        }
    }

    /// Where a known sender was heard last.
    pub(crate) fn address_of(&self, id: u64) -> Option<SocketAddr> {
        self.senders.get(&id)?.address
    }

    /// Whether a datagram is from another agent of this node's name. Those of former lives, which anybody may have
    /// recorded, have lower generations.
    pub(crate) fn is_namesake(&self, header: &Header) -> bool {
        let alive = header.recipient == self.session || header.generation >= self.generation;
        header.sender == self.id && header.session != self.session && alive
    }

    /// Whether a Hello's echo names a datagram this node has just sent.
    pub(crate) fn is_recent_echo(&self, generation: u64, counter: u64) -> bool {
        generation == self.generation && counter <= self.counter && self.counter - counter < ECHO_REACH
    }

    /// Goes on under a generation above `other`.
    pub(crate) fn jump_above(&mut self, other: u64) {
        self.generation = self.generation.max(other.saturating_add(1));
    }
}

/// An equal generation in another session is an earlier life as well: no two lives share a session.
fn outruns(known: &Sender, header: &Header) -> bool {
    known.generation > header.generation || (known.generation == header.generation && known.session != header.session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(sender: u64, generation: u64, session: u64, recipient: u64, counter: u64) -> Header {
        Header { sender, generation, session, recipient, counter }
    }

    #[test]
    fn a_recorded_datagram_is_refused_everywhere() {
        let mut receiver = Sessions::new(1, 10, 111);
        let recorded = from(2, 5, 222, 111, 1);
        assert_eq!(receiver.admit(&recorded), Ok(()));
        assert_eq!(receiver.admit(&recorded), Err(RejectReason::Replay), "same node");
        assert_eq!(Sessions::new(3, 10, 333).admit(&recorded), Err(RejectReason::WrongSession), "other node");
        assert_eq!(Sessions::new(1, 11, 112).admit(&recorded), Err(RejectReason::WrongSession), "receiver restarted");
        assert_eq!(receiver.admit(&from(2, 6, 223, 111, 1)), Ok(()));
        let held_back = from(2, 5, 222, 111, 2);
        assert_eq!(receiver.admit(&held_back), Err(RejectReason::StaleGeneration), "sender restarted");
    }

    #[test]
    fn a_sender_that_fell_behind_is_told_where_to_jump() {
        let mut receiver = Sessions::new(1, 10, 111);
        receiver.admit(&from(2, 900, 222, 111, 1)).unwrap();
        assert_eq!(receiver.outrun_by(&from(2, 3, 223, 0, 1)), Some(900));
        assert_eq!(receiver.outrun_by(&from(2, 900, 223, 0, 1)), Some(900), "same generation, another life");
        assert_eq!(receiver.outrun_by(&from(2, 900, 222, 0, 9)), None);
        let mut sender = Sessions::new(2, 3, 223);
        sender.jump_above(900);
        assert_eq!(sender.generation(), 901);
    }

    #[test]
    fn an_echo_must_be_recent_and_of_this_generation() {
        let mut sessions = Sessions::new(1, 10, 111);
        let counter = sessions.header_for(0).counter;
        assert!(sessions.is_recent_echo(10, counter));
        assert!(!sessions.is_recent_echo(9, counter), "an earlier life");
        assert!(!sessions.is_recent_echo(10, counter + 1), "never sent");
        for _ in 0..ECHO_REACH {
            sessions.header_for(0);
        }
        assert!(!sessions.is_recent_echo(10, counter), "too long ago");
    }

    #[test]
    fn senders_are_bounded() {
        let mut sessions = Sessions::new(0, 1, 1);
        for sender in 1..=MAX_SENDERS as u64 {
            assert_eq!(sessions.admit(&from(sender, 1, 9, 1, 1)), Ok(()));
        }
        assert_eq!(sessions.admit(&from(u64::MAX, 1, 9, 1, 1)), Err(RejectReason::TooManySenders));
        assert_eq!(sessions.admit(&from(7, 1, 9, 1, 2)), Ok(()), "the known ones go on");
    }
}
