//! A node table's history: where each slot's connections went before its node changed.

/// `current` with the node each slot had before, from the table it replaces. A slot that did not change keeps the
/// node it remembers. Nodes that are `alive` no more are forgotten: nobody there could take the packet.
///
/// Sizes divide one another, so a connection's slot in the smaller table follows from that in the larger; the other
/// way round, when a table shrinks, one of the candidates is taken.
pub(super) fn with_history(current: &[u32], replaced: &[u32], alive: impl Fn(u32) -> bool) -> Vec<u32> {
    let remembered = |slot: usize, node: u32| {
        let Some(old) = slot.checked_rem(replaced.len()).and_then(|slot| replaced.get(slot)) else { return 0 };
        let (was, before) = (old & 0xffff, old >> 16);
        let candidates = [was, before];
        candidates.into_iter().find(|&candidate| candidate != node && candidate != 0 && alive(candidate)).unwrap_or(0)
    };
    current.iter().enumerate().map(|(slot, &node)| node | remembered(slot, node) << 16).collect()
}

/// Forgets a node in a table's history; whether it was there.
pub(super) fn forget(table: &mut [u32], node: u32) -> bool {
    let mut found = false;
    for slot in table.iter_mut().filter(|slot| **slot >> 16 == node) {
        *slot &= 0xffff;
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn slot(current: u32, previous: u32) -> u32 {
        current | previous << 16
    }

    #[test]
    fn a_changed_slot_remembers_the_node_it_had() {
        assert_eq!(with_history(&[2, 1], &[1, 1], |_| true), [slot(2, 1), slot(1, 0)]);
    }

    #[test]
    fn an_unchanged_slot_keeps_its_memory() {
        assert_eq!(with_history(&[2], &[slot(2, 1)], |_| true), [slot(2, 1)]);
    }

    #[test]
    fn a_dead_node_is_not_remembered_but_the_one_before_it_is() {
        assert_eq!(with_history(&[3], &[slot(2, 1)], |node| node != 2), [slot(3, 1)]);
        assert_eq!(with_history(&[3], &[slot(2, 0)], |node| node != 2), [slot(3, 0)]);
    }

    #[test]
    fn a_grown_table_finds_its_history_by_the_smaller_size() {
        assert_eq!(with_history(&[3, 3, 3, 3], &[1, 2], |_| true), [slot(3, 1), slot(3, 2), slot(3, 1), slot(3, 2)]);
        assert_eq!(with_history(&[3], &[], |_| true), [slot(3, 0)]);
    }

    #[test]
    fn forgetting_leaves_the_current_nodes() {
        let mut table = [slot(1, 2), slot(2, 1)];
        assert!(forget(&mut table, 2));
        assert_eq!(table, [slot(1, 0), slot(2, 1)]);
        assert!(!forget(&mut table, 2));
    }
}
