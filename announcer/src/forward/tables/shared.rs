//! The node tables that the kernel has, each once, for however many services use it.
//!
//! Most services are served by the same few sets of nodes. A table is known by what is in it, history included, so services
//! come to share one whenever theirs become the same: those of one plan, and one that is added to thousands.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_ebpf::ROW_SLOTS;
use xxhash_rust::xxh3::Xxh3;

use crate::forward::{
    rows::Run,
    slots::{Slot, forget},
};

/// Node tables by the first of their rows. Those without slots have no rows, and are not here.
#[derive(Debug, Default)]
pub(super) struct NodeTables {
    by_row: BTreeMap<u32, NodeTable>,
    /// The same by a hash of what is in them.
    by_digest: BTreeSet<(u64, u32)>,
}

#[derive(Debug)]
struct NodeTable {
    run: Run,
    slots: Vec<Slot>,
    digest: u64,
    /// How many services use it.
    users: usize,
}

impl NodeTables {
    /// What is in the table of a run.
    pub(super) fn slots(&self, run: Run) -> &[Slot] {
        self.get(run).map_or(&[], |table| &table.slots)
    }

    /// The run of a table with these slots.
    pub(super) fn find(&self, slots: &[Slot]) -> Option<Run> {
        if slots.is_empty() {
            return Some(Run::default());
        }
        let digest = digest(slots);
        let alike = self.by_digest.range((digest, 0)..=(digest, u32::MAX));
        alike.filter_map(|(_, row)| self.by_row.get(row)).find(|table| table.slots == slots).map(|table| table.run)
    }

    /// A new table, which nobody uses yet.
    pub(super) fn insert(&mut self, run: Run, slots: Vec<Slot>) {
        if run.len == 0 {
            return;
        }
        let digest = digest(&slots);
        self.by_digest.insert((digest, run.start));
        self.by_row.insert(run.start, NodeTable { run, slots, digest, users: 0 });
    }

    /// One more service uses a table.
    pub(super) fn join(&mut self, run: Run) {
        if run.len > 0
            && let Some(table) = self.by_row.get_mut(&run.start)
        {
            table.users += 1;
        }
    }

    /// One service less does; whether it was the last, so that the table is no more.
    pub(super) fn leave(&mut self, run: Run) -> bool {
        if run.len == 0 {
            return false;
        }
        let Some(table) = self.by_row.get_mut(&run.start) else { return false };
        table.users = table.users.saturating_sub(1);
        if table.users > 0 {
            return false;
        }
        self.by_digest.remove(&(table.digest, run.start));
        self.by_row.remove(&run.start);
        true
    }

    /// Forgets a node in the records of all tables; those that have changed, as the kernel reads them.
    pub(super) fn forget(&mut self, node: u16) -> Vec<(Run, Vec<u64>)> {
        let mut changed = Vec::new();
        for table in self.by_row.values_mut().filter_map(|table| forget(&mut table.slots, node).then_some(table)) {
            self.by_digest.remove(&(table.digest, table.run.start));
            table.digest = digest(&table.slots);
            self.by_digest.insert((table.digest, table.run.start));
            changed.push((table.run, words(&table.slots)));
        }
        changed
    }

    /// How many services use each table.
    #[cfg(test)]
    pub(super) fn users(&self) -> Vec<usize> {
        self.by_row.values().map(|table| table.users).collect()
    }

    fn get(&self, run: Run) -> Option<&NodeTable> {
        if run.len == 0 { None } else { self.by_row.get(&run.start) }
    }
}

/// A table as the kernel reads it.
pub(super) fn words(slots: &[Slot]) -> Vec<u64> {
    slots.iter().map(|slot| slot.word()).collect()
}

/// The rows that so many slots take.
pub(super) fn rows_for(slots: usize) -> u32 {
    u32::try_from(slots).unwrap_or(u32::MAX).div_ceil(ROW_SLOTS)
}

/// Alike for tables that are: what has the same slots has the same words.
fn digest(slots: &[Slot]) -> u64 {
    let mut hasher = Xxh3::new();
    slots.iter().for_each(|slot| hasher.update(&slot.word().to_ne_bytes()));
    hasher.digest()
}
