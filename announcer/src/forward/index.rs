//! Numbers for things: places in the kernel's arrays, used again only after a rest.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Gives each key a number, from 1 on (0 means none in the kernel's maps).
#[derive(Debug)]
pub(super) struct Indices<K> {
    by_key: BTreeMap<K, u32>,
    free: Vec<u32>,
    resting: VecDeque<(Instant, u32)>,
    next: u32,
    capacity: u32,
    rest: Duration,
}

impl<K: Ord + Clone> Indices<K> {
    /// Numbers below `capacity`; one given back rests before it is used again.
    pub(super) fn new(capacity: u32, rest: Duration) -> Self {
        Self { by_key: BTreeMap::new(), free: Vec::new(), resting: VecDeque::new(), next: 1, capacity, rest }
    }

    /// The key's number.
    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The key's number, a new one if it has none; `None` if all are in use or resting.
    pub(super) fn assign(&mut self, key: &K) -> Option<u32> {
        if let Some(index) = self.get(key) {
            return Some(index);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.next < self.capacity => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.by_key.insert(key.clone(), index);
        Some(index)
    }

    /// Takes the numbers of all keys that are not to be kept; they rest from now on.
    pub(super) fn release(&mut self, now: Instant, keep: impl Fn(&K) -> bool) -> Vec<u32> {
        let mut gone = Vec::new();
        self.by_key.retain(|key, index| {
            let kept = keep(key);
            if !kept {
                gone.push(*index);
            }
            kept
        });
        self.resting.extend(gone.iter().map(|index| (now + self.rest, *index)));
        gone
    }

    /// Makes the numbers whose rest is over free, and names them.
    pub(super) fn wake(&mut self, now: Instant) -> Vec<u32> {
        let mut woken = Vec::new();
        while self.next_wake().is_some_and(|until| until <= now) {
            woken.extend(self.resting.pop_front().map(|(_, index)| index));
        }
        self.free.extend(&woken);
        woken
    }

    /// When the next rest is over.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.front().map(|(until, _)| *until)
    }

    /// All keys with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.by_key.iter().map(|(key, index)| (key, *index))
    }
}
