//! The sliding window that lets each counter value pass once (after RFC 4303, section 3.4.3).
//!
//! UDP reorders, so a counter lower than the highest seen may be fresh; one bit per recent value remembers which
//! were used. What lies before the window is taken for a replay.

/// How many recent counter values are told apart.
pub(crate) const WINDOW: u64 = 1024;
const WORDS: usize = 16;

/// Which recent counter values of one sender's generation were seen.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// A window in which only `counter` was seen.
    pub(crate) fn starting_with(counter: u64) -> Self {
        let mut window = Self { highest: counter, seen: [0; WORDS] };
        window.mark(counter);
        window
    }

    /// True the first time `counter` is given; false for repeats and for what is too old to tell.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let steps = (counter - self.highest).min(WINDOW);
            for step in 1..=steps {
                self.clear(self.highest.wrapping_add(step));
            }
            if counter - self.highest >= WINDOW {
                self.seen = [0; WORDS];
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW || self.is_marked(counter) {
            return false;
        }
        self.mark(counter);
        true
    }

    /// Whether [`Self::accept`] would say yes.
    pub(crate) fn would_accept(&self, counter: u64) -> bool {
        counter > self.highest || (self.highest - counter < WINDOW && !self.is_marked(counter))
    }

    fn place(counter: u64) -> (usize, u64) {
        let bit = counter % WINDOW;
        // Below WORDS, so it fits any usize.
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn mark(&mut self, counter: u64) {
        let (word, mask) = Self::place(counter);
        self.seen[word] |= mask;
    }

    fn clear(&mut self, counter: u64) {
        let (word, mask) = Self::place(counter);
        self.seen[word] &= !mask;
    }

    fn is_marked(&self, counter: u64) -> bool {
        let (word, mask) = Self::place(counter);
        self.seen[word] & mask != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reordered_counters_pass_once_each() {
        let mut window = Window::starting_with(5);
        assert!(!window.accept(5));
        for (counter, fresh) in [(9, true), (7, true), (7, false), (0, true), (6, true), (9, false), (10, true)] {
            assert_eq!(window.accept(counter), fresh, "{counter}");
        }
    }

    #[test]
    fn what_lies_before_the_window_is_refused() {
        let mut window = Window::starting_with(1);
        assert!(window.accept(WINDOW + 1));
        assert!(!window.accept(1), "just outside");
        assert!(window.accept(2), "just inside");
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(WINDOW + 2));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_counters(counters in prop::collection::vec(0u64..4000, 1..400)) {
            let mut window = Window::starting_with(counters[0]);
            let mut seen = BTreeSet::from([counters[0]]);
            let mut highest = counters[0];
            for &counter in &counters[1..] {
                let too_old = highest >= WINDOW + counter;
                let expected = !too_old && !seen.contains(&counter);
                prop_assert_eq!(window.would_accept(counter), expected);
                prop_assert_eq!(window.accept(counter), expected);
                if expected { seen.insert(counter); }
                highest = highest.max(counter);
            }
        }
    }
}
