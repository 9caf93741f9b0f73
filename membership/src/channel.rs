//! The sealed channel: frames in, datagrams out, and back.
//!
//! Puts [`crate::seal`], [`crate::session`] and [`crate::frame`] together: greets nodes whose session is unknown while
//! their frames wait, answers greetings and stale datagrams with Hellos, and hands up only frames that are authentic
//! and fresh. Owned by [`crate::Cluster`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    KeyRing,
    frame::{FRAME_MAX, Frame, Hello},
    header::{GOSSIP_VERSION, HEADER_LEN, Header},
    identity::Identity,
    seal::{NONCE_LEN, Nonces, TAG_LEN},
    session::Sessions,
    stats::{Limit, RejectReason, Stats},
};

/// The longest datagram that is looked at.
pub(crate) const DATAGRAM_MAX: usize = HEADER_LEN + NONCE_LEN + FRAME_MAX + TAG_LEN;
/// Nodes for which frames wait.
const MAX_WAITING: usize = 256;
/// Frames that wait for one node.
const MAX_FRAMES: usize = 16;
/// How long frames wait.
const WAIT: Duration = Duration::from_secs(2);
/// How long an answer to a greeting is waited for.
const GREET_AGAIN: Duration = Duration::from_millis(100);
/// Hellos a second, of each of two kinds: each answers a datagram of its own size, and restarts of a whole cluster come in bursts.
const HELLOS_PER_SECOND: u32 = 1000;

/// Greeters whose last answered greeting is remembered: about 100 bytes each.
const MAX_GREETERS: usize = 4096;

/// A node to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    /// Hash of its name.
    pub(crate) id: u64,
    /// Where it is heard.
    pub(crate) address: SocketAddr,
}

impl From<&Identity> for Peer {
    fn from(identity: &Identity) -> Self {
        Self { id: identity.id(), address: identity.address }
    }
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A fresh frame, still encoded; decodes.
    Frame(Peer, Vec<u8>),
    /// A node told its session, for the first time or anew.
    Met {
        /// Who it is.
        identity: Identity,
        /// It knows this node under this generation, which is not below this life's.
        outrun_by: Option<u64>,
    },
    /// Another agent has this node's name.
    Namesake,
    /// Nothing more to be done about it.
    Done,
}

/// Frames that wait for a node's session.
#[derive(Debug)]
struct Waiting {
    /// Each with the time from which it waits.
    frames: VecDeque<(Instant, Vec<u8>)>,
    greeted: Instant,
    address: SocketAddr,
}

impl Waiting {
    /// Drops what has waited for too long: old news would pass for new.
    fn expire(&mut self, now: Instant) {
        self.frames.retain(|(since, _)| now.saturating_duration_since(*since) < WAIT);
    }
}

/// See the module's documentation.
pub(crate) struct Channel {
    keys: KeyRing,
    sessions: Sessions,
    nonces: Nonces,
    waiting: BTreeMap<u64, Waiting>,
    greeted: Greeted,
    /// Apart from each other: who replays datagrams for old sessions must not keep out newcomers.
    greet_hellos: RateLimit,
    stale_hellos: RateLimit,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Channel {
    pub(crate) fn new(keys: KeyRing, identity: &Identity, session: u64, nonces: Nonces, now: Instant) -> Self {
        let sessions = Sessions::new(identity.id(), identity.generation, session);
        Self {
            keys,
            sessions,
            nonces,
            waiting: BTreeMap::new(),
            greeted: Greeted::default(),
            greet_hellos: RateLimit { second: now, used: 0 },
            stale_hellos: RateLimit { second: now, used: 0 },
            out: VecDeque::new(),
        }
    }

    pub(crate) fn set_keys(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// Generation and session of a node that was heard.
    pub(crate) fn session_of(&self, id: u64) -> Option<(u64, u64)> {
        self.sessions.session_of(id)
    }

    /// This node's id, generation and session.
    pub(crate) fn own(&self) -> (u64, u64, u64) {
        self.sessions.own()
    }

    /// Whether sessions became known, or changed, since the last call.
    pub(crate) fn take_met(&mut self) -> bool {
        self.sessions.take_met()
    }

    /// Goes on under a generation above `other`, and returns it.
    pub(crate) fn jump_above(&mut self, other: u64) -> u64 {
        self.sessions.jump_above(other);
        self.sessions.generation()
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    /// Asks whoever is at `address` for its session.
    pub(crate) fn greet(&mut self, address: SocketAddr) {
        let header = self.sessions.header_for(0);
        self.push(address, &header, &Frame::Greet);
    }

    /// Sends a frame, after a greeting if need be. Returns false if it is too long to be sent at all.
    pub(crate) fn send(&mut self, to: Peer, frame: &Frame<'_>, now: Instant, stats: &mut Stats) -> bool {
        let Some(bytes) = frame.encode() else { return false };
        if self.sessions.knows(to.id) {
            let header = self.sessions.next_header(to.id);
            self.seal(to.address, &header, &bytes);
        } else {
            self.wait(to, bytes, now, stats);
        }
        true
    }

    fn wait(&mut self, to: Peer, bytes: Vec<u8>, now: Instant, stats: &mut Stats) {
        if !self.waiting.contains_key(&to.id) && self.waiting.len() >= MAX_WAITING {
            self.waiting.retain(|_, waiting| {
                waiting.expire(now);
                !waiting.frames.is_empty()
            });
            if self.waiting.len() >= MAX_WAITING {
                stats.hit(Limit::PendingFrames, 1);
                return;
            }
        }
        let mut greet = false;
        let waiting = self.waiting.entry(to.id).or_insert_with(|| {
            greet = true;
            Waiting { frames: VecDeque::new(), greeted: now, address: to.address }
        });
        waiting.expire(now);
        waiting.address = to.address;
        if waiting.frames.len() >= MAX_FRAMES {
            waiting.frames.pop_front();
            stats.hit(Limit::PendingFrames, 1);
        }
        waiting.frames.push_back((now, bytes));
        if greet || now.saturating_duration_since(waiting.greeted) >= GREET_AGAIN {
            waiting.greeted = now;
            self.greet(to.address);
        }
    }

    /// Opens a datagram.
    ///
    /// # Errors
    /// Says why it was dropped; what an honest sender needs to do better has been answered then.
    pub(crate) fn receive(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        me: &Identity,
        now: Instant,
        stats: &mut Stats,
    ) -> Result<Received, RejectReason> {
        if datagram.len() > DATAGRAM_MAX {
            return Err(RejectReason::Malformed);
        }
        let (header, head, sealed) = Header::decode(GOSSIP_VERSION, datagram)?;
        let bytes = self.keys.open(head, sealed).ok_or(RejectReason::WrongKey)?;
        let frame = Frame::decode(&bytes).ok_or(RejectReason::Malformed)?;
        if header.recipient == 0 && frame == Frame::Greet && header.sender != me.id() {
            if self.greeted.knows(&header) {
                return Err(RejectReason::Replay);
            }
            if self.greet_hellos.allow(now, stats) {
                self.greeted.note(&header);
                self.hello(&header, from, me);
            }
            return Ok(Received::Done);
        }
        if self.sessions.is_namesake(&header) {
            return Ok(Received::Namesake);
        }
        if let Err(reason) = self.sessions.admit(&header) {
            // Never a Hello for a Hello, or two nodes would go on for ever.
            let curable = matches!(reason, RejectReason::WrongSession | RejectReason::StaleGeneration);
            if curable && !matches!(frame, Frame::Hello(_)) && self.stale_hellos.allow(now, stats) {
                self.hello(&header, from, me);
            }
            return Err(reason);
        }
        self.sessions.note_address(header.sender, from);
        self.send_waiting(header.sender, now);
        match frame {
            Frame::Greet => Ok(Received::Done),
            Frame::Hello(hello) => {
                let honest = hello.identity.id() == header.sender
                    && self.sessions.is_recent_echo(hello.echo_generation, hello.echo_counter);
                if !honest {
                    return Err(RejectReason::Replay);
                }
                Ok(Received::Met { identity: hello.identity, outrun_by: hello.outrun_by })
            }
            Frame::Swim(_)
            | Frame::Suspicion(_)
            | Frame::Cells(_)
            | Frame::Digest(_)
            | Frame::Goodbye(_)
            | Frame::Death(_)
            | Frame::Namesake(_)
            | Frame::Restart(..) => Ok(Received::Frame(Peer { id: header.sender, address: from }, bytes)),
        }
    }

    /// Tells the sender of `header` this node's session, and by whom it is outrun.
    fn hello(&mut self, header: &Header, to: SocketAddr, me: &Identity) {
        let outrun_by = self.sessions.outrun_by(header);
        let namesake = self.sessions.address_of(header.sender).filter(|address| outrun_by.is_some() && *address != to);
        if let Some(address) = namesake {
            let answer = self.sessions.header_for(header.session);
            self.push(to, &answer, &Frame::Namesake(address));
        }
        let hello =
            Hello { identity: me.clone(), echo_generation: header.generation, echo_counter: header.counter, outrun_by };
        let answer = self.sessions.header_for(header.session);
        self.push(to, &answer, &Frame::Hello(hello));
    }

    /// Sends what waited, not for too long, for a node whose session has become known.
    fn send_waiting(&mut self, id: u64, now: Instant) {
        let Some(mut waiting) = self.waiting.remove(&id) else { return };
        waiting.expire(now);
        for (_, bytes) in waiting.frames {
            let header = self.sessions.next_header(id);
            self.seal(waiting.address, &header, &bytes);
        }
    }

    fn push(&mut self, to: SocketAddr, header: &Header, frame: &Frame<'_>) {
        if let Some(bytes) = frame.encode() {
            self.seal(to, header, &bytes);
        }
    }

    fn seal(&mut self, to: SocketAddr, header: &Header, frame: &[u8]) {
        let mut datagram = header.encode(GOSSIP_VERSION);
        self.keys.seal(self.nonces.next(), &mut datagram, frame);
        self.out.push_back((to, datagram));
    }
}

/// By (sender, its session): the counter of the greeting answered last. A greeting is for anybody, so one that was
/// recorded can be sent here as often as the recorder likes; it is answered once, if at all.
#[derive(Debug, Default)]
struct Greeted {
    answered: BTreeMap<(u64, u64), u64>,
    /// In order of arrival: the first makes room.
    order: VecDeque<(u64, u64)>,
}

impl Greeted {
    /// Whether this or a later greeting was answered.
    fn knows(&self, header: &Header) -> bool {
        self.answered.get(&(header.sender, header.session)).is_some_and(|answered| header.counter <= *answered)
    }

    fn note(&mut self, header: &Header) {
        let key = (header.sender, header.session);
        if self.answered.insert(key, header.counter).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MAX_GREETERS
            && let Some(first) = self.order.pop_front()
        {
            self.answered.remove(&first);
        }
    }
}

/// So many a second.
#[derive(Debug)]
struct RateLimit {
    second: Instant,
    used: u32,
}

impl RateLimit {
    fn allow(&mut self, now: Instant, stats: &mut Stats) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self { second: now, used: 0 };
        }
        let allowed = self.used < HELLOS_PER_SECOND;
        if allowed {
            self.used += 1;
        } else {
            stats.hit(Limit::HelloRate, 1);
        }
        allowed
    }
}

#[cfg(test)]
mod tests;
