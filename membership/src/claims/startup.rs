//! A fresh agent listens before it claims, so that it disturbs nobody who was there before it.
//!
//! ```text
//! Deaf -------an uplink is up-------------------------------> Listening   (and back from anywhere when none is)
//! Listening --caught up, and a peer is awake--------------> Settling --settle--> Awake
//!     |------caught up, all peers listen too, grace over--> Settling
//!     |------grace over, no peer heard---------------------------------------->  Awake
//!     |------limit over--------------------------------> Settling
//! ```
//! When a whole cluster starts cold, the first to end its listening wakes the others (a peer is awake), and because it
//! settles before it claims, all of them are candidates by then and the VIPs are spread over all.

use std::time::{Duration, Instant};

use crate::{Member, NodeName, View};

/// How long a fresh agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// With no peer heard, or with peers that all listen too: this long. Default 1.5 s.
    pub grace: Duration,
    /// After the documents of a peer came in, and again between listening and the first claim: this long, for what
    /// is still on its way. Should exceed two crossings of the network; default 200 ms.
    pub settle: Duration,
    /// With peers that never send their documents: this long. Default 10 s.
    pub limit: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        Self { grace: Duration::from_millis(1500), settle: Duration::from_millis(200), limit: Duration::from_secs(10) }
    }
}

#[derive(Debug)]
enum Phase {
    /// Without an uplink: whoever hears nobody must not conclude from silence that nobody is there.
    Deaf,
    /// Not a candidate. Holds when the documents of a peer were first there.
    Listening {
        caught_up: Option<Instant>,
    },
    /// A candidate that makes no first claims yet.
    Settling {
        since: Instant,
    },
    Awake,
}

/// The phases of an agent's start.
#[derive(Debug)]
pub(super) struct Startup {
    listen: Listen,
    started: Instant,
    stepped: Instant,
    phase: Phase,
}

impl Startup {
    pub(super) fn new(listen: Listen, now: Instant) -> Self {
        Self { listen, started: now, stepped: now, phase: Phase::Listening { caught_up: None } }
    }

    /// Looks at the view and the clock; what `facts.listening` has just become, if it changed.
    pub(super) fn step(&mut self, me: &NodeName, view: &View, now: Instant) -> Option<bool> {
        self.stepped = self.stepped.max(now);
        let was_listening = self.is_listening();
        let deaf = !view.members.get(me).is_some_and(is_known);
        match (&self.phase, deaf) {
            (_, true) => self.phase = Phase::Deaf,
            (Phase::Deaf, false) => {
                self.started = now;
                self.phase = Phase::Listening { caught_up: None };
            }
            (_, false) => {}
        }
        self.advance(me, view, now);
        (self.is_listening() != was_listening).then(|| self.is_listening())
    }

    fn advance(&mut self, me: &NodeName, view: &View, now: Instant) {
        let over = |since: Instant, wait: Duration| now.saturating_duration_since(since) >= wait;
        match &mut self.phase {
            Phase::Listening { caught_up } => {
                let heard = view.up().any(|(name, _)| name != me);
                // Once true that stays so, through deafness too: it says something only where somebody is heard.
                if view.caught_up && heard {
                    caught_up.get_or_insert(now);
                }
                let settled = caught_up.is_some_and(|at| over(at, self.listen.settle));
                let grace = over(self.started, self.listen.grace);
                let awake = view.up().any(|(name, member)| name != me && is_awake(member));
                let ended = settled && (awake || grace) || grace && !heard || over(self.started, self.listen.limit);
                if ended {
                    self.phase = if heard { Phase::Settling { since: now } } else { Phase::Awake };
                }
            }
            Phase::Settling { since } => {
                if over(*since, self.listen.settle) {
                    self.phase = Phase::Awake;
                }
            }
            Phase::Deaf | Phase::Awake => {}
        }
    }

    fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::Deaf | Phase::Listening { .. })
    }

    /// Whether others elect the node. It may take over what had an owner: they leave that to it.
    pub(super) fn is_candidate(&self) -> bool {
        matches!(self.phase, Phase::Settling { .. } | Phase::Awake)
    }

    /// Whether the node may claim what nobody has owned.
    pub(super) fn is_awake(&self) -> bool {
        matches!(self.phase, Phase::Awake)
    }

    /// When to step again without a new view.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let after = |since: Instant, wait: Duration| since.checked_add(wait).filter(|at| *at > self.stepped);
        match self.phase {
            Phase::Listening { caught_up } => [
                after(self.started, self.listen.grace),
                after(self.started, self.listen.limit),
                caught_up.and_then(|at| after(at, self.listen.settle)),
            ]
            .into_iter()
            .flatten()
            .min(),
            Phase::Settling { since } => after(since, self.listen.settle),
            Phase::Deaf | Phase::Awake => None,
        }
    }
}

/// Whether the member's facts are here: while its document is still on its way, it has no interfaces.
pub(super) fn is_known(member: &Member) -> bool {
    !member.document.facts.interfaces.is_empty()
}

fn is_awake(member: &Member) -> bool {
    is_known(member) && !member.document.facts.listening
}
