//! Whether this node sees most of its cluster, compared with the recent past.
//!
//! A node that is cut off believes all others dead. The others are well, hold their VIPs still, and must not lose them to it,
//! neither now (whoever announced a VIP last gets its traffic) nor on the day it comes back. So a node that has lost most
//! of its peers within [`RECENT`] is in the minority: it announces nothing it owned before, waits for [`GRACE`] and asks on
//! the wire before it takes more, and what it takes has epoch 0, which every other claim beats. Once enough of them
//! have been back for a while, its claims become full ones. That they are forgotten meanwhile is no recovery.
//!
//! Who died some time ago does not count: three nodes of which one dies, and a minute later another, are two that
//! become one. Exactly half is no minority: of two nodes the one that is left is to take over at once. But it may as well
//! be the one that was cut off, so it too announces no more what it owned before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{MemberState, NodeName, View};

/// Members come back one by one, and their claims a moment later: this long enough of them must have been here.
pub(super) const REGAIN: Duration = Duration::from_secs(2);
/// Members that were lost within this time were lost together.
pub(super) const RECENT: Duration = Duration::from_secs(10);
/// A minority takes nothing before: if most of the cluster died, this is what it costs.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// A node that is cut off loses its peers one after another, and thinks itself among the majority for a moment. What it took
/// from the dead this long before it fell into a minority it gives back.
pub(super) const BLIND: Duration = Duration::from_secs(2);

/// How much of its cluster a node sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Less than half.
    Minority,
    /// Exactly half.
    Half,
    /// More than half.
    #[default]
    Whole,
}

/// See the module. Bounded by the members that were up within [`RECENT`].
#[derive(Debug, Default)]
pub(super) struct Quorum {
    standing: Standing,
    /// When it last became worse.
    since: Option<Instant>,
    /// How many members there were when it was lost.
    of: usize,
    /// Since when enough are here for a better standing.
    better: Option<Instant>,
    /// The last step made it whole again.
    regained: bool,
    up: BTreeSet<NodeName>,
    lost: BTreeMap<NodeName, Instant>,
}

impl Quorum {
    /// Counts the members that are up, against those that were until recently and have not said goodbye.
    pub(super) fn step(&mut self, view: &View, now: Instant) {
        let up: BTreeSet<NodeName> = view.up().map(|(name, _)| name.clone()).collect();
        let left = |name: &NodeName| view.members.get(name).is_some_and(|member| member.state == MemberState::Left);
        for name in self.up.difference(&up) {
            self.lost.insert(name.clone(), now);
        }
        self.lost.retain(|name, at| !up.contains(name) && !left(name) && now.saturating_duration_since(*at) < RECENT);
        self.up = up;

        let of = self.up.len() + self.lost.len();
        self.of = if self.standing == Standing::Whole { of } else { self.of.max(of) };
        let standing = match (2 * self.up.len()).cmp(&self.of) {
            std::cmp::Ordering::Less => Standing::Minority,
            std::cmp::Ordering::Equal if self.of > 0 => Standing::Half,
            _ => Standing::Whole,
        };
        self.regained = false;
        if standing < self.standing {
            (self.standing, self.since, self.better) = (standing, Some(now), None);
        } else if standing == self.standing {
            self.better = None;
        } else if now.saturating_duration_since(*self.better.get_or_insert(now)) >= REGAIN {
            (self.standing, self.better) = (standing, None);
            self.regained = standing == Standing::Whole;
        }
    }

    /// Whether this node has just come to see most of its cluster again. What it owned it has kept quiet about, and others
    /// may have announced meanwhile.
    pub(super) fn has_regained(&self) -> bool {
        self.regained
    }

    /// What this node counts for.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether what this node claims counts in full.
    pub(super) fn has(&self) -> bool {
        self.standing > Standing::Minority
    }

    /// Since when the standing is no better than it is, unless it is whole.
    pub(super) fn lost_since(&self) -> Option<Instant> {
        self.since.filter(|_| self.standing < Standing::Whole)
    }

    /// Whether a peer went silent just now, at `now`.
    pub(super) fn lost_one_at(&self, now: Instant) -> bool {
        self.lost.values().any(|at| *at == now)
    }

    /// How many members are up.
    pub(super) fn up(&self) -> usize {
        self.up.len()
    }

    /// When to step again without a new view.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.better.and_then(|since| since.checked_add(REGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, NodeDocument};

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A view in which each letter is a member: upper case up, lower case down, a digit one that has left.
    fn view(members: &str) -> View {
        let member = |c: char| {
            let state = match c {
                'A'..='Z' => MemberState::Alive,
                'a'..='z' => MemberState::Down,
                _ => MemberState::Left,
            };
            let name = if c.is_ascii_digit() { char::from(b'A' + c as u8 - b'0') } else { c.to_ascii_uppercase() };
            let address = "127.0.0.1:1".parse().unwrap();
            let member = Member { address, generation: 1, state, document: NodeDocument::default() };
            (name.to_string().to_lowercase().parse().unwrap(), member)
        };
        View { members: members.chars().map(member).collect(), caught_up: true }
    }

    /// The standing after each of the views, given with the seconds at which they come.
    fn standings(views: &[(u64, &str)]) -> Vec<Standing> {
        let (mut quorum, t0) = (Quorum::default(), start());
        let mut step = |(at, members): &(u64, &str)| {
            quorum.step(&view(members), t0 + SECOND * u32::try_from(*at).unwrap());
            quorum.standing()
        };
        views.iter().map(&mut step).collect()
    }

    use Standing::{Half, Minority, Whole};

    #[test]
    fn one_of_three_that_loses_both_at_once_is_a_minority_until_one_has_been_back_for_a_while() {
        let views = [(0, "ABC"), (1, "AbC"), (2, "Abc"), (90, "A"), (91, "AB"), (92, "AB"), (93, "AB")];
        assert_eq!(standings(&views), [Whole, Whole, Minority, Minority, Minority, Minority, Whole]);
    }

    #[test]
    fn deaths_far_apart_make_no_minority() {
        let views = [(0, "ABC"), (1, "AbC"), (12, "Abc"), (30, "Abc")];
        assert_eq!(standings(&views), [Whole, Whole, Half, Half]);
    }

    #[test]
    fn who_says_goodbye_is_not_lost_and_neither_is_who_was_never_here() {
        assert_eq!(standings(&[(0, "ABC"), (1, "A12")]), [Whole, Whole]);
        assert_eq!(standings(&[(0, "Abcde"), (1, "Abcde")]), [Whole, Whole]);
    }

    #[test]
    fn half_is_half_for_as_long_as_it_lasts() {
        let views = [(0, "AB"), (1, "Ab"), (3600, "A"), (3601, "AB"), (3603, "AB")];
        assert_eq!(standings(&views), [Whole, Half, Half, Half, Whole]);
    }

    #[test]
    fn a_minority_that_becomes_half_of_what_was_claims_in_full_again() {
        let views = [(0, "ABCD"), (1, "Abcd"), (2, "ABcd"), (4, "ABcd"), (5, "Abcd")];
        assert_eq!(standings(&views), [Whole, Minority, Minority, Half, Minority]);
    }

    #[test]
    fn memory_is_bounded_by_who_is_up_and_was_recently() {
        let (mut quorum, t0) = (Quorum::default(), start());
        for n in 0..200u32 {
            let peer = char::from(b'B' + u8::try_from(n % 24).unwrap());
            quorum.step(&view(&format!("A{peer}")), t0 + SECOND * n);
            assert!(quorum.lost.len() <= 10, "{}", quorum.lost.len());
        }
    }
}
