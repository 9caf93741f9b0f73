//! Which connections were delivered to which pods, as a judge has seen it: what a pod's answer may look like, and that a
//! connection stays with its pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::anatomy::{Anatomy, Body, SCTP, TCP, UDP, port, sctp_flags};

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// A connection as the pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inner {
    pub(crate) protocol: u8,
    pub(crate) pod: SocketAddr,
    pub(crate) client: SocketAddr,
}

/// The same as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outer {
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
}

/// A TCP, UDP or SCTP header and where it comes from and goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) protocol: u8,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The TCP flags, if they are there, or what SCTP says in their terms.
    flags: u8,
}

impl Ends {
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let packet = Anatomy::of(frame)?;
        let (Body::Segment { protocol, at } | Body::Cut { protocol, at }) = packet.body else { return None };
        let flags = match protocol {
            TCP => frame.get(at + 13).copied().unwrap_or(0),
            SCTP => sctp_flags(frame, at),
            _ => 0,
        };
        let from = SocketAddr::new(packet.source, port(frame, at));
        Some(Self { protocol, from, to: SocketAddr::new(packet.destination, port(frame, at + 2)), flags })
    }

    /// SYN without ACK.
    pub(crate) fn opens(&self) -> bool {
        self.flags & 0x12 == 0x02
    }

    /// From a client to a VIP.
    pub(crate) fn asks(self) -> Outer {
        Outer { protocol: self.protocol, client: self.from, vip: self.to }
    }

    /// From a VIP to a client.
    pub(crate) fn answers(self) -> Outer {
        Outer { protocol: self.protocol, client: self.to, vip: self.from }
    }

    /// From a client to a pod.
    pub(crate) fn arrives(self) -> Inner {
        Inner { protocol: self.protocol, pod: self.to, client: self.from }
    }

    /// From a pod to a client.
    pub(crate) fn leaves(self) -> Inner {
        Inner { protocol: self.protocol, pod: self.from, client: self.to }
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Where connections were delivered.
    live: BTreeMap<Outer, Inner>,
    /// All that a pod's connection may be to the client, since its port may be used again; the last is what it is now.
    known: BTreeMap<Inner, Vec<Outer>>,
    /// Who has closed a connection: the client, the pod.
    closed: BTreeSet<(Outer, bool)>,
    /// Pod and client have begun a connection past the VIP: its packets are no VIP's.
    past: BTreeSet<Inner>,
    /// What such connections have put an end to, for the pod: its ports may be others' by now.
    outlived: BTreeSet<Outer>,
}

impl Ledger {
    /// A packet was delivered. What is wrong with that: a connection stays with its pod, and the pod can tell it from others.
    pub(crate) fn delivered(&mut self, came: &Ends, left: &Ends) -> Result<(), String> {
        let (outer, inner) = (came.asks(), left.arrives());
        let before = self.live.get(&outer);
        if let Some(before) = before.filter(|before| **before != inner && !came.opens()) {
            return Err(format!("{outer:?} was {before:?} before, and now is {inner:?}"));
        }
        let known = before == Some(&inner);
        if came.flags & RST == 0 && (!known || came.opens()) {
            self.begin(outer, inner)?;
        }
        self.note_end(outer, came.flags, false);
        Ok(())
    }

    fn begin(&mut self, outer: Outer, inner: Inner) -> Result<(), String> {
        self.past.remove(&inner);
        let all = self.known.entry(inner).or_default();
        let lives = |other: &Outer| {
            let open = [false, true].into_iter().any(|end| !self.closed.contains(&(*other, end)));
            let outlived = [&outer, other].into_iter().any(|one| self.outlived.contains(one));
            *other != outer && open && !outlived && self.live.get(other) == Some(&inner)
        };
        if let Some(other) = all.iter().find(|other| lives(other)) {
            return Err(format!("the pod cannot tell {outer:?} from {other:?}: both are {inner:?}"));
        }
        // It may still be known from before: what goes past this node, to the node that has its slot, is not looked up.
        if !all.contains(&outer) {
            self.outlived.remove(&outer);
        }
        all.retain(|other| *other != outer);
        all.push(outer);
        self.live.insert(outer, inner);
        self.closed.retain(|(closed, _)| *closed != outer);
        Ok(())
    }

    /// A packet was not delivered: a connection that it begins lives elsewhere.
    pub(crate) fn gone(&mut self, came: &Ends) {
        if came.opens() {
            self.live.remove(&came.asks());
        }
    }

    /// A packet went by as it was.
    pub(crate) fn passed(&mut self, came: &Ends, from_pod: bool) {
        if came.opens() && came.protocol != UDP {
            let inner = if from_pod { came.leaves() } else { came.arrives() };
            self.past.insert(inner);
            self.outlived.extend(self.known.get(&inner).into_iter().flatten());
        }
    }

    /// A pod's packet was given a VIP's name. What is wrong with that.
    pub(crate) fn replied(&mut self, came: &Ends, left: &Ends) -> Result<(), String> {
        let (inner, outer) = (came.leaves(), left.answers());
        if !self.has(&inner, &outer) {
            return Err(format!("{inner:?} was made {outer:?}, which nobody has begun"));
        }
        self.note_end(outer, came.flags, true);
        Ok(())
    }

    /// Whether a pod's answer to this packet, delivered just now, must be given the VIP's name: the pod has not begun another
    /// connection by the same ports, past the VIP or as the next one from there.
    pub(crate) fn must_reply(&self, came: &Ends, left: &Ends) -> bool {
        let (outer, inner) = (came.asks(), left.arrives());
        let newest = self.known.get(&inner).and_then(|known| known.last());
        newest == Some(&outer) && !self.past.contains(&inner) && !self.outlived.contains(&outer)
    }

    /// Whether a pod has known a connection so.
    pub(crate) fn has(&self, inner: &Inner, outer: &Outer) -> bool {
        self.known.get(inner).is_some_and(|known| known.contains(outer))
    }

    fn note_end(&mut self, outer: Outer, flags: u8, pod: bool) {
        if flags & (FIN | RST) != 0 {
            self.closed.insert((outer, pod));
        }
        if flags & RST != 0 {
            self.closed.insert((outer, !pod));
        }
    }
}
