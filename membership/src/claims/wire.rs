//! The wire is a claim: what is heard of VIPs by ARP and neighbour discovery while gossip does not say whose they are.
//!
//! A member that is not up in the view, or whose claim is not here yet, announces a VIP: it owns it as far as the segment is
//! concerned, so this node falls silent for it, and no node on its side of the gossip claims it, until the member's claims
//! are known, or the VIP has gone unanswered for a while. The elected node asks for it, about once a second; how long
//! the silence must last depends on how likely it is that the other is alive:
//!
//! | the other | this node sees | silence |
//! |---|---|---|
//! | up, but without a claim | | [`UP`]: its frame was older than its claims |
//! | not up | most or half of its cluster | [`LOST`] (and a second if the other outranks this node: two may be waiting) |
//! | nobody was heard | less | [`super::quorum::GRACE`] |
//! | not up, and was heard | less | [`HEARD`]: the other lives |
//!
//! A minority treats every VIP that it is about to take as one that has been heard ("presumed").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Reason,
    quorum::{GRACE, Standing},
    survey::Survey,
};
use crate::{
    NodeName, View,
    election::{Candidates, outranks},
};

const UP: Duration = Duration::from_millis(500);
const LOST: Duration = Duration::from_secs(3);
/// A member that was heard although it is not up lives; that it answers no question then means that it does not hear them.
/// Longer than from one of its refreshing announcements to the next.
const HEARD: Duration = Duration::from_secs(75);
const OUTRANKED: Duration = Duration::from_secs(1);
/// How long a node that would not be the one to claim remembers what it heard.
const PASSIVE: Duration = Duration::from_secs(10);

/// How a VIP this node owns is announced. Questions are always answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    /// Not at all: it may be another's by now, on the far side of a partition, and the last announcement wins.
    Quiet,
    /// Once, when it is taken, and not again.
    Once,
    /// When it is taken and from time to time.
    #[default]
    Full,
}

/// What was heard of one VIP.
#[derive(Debug)]
struct Doubt {
    /// Who announces it. None: nobody was heard, or nobody known.
    holder: Option<NodeName>,
    since_ms: u64,
    /// The highest epoch known when the holder was first heard.
    epoch: u64,
    /// Why it went there.
    reason: Reason,
    heard: Instant,
    /// When this node began to ask.
    asked: Option<Instant>,
}

/// Whether a VIP may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubtful {
    /// Nothing speaks against it.
    No,
    /// It may be another's.
    Yes,
    /// It was in doubt, and nobody has answered for long enough.
    Lapsed,
}

/// The VIPs in doubt, of those that are desired.
#[derive(Debug, Default)]
pub(super) struct Wire {
    doubts: BTreeMap<IpAddr, Doubt>,
}

impl Wire {
    /// Another machine, `holder` if it is a member, says that the VIP is its own. Strangers only keep a doubt alive.
    /// `epoch` is the highest that is known for the VIP.
    pub(super) fn hear(
        &mut self,
        vip: IpAddr,
        holder: Option<&NodeName>,
        reason: Reason,
        epoch: u64,
        now: Instant,
        unix_ms: u64,
    ) {
        if let Some(doubt) = self.doubts.get_mut(&vip) {
            doubt.heard = now;
            if holder.is_some() && doubt.holder.as_ref() != holder {
                (doubt.holder, doubt.since_ms, doubt.epoch, doubt.reason) = (holder.cloned(), unix_ms, epoch, reason);
            }
        } else if holder.is_some() {
            let doubt = Doubt { holder: holder.cloned(), since_ms: unix_ms, epoch, reason, heard: now, asked: None };
            self.doubts.insert(vip, doubt);
        }
    }

    /// Forgets what has been resolved by gossip, because the holder's claim is known (somebody's, if nobody was
    /// heard), or somebody has taken the VIP over since; and what is not desired.
    pub(super) fn step(&mut self, survey: &Survey, vips: &Candidates, now: Instant) {
        self.doubts.retain(|vip, doubt| {
            let known = |claimant: &NodeName| doubt.holder.as_ref().is_none_or(|holder| holder == claimant);
            let taken_over = survey.winner(*vip).is_some_and(|(_, claim)| claim.epoch > doubt.epoch);
            let resolved = taken_over || survey.claimants(*vip).any(known);
            let forgotten = doubt.asked.is_none() && now.saturating_duration_since(doubt.heard) >= PASSIVE;
            vips.contains_key(vip) && !resolved && !forgotten
        });
    }

    /// Whether this node, which is elected for the VIP, has to wait; from then on it asks.
    pub(super) fn doubtful(
        &mut self,
        vip: IpAddr,
        me: &NodeName,
        standing: Standing,
        view: &View,
        now: Instant,
    ) -> Doubtful {
        if standing == Standing::Minority {
            self.doubts.entry(vip).or_insert(Doubt {
                holder: None,
                since_ms: 0,
                epoch: u64::MAX,
                reason: Reason::WireClaim,
                heard: now,
                asked: None,
            });
        }
        let Some(doubt) = self.doubts.get_mut(&vip) else { return Doubtful::No };
        doubt.asked.get_or_insert(now);
        if doubt.end(vip, me, standing, view) <= now { Doubtful::Lapsed } else { Doubtful::Yes }
    }

    /// This node has taken the VIP.
    pub(super) fn taken(&mut self, vip: IpAddr) {
        self.doubts.remove(&vip);
    }

    /// This node is elected for these, and does not ask for others.
    pub(super) fn ask_only(&mut self, elected: &BTreeSet<IpAddr>, now: Instant) {
        for (_, doubt) in self.doubts.iter_mut().filter(|(vip, _)| !elected.contains(*vip)) {
            if doubt.asked.take().is_some() {
                doubt.heard = now;
            }
        }
    }

    /// This node was held up: it has not asked, or not heard the answers.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        for doubt in self.doubts.values_mut() {
            doubt.heard = now;
        }
    }

    /// The VIPs to ask for.
    pub(super) fn questions(&self) -> BTreeSet<IpAddr> {
        self.doubts.iter().filter(|(_, doubt)| doubt.asked.is_some()).map(|(vip, _)| *vip).collect()
    }

    /// Who holds the VIP by the word of the wire, since when (milliseconds since the Unix epoch), and why.
    pub(super) fn holder(&self, vip: IpAddr) -> Option<(&NodeName, u64, Reason)> {
        let doubt = self.doubts.get(&vip)?;
        Some((doubt.holder.as_ref()?, doubt.since_ms, doubt.reason))
    }

    /// When a doubt ends unless something is heard.
    pub(super) fn deadline(&self, me: &NodeName, standing: Standing, view: &View) -> Option<Instant> {
        let end = |(vip, doubt): (&IpAddr, &Doubt)| match doubt.asked {
            Some(_) => doubt.end(*vip, me, standing, view),
            None => doubt.heard + PASSIVE,
        };
        self.doubts.iter().map(end).min()
    }
}

impl Doubt {
    fn end(&self, vip: IpAddr, me: &NodeName, standing: Standing, view: &View) -> Instant {
        let up = |holder: &NodeName| view.members.get(holder).is_some_and(|member| member.state.is_up());
        let silence = match (standing, &self.holder) {
            (_, Some(holder)) if up(holder) => UP,
            (Standing::Minority, Some(_)) => HEARD,
            (Standing::Minority, None) => GRACE,
            (_, Some(holder)) if outranks(vip, holder, me) => LOST + OUTRANKED,
            (_, _) => LOST,
        };
        self.asked.map_or(self.heard, |asked| asked.max(self.heard)) + silence
    }
}
