//! When what is to be written is written: in one's turn, once, and what changes all the time not all the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::plan::{Key, Write};

/// What was attempted is attempted again if it is still to be written after so long; until then its echo is waited for.
pub(super) const AGAIN: Duration = Duration::from_secs(5);
/// What was done and has no echo is done again after so long, as it may have been undone or forgotten.
const REMIND: Duration = Duration::from_secs(300);
/// What can wait is written at most so often.
const CALM: Duration = Duration::from_secs(5);

/// What is known of something that is to be written.
#[derive(Debug)]
struct Known {
    /// A hash of what is to be written.
    content: u64,
    since: Instant,
    attempted: Option<Instant>,
    /// It was done, and nothing that is watched will show it.
    done: bool,
    complaint: Option<String>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pace {
    known: BTreeMap<Key, Known>,
    /// When something was last written, of what is written often.
    calm: BTreeMap<Key, Instant>,
}

impl Pace {
    /// What of the plan is to be written now by one who leaves it to others for `patience`; and when to ask again.
    pub(super) fn due(
        &mut self,
        planned: Vec<Write>,
        patience: Duration,
        now: Instant,
    ) -> (Vec<Write>, Option<Instant>) {
        let mut known = std::mem::take(&mut self.known);
        self.calm.retain(|_, last| now < *last + CALM);
        let (mut due, mut wake) = (Vec::new(), None::<Instant>);
        for write in planned {
            if write.is_left && !patience.is_zero() {
                continue;
            }
            let (key, content) = (write.change.key(), write.change.content());
            let entry = match known.remove(&key) {
                Some(entry) if entry.content == content => entry,
                _ => Known { content, since: now, attempted: None, done: false, complaint: None },
            };
            let mut at = entry.since + patience;
            if let Some(attempted) = entry.attempted {
                at = at.max(attempted + if entry.done { REMIND } else { AGAIN });
            }
            if write.can_wait
                && let Some(last) = self.calm.get(&key)
            {
                at = at.max(*last + CALM);
            }
            if at <= now {
                due.push(write);
            } else {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
            self.known.insert(key, entry);
        }
        (due, wake)
    }

    /// Notes that something was attempted.
    pub(super) fn attempted(&mut self, write: &Write, now: Instant) {
        let key = write.change.key();
        if let Some(known) = self.known.get_mut(&key) {
            known.attempted = Some(now);
            known.done = false;
        }
        self.calm.insert(key, now);
    }

    /// Notes that what was attempted last was done.
    pub(super) fn done(&mut self, write: &Write) {
        if let Some(known) = self.known.get_mut(&write.change.key()) {
            known.done = !write.change.has_echo();
        }
    }

    /// Whether that it could not be written for this reason has not been said yet.
    pub(super) fn is_news(&mut self, write: &Write, complaint: &str) -> bool {
        let Some(known) = self.known.get_mut(&write.change.key()) else { return true };
        let is_news = known.complaint.as_deref() != Some(complaint);
        known.complaint = Some(complaint.to_owned());
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::ServiceName, source::kubernetes::writer::plan::Change};

    fn write(version: &str, can_wait: bool) -> Write {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        let change = Change::Ingress { service, version: version.into(), addresses: Vec::new() };
        Write { change, events: Vec::new(), can_wait, is_left: false }
    }

    #[test]
    fn who_is_not_first_writes_only_what_stays_unwritten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let patience = Duration::from_secs(3);
        let (due, wake) = pace.due(vec![write("1", false)], patience, start);
        assert_eq!((due.len(), wake), (0, Some(start + patience)));
        assert_eq!(pace.due(vec![write("2", false)], patience, start + patience).0.len(), 0, "that is another one");
        assert_eq!(pace.due(vec![], patience, start + patience * 2).0.len(), 0);
        assert_eq!(
            pace.due(vec![write("2", false)], patience, start + patience * 2).0.len(),
            0,
            "it had been written meanwhile"
        );
        assert_eq!(pace.due(vec![write("2", false)], patience, start + patience * 3).0.len(), 1);
    }

    #[test]
    fn what_was_attempted_is_not_repeated_at_once_but_after_a_while() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (due, _) = pace.due(vec![write("1", false)], Duration::ZERO, start);
        pace.attempted(&due[0], start);
        assert!(pace.is_news(&due[0], "no rights") && !pace.is_news(&due[0], "no rights"));
        let (due, wake) = pace.due(vec![write("1", false)], Duration::ZERO, start);
        assert_eq!((due.len(), wake), (0, Some(start + AGAIN)));
        assert_eq!(pace.due(vec![write("1", false)], Duration::ZERO, start + AGAIN).0.len(), 1);
        assert_eq!(pace.due(vec![write("2", false)], Duration::ZERO, start).0.len(), 1, "a newer one");
    }

    #[test]
    fn what_nobody_sees_is_done_once_and_then_now_and_then() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let pod = |healthy| Write {
            change: Change::Pod { namespace: "default".into(), pod: "p".into(), uid: String::new(), healthy },
            events: Vec::new(),
            can_wait: false,
            is_left: false,
        };
        let (due, _) = pace.due(vec![pod(true)], Duration::ZERO, start);
        pace.attempted(&due[0], start);
        let (due, _) = pace.due(vec![pod(true)], Duration::ZERO, start + AGAIN);
        assert_eq!(due.len(), 1, "it had failed");
        pace.attempted(&due[0], start + AGAIN);
        pace.done(&due[0]);
        let (due, wake) = pace.due(vec![pod(true)], Duration::ZERO, start + AGAIN * 3);
        assert_eq!((due.len(), wake), (0, Some(start + AGAIN + REMIND)));
        assert_eq!(pace.due(vec![pod(false)], Duration::ZERO, start + AGAIN * 3).0.len(), 1, "it says otherwise");
    }

    #[test]
    fn what_nobody_sees_is_left_to_the_first_and_done_by_who_becomes_it() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        let change = Change::Tell { service, note: "no pool".into() };
        let tell = Write { change, events: Vec::new(), can_wait: false, is_left: true };
        let patience = Duration::from_secs(3);
        for later in 0..5 {
            let (due, wake) = pace.due(vec![tell.clone()], patience, start + patience * later);
            assert_eq!((due.len(), wake), (0, None));
        }
        assert_eq!(pace.due(vec![tell], Duration::ZERO, start + patience * 9).0.len(), 1);
    }

    #[test]
    fn what_can_wait_is_written_every_few_seconds_at_most() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (due, _) = pace.due(vec![write("1", true)], Duration::ZERO, start);
        pace.attempted(&due[0], start);
        assert_eq!(pace.due(vec![write("2", true)], Duration::ZERO, start).0.len(), 0);
        assert_eq!(pace.due(vec![write("3", false)], Duration::ZERO, start).0.len(), 1);
        assert_eq!(pace.due(vec![write("4", true)], Duration::ZERO, start + CALM).0.len(), 1);
    }
}
