//! Maglev's consistent hashing (Eisenbud et al., NSDI 2016, section 3.4), weighted.
//!
//! Each entry walks the table in an order of its own, made from its name; the entries take turns, those of less
//! weight sit turns out, until the table is full. So every node that knows the same entries builds the same table,
//! shares follow the weights, and a change of the entries moves few slots of the others.
//!
//! The paper wants a prime size, so that every step visits every slot. Sizes here are 1021 * 4^n: a walk steps through 1021
//! groups of 4^n slots, and looks at all slots of a group before it goes on. So a connection's slot in a smaller table
//! is its slot in a larger one divided by 4^n, and mostly the same entry's: neither does history end at a change of size, nor
//! do most connections move, as they would if each size had walks of its own. The price, measured in this module's tests, is that a
//! table of many entries moves a few percent more of its slots when one of them leaves.

use std::{cmp::Reverse, collections::BinaryHeap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The size of the smallest table, and the groups of each; a prime.
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

/// The table of a [`size`]: for each slot the position of its entry. The entries' order breaks ties, so it must be the same on
/// every node. Empty if no entry has weight.
#[must_use]
pub fn build(entries: &[Entry], size: u32) -> Vec<u32> {
    let heaviest = u64::from(entries.iter().map(|entry| entry.weight).max().unwrap_or(0));
    if heaviest == 0 || size == 0 {
        return Vec::new();
    }
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
    let mut walks: Vec<Walk> = entries.iter().map(Walk::new).collect();
    // Who is next, by turn and position: light entries beside heavy ones are not asked in the turns they sit out.
    let turns = (0_u32..).zip(&walks).filter(|(_, walk)| walk.weight > 0);
    let mut turns: BinaryHeap<_> = turns.map(|(position, _)| Reverse((1_u64, position))).collect();
    for _ in 0..table.len() {
        let Some(mut next) = turns.peek_mut() else { break };
        let Reverse((_, position)) = *next;
        let Some(walk) = usize::try_from(position).ok().and_then(|at| walks.get_mut(at)) else { break };
        walk.take(&mut table, position);
        walk.due += heaviest;
        *next = Reverse((walk.due.div_ceil(walk.weight), position));
    }
    table
}

/// An entry on its way through the table.
struct Walk {
    offset: u64,
    /// From group to group, 1 to [`BASE`] - 1.
    step: u64,
    /// Slots looked at so far.
    seen: u64,
    weight: u64,
    /// The turn times weight at which it may take its next slot.
    due: u64,
}

impl Walk {
    fn new(entry: &Entry) -> Self {
        let (offset, step) = (entry.offset, entry.step % u64::from(BASE - 1) + 1);
        Self { offset, step, seen: 0, weight: u64::from(entry.weight), due: u64::from(entry.weight) }
    }

    /// Takes the next free slot of the walk, if there is any.
    fn take(&mut self, table: &mut [u32], position: u32) {
        for _ in 0..table.len() {
            let slot = usize::try_from(self.look(table.len() as u64)).ok().and_then(|at| table.get_mut(at));
            if let Some(slot) = slot.filter(|slot| **slot == u32::MAX) {
                *slot = position;
                return;
            }
        }
    }

    /// The next slot of a table of `size`.
    fn look(&mut self, size: u64) -> u64 {
        let base = u64::from(BASE);
        let width = (size / base).max(1);
        let group = (self.offset + self.seen / width * self.step) % base;
        let within = (self.offset / base + self.seen) % width;
        self.seen = (self.seen + 1) % size.max(1);
        group * width + within
    }
}

#[cfg(test)]
mod tests;
