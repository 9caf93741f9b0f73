//! Maglev's consistent hashing (Eisenbud et al., NSDI 2016, section 3.4), weighted.
//!
//! Each entry walks the table in an order of its own, made from its name; the entries take turns, those of less
//! weight sit turns out, until the table is full. So every node that knows the same entries builds the same table,
//! shares follow the weights, and a change of the entries moves few slots of the others.
//!
//! The paper wants a prime size, so that every step visits every slot. Sizes here are 1021 * 4^n with steps coprime
//! to that, which visits every slot too, and a connection's slot in a smaller table is its slot in a larger one
//! modulo the smaller size: history survives a change of size.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The size of the smallest table; a prime.
const BASE: u32 = 1021;
/// Slots per entry at least, for shares within a percent or two.
const PER_ENTRY: usize = 100;
/// The size of the largest table.
const LARGEST: u32 = BASE * 4 * 4 * 4 * 4;

const OFFSET_SEED: u64 = 0x6f66_6673;
const STEP_SEED: u64 = 0x7374_6570;

/// Something slots are given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    offset: u64,
    step: u64,
    weight: u32,
}

impl Entry {
    /// An entry by its name, which must differ from all others', with its share; a weight of 0 gets nothing.
    #[must_use]
    pub fn new(name: &[u8], weight: u32) -> Self {
        let hash = |seed| xxh3_64_with_seed(name, seed);
        Self { offset: hash(OFFSET_SEED), step: hash(STEP_SEED), weight }
    }
}

/// The table's size for a number of entries: a function of that alone, so that nodes agree; in coarse steps, so
/// that it seldom changes.
#[must_use]
pub fn size(entries: usize) -> u32 {
    let mut size = BASE;
    while (size as usize) < entries.saturating_mul(PER_ENTRY) && size < LARGEST {
        size *= 4;
    }
    size
}

/// The table: for each slot the position of its entry. The entries' order breaks ties, so it must be the same on
/// every node. Empty if no entry has weight.
#[must_use]
pub fn build(entries: &[Entry], size: u32) -> Vec<u32> {
    let heaviest = u64::from(entries.iter().map(|entry| entry.weight).max().unwrap_or(0));
    if heaviest == 0 || size == 0 {
        return Vec::new();
    }
    let size = u64::from(size);
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
    let mut walks: Vec<Walk> = entries.iter().map(|entry| Walk::new(entry, size)).collect();
    let mut left = table.len();
    for turn in 1_u64.. {
        for (position, walk) in (0_u32..).zip(&mut walks) {
            if walk.weight == 0 || turn * walk.weight < walk.due {
                continue;
            }
            walk.due += heaviest;
            if walk.take(&mut table, position, size) {
                left -= 1;
            }
            if left == 0 {
                return table;
            }
        }
    }
    table
}

/// An entry on its way through the table.
struct Walk {
    next: u64,
    step: u64,
    weight: u64,
    /// The turn times weight at which it may take its next slot.
    due: u64,
}

impl Walk {
    fn new(entry: &Entry, size: u64) -> Self {
        let mut step = (entry.step % size) | 1;
        if step.is_multiple_of(u64::from(BASE)) {
            step += 2;
        }
        Self { next: entry.offset % size, step, weight: u64::from(entry.weight), due: u64::from(entry.weight) }
    }

    /// Takes the next free slot of the walk, if there is any.
    fn take(&mut self, table: &mut [u32], position: u32, size: u64) -> bool {
        for _ in 0..table.len() {
            let slot = usize::try_from(self.next).ok().and_then(|at| table.get_mut(at));
            self.next = (self.next + self.step) % size;
            if let Some(slot) = slot.filter(|slot| **slot == u32::MAX) {
                *slot = position;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(names: &[(String, u32)]) -> Vec<Entry> {
        names.iter().map(|(name, weight)| Entry::new(name.as_bytes(), *weight)).collect()
    }

    fn even(count: usize) -> Vec<(String, u32)> {
        (0..count).map(|n| (format!("node-{n}"), 1)).collect()
    }

    fn shares(table: &[u32], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for &position in table {
            shares[position as usize] += 1;
        }
        shares
    }

    #[test]
    fn sizes_divide_each_other_and_grow_seldom() {
        assert_eq!([0, 1, 10, 11, 40, 41].map(size), [1021, 1021, 1021, 4084, 4084, 16_336]);
        assert_eq!(size(usize::MAX), LARGEST);
        assert_eq!(LARGEST % 4084, 0);
    }

    #[test]
    fn nothing_with_weight_makes_no_table() {
        assert!(build(&[], 1021).is_empty());
        assert!(build(&[Entry::new(b"a", 0)], 1021).is_empty());
    }

    #[test]
    fn losing_one_of_ten_moves_few_slots_of_the_others() {
        let all = even(10);
        let before = build(&entries(&all), 1021);
        let after = build(&entries(&all[..9]), 1021);
        let moved = before.iter().zip(&after).filter(|(old, new)| **old != 9 && old != new).count();
        assert!(moved < 1021 / 10, "{moved} slots of the survivors moved");
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0_u32..20, 1..40)) {
            let total: u32 = weights.iter().sum();
            let names: Vec<_> = weights.iter().enumerate().map(|(n, w)| (format!("n{n}"), *w)).collect();
            let size = size(weights.len());
            let table = build(&entries(&names), size);
            if total == 0 {
                prop_assert!(table.is_empty());
            } else {
                for (share, weight) in shares(&table, weights.len()).into_iter().zip(weights) {
                    let fair = f64::from(size) * f64::from(weight) / f64::from(total);
                    prop_assert!((share as f64 - fair).abs() <= 1.0 + f64::from(size) * 0.002, "{share} for {fair}");
                    prop_assert!((share == 0) == (weight == 0));
                }
            }
        }

        #[test]
        fn every_walk_visits_every_slot(name in "[a-z]{1,8}", power in 0_u32..4) {
            let size = BASE * 4_u32.pow(power);
            let table = build(&[Entry::new(name.as_bytes(), 3)], size);
            prop_assert!(table.iter().all(|&position| position == 0));
        }
    }
}
