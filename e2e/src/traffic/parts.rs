//! A load's requests in two parts: those of source ports that certain pods served until a moment, and those of the others.
//!
//! When a node dies, so do its pods, and requests that a table sends to them are lost until the table is another, whoever
//! owns the VIP. So whether a VIP is reached is seen in the requests to all other pods. A hash sends a source port's
//! requests to the same pod each time, so who answered the last one would have been asked next.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::ledger::{Served, longest_gap, served_at, silences};

/// The requests of some source ports, since the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// How many source ports.
    pub sources: usize,
    /// Requests sent.
    pub sent: u64,
    /// Requests never answered.
    pub lost: u64,
    /// The longest gap between requests served. The ports send in turn, so it is some milliseconds when there was none:
    /// the longest run of ports of the other part, and the interval.
    pub outage: Duration,
}

/// Both parts; see [`super::Meter::mark_pods`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Source ports that one of the named pods served last before the moment.
    pub named: Part,
    /// All others.
    pub others: Part,
}

/// Parts the requests sent after `since` from `sources` ports in turn, by who answered a port's last request before it.
pub(super) fn parts(
    sources: usize,
    interval: Duration,
    sent: &[Instant],
    answers: &[Served],
    since: Instant,
    named: impl Fn(u16) -> bool,
) -> Parts {
    let sources = sources.max(1);
    let mut last: BTreeMap<usize, (u32, u16)> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| sent.get(answer.id as usize).is_some_and(|start| *start < since)) {
        let newest = last.entry(answer.id as usize % sources).or_insert((answer.id, answer.pod));
        *newest = (*newest).max((answer.id, answer.pod));
    }
    let is_named: Vec<bool> =
        (0..sources).map(|source| last.get(&source).is_some_and(|&(_, pod)| named(pod))).collect();
    let silences = silences(sent, interval);
    let part = |wanted: bool| {
        let ours = |id: usize| is_named[id % sources] == wanted && sent.get(id).is_some_and(|start| *start >= since);
        let asked: Vec<_> = (0..sent.len()).filter(|id| ours(*id)).map(|id| sent[id]).collect();
        let mut first = BTreeMap::new();
        for answer in answers.iter().filter(|answer| ours(answer.id as usize)) {
            first.entry(answer.id).or_insert_with(|| served_at(answer, sent[answer.id as usize]));
        }
        Part {
            sources: is_named.iter().filter(|is| **is == wanted).count(),
            sent: asked.len() as u64,
            lost: (asked.len() - first.len()) as u64,
            outage: longest_gap(&asked, first.into_values().collect(), &silences)
                .map_or(Duration::ZERO, |gap| gap.length),
        }
    };
    Parts { named: part(true), others: part(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Four ports, a request each 10 ms, a fault at 80 ms: ports 1 and 2 are served by pod 1 until then.
    fn books(answered: impl Fn(u32) -> Option<u16>) -> Parts {
        let start = Instant::now();
        let sent: Vec<_> = (0..24).map(|id| start + ms(id * 10)).collect();
        let answer = |id: u32, pod| Served { id, arrived: start + ms(u64::from(id) * 10 + 1), held: ms(0), pod };
        let answers: Vec<_> = (0..24).filter_map(|id| answered(id).map(|pod| answer(id, pod))).collect();
        parts(4, ms(10), &sent, &answers, start + ms(75), |pod| pod == 1)
    }

    fn usual(id: u32) -> u16 {
        u16::from([1, 2].contains(&(id % 4)))
    }

    #[test]
    fn what_was_asked_of_dead_pods_is_no_outage_of_the_others() {
        // Ports 1 and 2 are lost from request 8 to 15, and served by pod 0 from then on.
        let parts = books(|id| match id {
            8..16 if usual(id) == 1 => None,
            16.. => Some(0),
            _ => Some(usual(id)),
        });
        assert_eq!((parts.named.sources, parts.named.sent, parts.named.lost), (2, 8, 4));
        assert_eq!(parts.named.outage, ms(81), "from the first request at 90 ms to the answer at 171 ms");
        assert_eq!((parts.others.sources, parts.others.sent, parts.others.lost), (2, 8, 0));
        assert_eq!(parts.others.outage, ms(30), "two ports of the other part between two requests, and the interval");
    }

    #[test]
    fn who_answered_last_before_the_fault_counts() {
        // Port 3 was moved to pod 1 before the fault.
        let parts = books(|id| Some(if id == 7 { 1 } else { usual(id) }));
        assert_eq!((parts.named.sources, parts.others.sources), (3, 1));
    }

    #[test]
    fn an_answer_that_comes_twice_makes_up_for_no_lost_one() {
        let start = Instant::now();
        let sent = [start, start + ms(10), start + ms(20)];
        let twice = Served { id: 1, arrived: start + ms(11), held: ms(0), pod: 0 };
        let parts = parts(1, ms(10), &sent, &[twice, twice], start, |_| false);
        assert_eq!((parts.others.sent, parts.others.lost), (3, 2));
    }
}
