//! Rumours of deaths: which are believed, and when.
//!
//! SWIM spreads "down" as final, whoever says it. A node that was cut off has found everybody dead; the first thing it
//! does on its return is to tell. The slandered renew themselves within a round trip or two, but until then others
//! would move their VIPs. So of a member that was up, "down" is believed
//! - at once, if its watchers agree: this node is one of them, or was told by one ([`crate::frame::Frame::Death`]);
//! - not at all while this node watches it and hears it;
//! - after [`PATIENCE`], if it is a rumour only, or SWIM's own finding.
//!
//! Until then it is shown as suspect.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{NodeName, identity::Identity, watch::Sight};

/// How long a rumour stands before it is believed: time for the slandered to hear of it, renew, and be heard.
const PATIENCE: Duration = Duration::from_secs(1);

/// For how long a finding that was kept back is still news: an answer that was due shows within it that this node hears.
const FRESH: Duration = Duration::from_millis(100);

/// What there is against a member that was up.
#[derive(Debug)]
struct Case {
    life: Identity,
    /// When the rumour came.
    since: Instant,
    /// Its watchers agree.
    agreed: bool,
    /// This node has found so, and told nobody yet.
    untold: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Rumours {
    /// Bounded by the members: others are dropped with each [`Self::sweep`].
    cases: BTreeMap<NodeName, Case>,
    now: Option<Instant>,
    recheck: Option<Instant>,
}

impl Rumours {
    /// The watchers of this life agree that it is over. `untold`: that is this node's finding, which it keeps to itself for now.
    pub(crate) fn agree(&mut self, life: &Identity, untold: bool, now: Instant) {
        self.cases.insert(life.name.clone(), Case { life: life.clone(), since: now, agreed: true, untold });
    }

    /// What this node kept to itself, found a moment ago. What is older is not told any more.
    pub(crate) fn take_untold(&mut self, now: Instant) -> Vec<Identity> {
        let kept = self.cases.values_mut().filter_map(|case| std::mem::take(&mut case.untold).then_some(&*case));
        kept.filter(|case| now.saturating_duration_since(case.since) < FRESH).map(|case| case.life.clone()).collect()
    }

    /// Whether this life's watchers agreed that it is over.
    pub(crate) fn is_agreed(&self, life: &Identity) -> bool {
        self.cases.get(&life.name).is_some_and(|case| case.agreed && case.life == *life)
    }

    /// Begins a round of [`Self::doubts`].
    pub(crate) fn begin(&mut self, now: Instant) {
        self.now = Some(now);
        self.recheck = None;
    }

    /// Whether a life that is said to be down is to be shown as suspect instead, given what the watch sees of it.
    pub(crate) fn doubts(&mut self, life: &Identity, sight: Option<Sight>) -> bool {
        let Some(now) = self.now else { return false };
        let case = self.cases.entry(life.name.clone()).or_insert_with(|| Case {
            life: life.clone(),
            since: now,
            agreed: false,
            untold: false,
        });
        if case.life != *life {
            *case = Case { life: life.clone(), since: now, agreed: false, untold: false };
        }
        match sight {
            Some(Sight::Silent) => return false,
            // When that changes there is a new report.
            Some(Sight::Heard) => return true,
            Some(Sight::Suspect | Sight::Awaited) | None if case.agreed => return false,
            Some(Sight::Suspect) => return true,
            Some(Sight::Awaited) | None => {}
        }
        let Some(until) = case.since.checked_add(PATIENCE).filter(|until| *until > now) else { return false };
        self.recheck = Some(self.recheck.map_or(until, |other| other.min(until)));
        true
    }

    /// Drops the cases of who is no member that is down.
    pub(crate) fn sweep(&mut self, is_down: impl Fn(&Identity) -> bool) {
        self.cases.retain(|_, case| is_down(&case.life));
    }

    /// All lives that are said to be over.
    pub(crate) fn lives(&self) -> impl Iterator<Item = &Identity> {
        self.cases.values().map(|case| &case.life)
    }

    /// When a doubt ends.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.recheck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{config, origin};

    #[test]
    fn what_the_watchers_agree_on_is_believed_at_once_and_rumours_later() {
        let start = origin();
        let life = config(1, 7).identity;
        let mut rumours = Rumours::default();
        rumours.begin(start);
        assert!(rumours.doubts(&life, None));
        assert_eq!(rumours.poll_timeout(), Some(start + PATIENCE));
        rumours.begin(start + PATIENCE);
        assert!(!rumours.doubts(&life, None));
        assert!(rumours.doubts(&life, Some(Sight::Heard)), "this node hears it");
        let next = Identity { renewal: 1, ..life };
        assert!(rumours.doubts(&next, None), "that was another life");
        rumours.agree(&next, false, start);
        rumours.begin(start);
        assert!(!rumours.doubts(&next, None));
        assert!(!rumours.doubts(&next, Some(Sight::Suspect)), "nor does this node hear it");
        assert!(rumours.doubts(&next, Some(Sight::Heard)));
        assert_eq!(rumours.poll_timeout(), None);
    }
}
