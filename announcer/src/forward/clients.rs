//! How many clients are remembered for services with affinity, and how many were pushed out before their time was over.
//!
//! The kernel's map pushes out whoever was used least recently, and tells nobody. It also keeps those whose time is over. So the
//! agent takes these out before the map is full, and then whoever is missing from the books was pushed out.

use std::time::{Duration, Instant};

/// Between two looks at the whole map, each of which takes some tens of milliseconds.
const PAUSE: Duration = Duration::from_secs(10);

/// The books.
#[derive(Debug)]
pub(super) struct Clients {
    capacity: u64,
    /// There were so many after the last look.
    present: u64,
    /// So many had been added before it.
    added: u64,
    /// Were there at the beginning.
    found: u64,
    /// Had been added by then.
    ignored: u64,
    /// Taken out since the beginning.
    removed: u64,
    /// Pushed out since then.
    lost: u64,
    next: Option<Instant>,
}

impl Clients {
    /// The map held `present` clients, a predecessor's too, when this program had added `added`.
    pub(super) const fn new(capacity: u32, present: u64, added: u64) -> Self {
        let capacity = capacity as u64;
        Self { capacity, present, added, found: present, ignored: added, removed: 0, lost: 0, next: None }
    }

    /// Whether the map is to be looked through, `added` having been added to it by this program: where half of what was free
    /// after the last look may be taken.
    pub(super) fn is_due(&self, added: u64, now: Instant) -> bool {
        let free = self.capacity.saturating_sub(self.present);
        let new = added.saturating_sub(self.added);
        new > 0 && new >= free / 2 && self.next.is_none_or(|next| next <= now)
    }

    /// It was looked through, begun when `added` had been added: `removed` were taken out, `present` are left. How many more
    /// have been pushed out; of what is added meanwhile, some may be told next time only.
    pub(super) fn looked(&mut self, added: u64, removed: u64, present: u64, now: Instant) -> u64 {
        self.removed += removed;
        (self.present, self.added, self.next) = (present, added, Some(now + PAUSE));
        let came = self.found + added.saturating_sub(self.ignored);
        let more = came.saturating_sub(self.removed + present).saturating_sub(self.lost);
        self.lost += more;
        more
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_looked_through_when_half_of_what_was_free_may_be_taken_and_not_all_the_time() {
        let (mut clients, now) = (Clients::new(100, 0, 0), Instant::now());
        assert!(!clients.is_due(49, now) && clients.is_due(50, now));
        assert_eq!(clients.looked(50, 0, 50, now), 0);
        assert!(!clients.is_due(75, now), "just looked");
        let later = now + PAUSE;
        assert!(!clients.is_due(74, later) && clients.is_due(75, later));
        assert_eq!(clients.looked(100, 0, 100, later), 0);
        assert!(!clients.is_due(100, later + PAUSE), "full, and nobody comes");
        assert!(clients.is_due(101, later + PAUSE));
    }

    #[test]
    fn who_is_neither_there_nor_was_taken_out_was_pushed_out() {
        let (mut clients, now) = (Clients::new(100, 0, 0), Instant::now());
        assert_eq!(clients.looked(130, 10, 95, now), 25);
        assert_eq!(clients.looked(130, 95, 0, now), 0, "told once");
        assert_eq!(clients.looked(200, 0, 70, now), 0);
        // Two that came while it was looked through are there already.
        assert_eq!(clients.looked(230, 0, 100, now), 0);
        assert_eq!(clients.looked(235, 0, 100, now), 5);
    }

    #[test]
    fn clients_that_a_predecessor_left_are_in_the_books() {
        let (mut clients, now) = (Clients::new(100, 80, 3), Instant::now());
        assert!(!clients.is_due(12, now) && clients.is_due(13, now), "20 are free, and 3 were among the 80");
        assert_eq!(clients.looked(33, 0, 100, now), 10);
        assert_eq!(clients.looked(33, 100, 0, now), 0, "told once");
    }
}
