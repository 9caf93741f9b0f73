//! The books of a load: a plain function from what was sent and answered when to a [`Report`].
//!
//! A request counts as *served* when its answer reached the client's kernel, less the time for which the request lay
//! unread at the pod: a pod that waits for a processor is not an outage of the network. Nor is a prober that waits for
//! one: time in which it sent nothing, beyond its interval, is taken off every gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

/// The longest time from the start of a TCP request to its answer that counts as served: a lost SYN takes a second.
const PROMPT: Duration = Duration::from_millis(500);

/// The number that a request of a load carries: unique in this process. Prints as `#<run>.<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// The load.
    pub run: u64,
    /// The request of that load, from 0.
    pub id: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.run, self.id)
    }
}

impl Number {
    /// Reads `#<run>.<id>` and, after a space, how long the request lay at the pod, in microseconds.
    #[must_use]
    pub fn parse(text: &str) -> Option<(Self, Duration)> {
        let (number, held) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), "0"));
        let (run, id) = number.strip_prefix('#')?.split_once('.')?;
        let held = Duration::from_micros(held.parse().ok()?);
        Some((Self { run: run.parse().ok()?, id: id.parse().ok()? }, held))
    }
}

/// What became of a load.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Its number, for [`crate::pods::received`].
    pub run: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests never answered.
    pub lost: u64,
    /// Answers to a request that had been answered before.
    pub duplicates: u64,
    /// UDP: the longest gap between requests served (module documentation); about the interval if there was none.
    /// TCP: the longest gap between starts of requests that were answered within half a second.
    pub outage: Duration,
    /// The longest run of requests that were never answered, by the times at which they were sent; zero if none was.
    pub lost_run: Duration,
    /// All runs of lost requests: from when, and how long.
    pub lost_runs: Vec<(Instant, Duration)>,
    /// The longest time from a request to its answer.
    pub slowest: Duration,
    /// The longest time in which the prober itself sent nothing, beyond its interval.
    pub stalled: Duration,
    /// All such times together.
    pub silent: Duration,
    /// Answers by pod.
    pub by_pod: BTreeMap<String, u64>,
    /// The client's addresses as the pods saw them.
    pub seen_as: BTreeSet<IpAddr>,
    /// Loads with several targets: the longest gap of each source port, in their order, since [`super::Meter::mark`].
    pub by_source: Vec<Gap>,
    /// UDP: requests that certain pods would have served, and the others, since [`super::Meter::mark_pods`].
    pub parts: Option<super::Parts>,
}

/// A time without a request served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How long, less the time in which the prober sent nothing.
    pub length: Duration,
    /// When a request was served again, or the last was sent.
    pub end: Instant,
}

/// When a request was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    /// The request.
    pub(super) id: u32,
    /// When the answer arrived.
    pub(super) arrived: Instant,
    /// How long the request lay at the pod.
    pub(super) held: Duration,
    /// Which pod answered: a number that stands for it within this load.
    pub(super) pod: u16,
}

/// Closes the books: `sent` in order of the requests' numbers, `answers` in any order. `report` has what needs no books.
pub(super) fn close(mut report: Report, interval: Duration, tcp: bool, sent: &[Instant], answers: &[Served]) -> Report {
    let mut answered = vec![false; sent.len()];
    let mut served = Vec::with_capacity(answers.len());
    for answer in answers {
        let Some((start, known)) = sent.get(answer.id as usize).zip(answered.get_mut(answer.id as usize)) else {
            continue;
        };
        if std::mem::replace(known, true) {
            report.duplicates += 1;
            continue;
        }
        let took = answer.arrived.saturating_duration_since(*start);
        report.slowest = report.slowest.max(took);
        if !tcp {
            served.push(served_at(answer, *start));
        } else if took <= PROMPT {
            served.push(*start);
        }
        report.answered += 1;
    }
    let silences = silences(sent, interval);
    let length = |&(from, to): &(Instant, Instant)| to.saturating_duration_since(from);
    report.stalled = silences.iter().map(length).max().unwrap_or_default();
    report.silent = silences.iter().map(length).sum();
    report.outage = longest_gap(sent, served, &silences).map_or(Duration::ZERO, |gap| gap.length);
    report.lost_runs = losses(sent, &answered, interval);
    report.lost_run = report.lost_runs.iter().map(|(_, length)| *length).max().unwrap_or_default();
    report.sent = sent.len() as u64;
    report.lost = report.sent - report.answered;
    report
}

/// The times in which a request was due and none was sent.
pub(super) fn silences(sent: &[Instant], interval: Duration) -> Vec<(Instant, Instant)> {
    let pauses = sent.windows(2).map(|pair| (pair[0] + interval, pair[1]));
    pauses.filter(|(from, to)| to > from).collect()
}

/// The longest time without a served request, from the first to the last sent, less the silences in it.
pub(super) fn longest_gap(sent: &[Instant], mut served: Vec<Instant>, silences: &[(Instant, Instant)]) -> Option<Gap> {
    let (first_sent, last_sent) = (*sent.first()?, *sent.last()?);
    let last_served = served.iter().max().copied();
    served.push(first_sent);
    served.extend(last_served.is_none_or(|last| last < last_sent).then_some(last_sent));
    served.sort_unstable();
    let mut first = 0;
    let mut longest = Gap { length: Duration::ZERO, end: first_sent };
    for pair in served.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        // Neither gaps nor silences overlap among themselves: what ended before this gap concerns no later one.
        while silences.get(first).is_some_and(|silence| silence.1 <= from) {
            first += 1;
        }
        let within = silences[first..].iter().take_while(|silence| silence.0 < to);
        let silent: Duration =
            within.map(|silence| silence.1.min(to).saturating_duration_since(silence.0.max(from))).sum();
        let length = (to - from).saturating_sub(silent);
        if length > longest.length {
            longest = Gap { length, end: to };
        }
    }
    Some(longest)
}

/// The longest gap of each of `sources` ports that sent in turn, an `interval` apart, among requests sent after `since`.
pub(super) fn by_source(
    sources: usize,
    interval: Duration,
    sent: &[Instant],
    answers: &[Served],
    since: Instant,
) -> Vec<Gap> {
    let mut served = vec![Vec::new(); sources];
    for answer in answers {
        let Some(start) = sent.get(answer.id as usize).filter(|start| **start >= since) else { continue };
        served[answer.id as usize % sources].push(served_at(answer, *start));
    }
    let silences = silences(sent, interval);
    let gaps = served.into_iter().enumerate().filter_map(|(source, served)| {
        let own = sent.iter().skip(source).step_by(sources);
        let sent: Vec<_> = own.filter(|start| **start >= since).copied().collect();
        longest_gap(&sent, served, &silences)
    });
    gaps.collect()
}

pub(super) fn served_at(answer: &Served, sent: Instant) -> Instant {
    answer.arrived.checked_sub(answer.held).unwrap_or(answer.arrived).max(sent)
}

fn losses(sent: &[Instant], answered: &[bool], interval: Duration) -> Vec<(Instant, Duration)> {
    let mut losses = Vec::new();
    let mut at = 0;
    for run in answered.chunk_by(|one, next| one == next) {
        if !run[0] {
            let span = sent[at + run.len() - 1].saturating_duration_since(sent[at]) + interval;
            losses.push((sent[at], span));
        }
        at += run.len();
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Requests sent at these milliseconds; answers as (request, arrival, held).
    fn books(interval: u64, sent: &[u64], answers: &[(u32, u64, u64)], tcp: bool) -> Report {
        let start = Instant::now();
        let sent: Vec<_> = sent.iter().map(|at| start + ms(*at)).collect();
        let answers: Vec<_> = answers
            .iter()
            .map(|&(id, at, held)| Served { id, arrived: start + ms(at), held: ms(held), pod: 0 })
            .collect();
        close(Report::default(), ms(interval), tcp, &sent, &answers)
    }

    #[test]
    fn an_outage_is_the_longest_gap_between_answers() {
        let report = books(10, &[0, 10, 20, 30, 40, 50, 60], &[(0, 1, 0), (1, 11, 0), (5, 51, 0), (6, 61, 0)], false);
        assert_eq!(report.outage, ms(40), "from 11 to 51");
        assert_eq!(report.lost_run, ms(30), "requests 2, 3 and 4, and the interval");
        assert_eq!((report.sent, report.answered, report.lost, report.duplicates), (7, 4, 3, 0));
    }

    #[test]
    fn what_the_prober_slept_through_is_not_an_outage() {
        // It sent nothing from 10 to 500; the network lost nothing.
        let report = books(10, &[0, 10, 500, 510], &[(0, 1, 0), (1, 11, 0), (2, 501, 0), (3, 511, 0)], false);
        assert_eq!((report.outage, report.lost_run), (ms(10), Duration::ZERO), "490 ms less the 480 it slept");
        assert_eq!((report.stalled, report.silent), (ms(480), ms(480)));
        // It slept from 20 to 100 in an outage from 10 to 140.
        let report = books(10, &[0, 10, 20, 100, 110, 120, 130, 140], &[(0, 1, 0), (7, 141, 0)], false);
        assert_eq!(report.outage, ms(140 - 70), "what it cannot know it does not count");
    }

    #[test]
    fn what_lay_at_the_pod_was_served_when_it_came() {
        let answers = [(0, 1, 0), (1, 95, 84), (2, 95, 74), (3, 95, 64), (4, 95, 54)];
        let report = books(10, &[0, 10, 20, 30, 40], &answers, false);
        assert_eq!(report.outage, ms(10), "the pod waited for a processor, the network did not");
        assert_eq!(report.slowest, ms(85));
    }

    #[test]
    fn an_outage_without_end_counts_to_the_last_request() {
        let report = books(10, &[0, 10, 20, 30, 40], &[(0, 1, 0)], false);
        assert_eq!((report.outage, report.lost), (ms(39), 4));
        assert_eq!(books(10, &[0, 10, 20], &[], false).outage, ms(20), "nothing was ever served");
        assert_eq!(books(10, &[], &[], false).outage, Duration::ZERO);
    }

    #[test]
    fn answers_that_come_twice_or_to_nothing_are_told_apart() {
        let report = books(10, &[0, 10], &[(1, 12, 0), (1, 13, 0), (0, 2, 0), (7, 1, 0)], false);
        assert_eq!((report.answered, report.duplicates, report.lost), (2, 1, 0));
    }

    #[test]
    fn a_tcp_request_counts_from_its_start_and_only_if_it_was_prompt() {
        let report = books(10, &[0, 10, 20, 30], &[(0, 1, 0), (1, 1012, 0), (2, 1022, 0), (3, 31, 0)], true);
        assert_eq!((report.outage, report.lost), (ms(30), 0), "two were answered after a second SYN only");
    }

    #[test]
    fn each_source_has_its_own_gap() {
        let start = Instant::now();
        let sent: Vec<_> = (0..8).map(|at| start + ms(at * 10)).collect();
        let at = |id: u32| Served { id, arrived: start + ms(u64::from(id) * 10 + 1), held: Duration::ZERO, pod: 0 };
        // Of the second source, numbers 3 and 5 were lost.
        let gaps = by_source(2, ms(10), &sent, &[at(0), at(1), at(2), at(4), at(6), at(7)], start);
        assert_eq!(gaps.iter().map(|gap| gap.length).collect::<Vec<_>>(), [ms(20), ms(60)]);
        assert_eq!(gaps[1].end, start + ms(71));
        let gaps = by_source(2, ms(10), &sent, &[at(0), at(6), at(7)], start + ms(55));
        assert_eq!(
            gaps.iter().map(|gap| gap.length).collect::<Vec<_>>(),
            [ms(1), ms(1)],
            "what was before is no matter"
        );
    }

    #[test]
    fn numbers_read_as_they_print() {
        let number = Number { run: 3, id: 77 };
        assert_eq!(Number::parse(&number.to_string()), Some((number, Duration::ZERO)));
        assert_eq!(Number::parse("#3.77 1500\n"), Some((number, Duration::from_micros(1500))));
        for wrong in ["", "3.77", "#3", "#a.b", "#1.2 x", "#1.99999999999"] {
            assert_eq!(Number::parse(wrong), None, "{wrong}");
        }
    }
}
