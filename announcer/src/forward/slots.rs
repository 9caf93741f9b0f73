//! A service's node table: to which node each slot's connections go, and where else they may live.
//!
//! The second is what a mid-flow packet is tried with that finds no flow at the slot's node. It is the node the slot
//! went to before, if one is recorded. A slot of this node without such a record has an *alternate*, so that a node
//! that was away or has just started need not know its history: the node to which the others' table gives the slot
//! while this one is away. They compute the same table, from the same nodes without this one.

use crate::forward::maglev;

/// How many different tables a [`Builder`] keeps.
const MAX_KEPT: usize = 64;

/// A node's part in a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its number in the kernel's map.
    pub(super) node: u16,
    /// The number of its pods.
    pub(super) weight: u32,
}

/// A slot; nodes by their numbers, 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    current: u16,
    before: u16,
    alternate: u16,
}

impl Slot {
    /// The slot as the kernel reads it.
    pub(super) fn word(self) -> u32 {
        let other = if self.before == 0 { self.alternate } else { self.before };
        u32::from(self.current) | u32::from(other) << 16
    }
}

/// The table of the nodes that serve, without history. `me` is this node's number; its slots' alternates come from
/// the other nodes, or, if it serves alone, from those in `standby`.
pub(super) fn build(serving: &[Share<'_>], standby: &[Share<'_>], me: u16) -> Vec<Slot> {
    let mut others: Vec<Share<'_>> = serving.iter().filter(|share| share.node != me).copied().collect();
    if others.is_empty() {
        others.extend(standby);
    }
    let alternates = maglev(&others, maglev::size(others.len()));
    // A node alone has no finer table than that of the many that are away.
    let size = maglev::size(serving.len().max(others.len()));
    let slot = |(slot, current): (usize, u16)| {
        let own = || slot.checked_rem(alternates.len()).and_then(|slot| alternates.get(slot)).copied();
        Slot { current, before: 0, alternate: if current == me { own().unwrap_or(0) } else { 0 } }
    };
    maglev(serving, size).into_iter().enumerate().map(slot).collect()
}

/// The nodes of a table by number and weight: those that serve, and those that stand by.
type Kind = [Vec<(u16, u32)>; 2];

/// Builds the tables of one moment. Most services are served by the same nodes, so when a node dies few tables have to be made
/// for however many services.
#[derive(Debug, Default)]
pub(super) struct Builder {
    kept: Vec<(Kind, Vec<Slot>)>,
}

impl Builder {
    /// As [`build`]; `me` and the names of the numbers must be the same each time.
    pub(super) fn build(&mut self, serving: &[Share<'_>], standby: &[Share<'_>], me: u16) -> Vec<Slot> {
        let kind = [serving, standby].map(|shares| shares.iter().map(|share| (share.node, share.weight)).collect());
        if let Some((_, table)) = self.kept.iter().find(|(kept, _)| *kept == kind) {
            return table.clone();
        }
        let table = build(serving, standby, me);
        if self.kept.len() < MAX_KEPT {
            self.kept.push((kind, table.clone()));
        }
        table
    }
}

fn maglev(shares: &[Share<'_>], size: u32) -> Vec<u16> {
    let entries: Vec<_> = shares.iter().map(|share| maglev::Entry::new(share.name.as_bytes(), share.weight)).collect();
    let table = maglev::build(&entries, size);
    table.iter().filter_map(|at| shares.get(*at as usize)).map(|share| share.node).collect()
}

/// Records in a new table the node each slot had in the table it replaces. A slot that did not change keeps the
/// record it has. Nodes that are `known` no more are forgotten.
///
/// Sizes divide one another, so a connection's slot in the smaller table follows from that in the larger; the other
/// way round, when a table shrinks, one of the candidates is taken.
pub(super) fn remember(table: &mut [Slot], replaced: &[Slot], known: impl Fn(u16) -> bool) {
    for (at, slot) in table.iter_mut().enumerate() {
        let Some(old) = at.checked_rem(replaced.len()).and_then(|at| replaced.get(at)) else { return };
        let wanted = |&node: &u16| node != slot.current && node != 0 && known(node);
        slot.before = [old.current, old.before].into_iter().find(wanted).unwrap_or(0);
    }
}

/// The table of a service that nobody serves: without current nodes, so that there is no new connection, but with a
/// place for the record of where connections live that go on.
pub(super) fn vacant(size: usize) -> Vec<Slot> {
    vec![Slot::default(); size]
}

/// Forgets a node in a table's records and alternates; whether it was there.
pub(super) fn forget(table: &mut [Slot], node: u16) -> bool {
    let mut found = false;
    for field in table.iter_mut().flat_map(|slot| [&mut slot.before, &mut slot.alternate]) {
        if *field == node {
            *field = 0;
            found = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];

    fn slot(current: u16, before: u16) -> Slot {
        Slot { current, before, alternate: 0 }
    }

    fn current(nodes: &[u16]) -> Vec<Slot> {
        nodes.iter().map(|node| slot(*node, 0)).collect()
    }

    fn with_history(nodes: &[u16], replaced: &[Slot], known: impl Fn(u16) -> bool) -> Vec<Slot> {
        let mut table = current(nodes);
        remember(&mut table, replaced, known);
        table
    }

    fn shares(nodes: &[u16]) -> Vec<Share<'static>> {
        nodes.iter().map(|&node| Share { name: NAMES[usize::from(node)], node, weight: u32::from(node) }).collect()
    }

    #[test]
    fn a_changed_slot_remembers_the_node_it_had() {
        assert_eq!(with_history(&[2, 1], &current(&[1, 1]), |_| true), [slot(2, 1), slot(1, 0)]);
    }

    #[test]
    fn an_unchanged_slot_keeps_its_memory() {
        assert_eq!(with_history(&[2], &[slot(2, 1)], |_| true), [slot(2, 1)]);
    }

    #[test]
    fn an_unknown_node_is_not_remembered_but_the_one_before_it_is() {
        assert_eq!(with_history(&[3], &[slot(2, 1)], |node| node != 2), [slot(3, 1)]);
        assert_eq!(with_history(&[3], &[slot(2, 0)], |node| node != 2), [slot(3, 0)]);
    }

    #[test]
    fn what_nobody_serves_remembers_who_did_and_hands_it_down() {
        let mut table = vacant(2);
        remember(&mut table, &[slot(1, 0), slot(2, 1)], |_| true);
        assert_eq!(table, [slot(0, 1), slot(0, 2)]);
        assert_eq!(with_history(&[3, 2], &table, |_| true), [slot(3, 1), slot(2, 0)]);
    }

    #[test]
    fn a_grown_table_finds_its_history_by_the_smaller_size() {
        let small = current(&[1, 2]);
        assert_eq!(with_history(&[3, 3, 3, 3], &small, |_| true), [slot(3, 1), slot(3, 2), slot(3, 1), slot(3, 2)]);
        assert_eq!(with_history(&[3], &[], |_| true), [slot(3, 0)]);
    }

    #[test]
    fn what_is_recorded_goes_before_the_alternate() {
        let alternate = Slot { current: 1, before: 0, alternate: 2 };
        assert_eq!(alternate.word(), 1 | 2 << 16);
        assert_eq!(Slot { before: 3, ..alternate }.word(), 1 | 3 << 16);
        assert_eq!(with_history(&[1], &[alternate], |_| true), [slot(1, 0)], "an alternate is no record");
    }

    #[test]
    fn the_alternates_of_a_nodes_slots_are_what_the_others_use_while_it_is_away() {
        for me in [1, 2, 3] {
            let others: Vec<u16> = [1, 2, 3].into_iter().filter(|node| *node != me).collect();
            let theirs = build(&shares(&others), &[], others[0]);
            for (slot, their) in build(&shares(&[1, 2, 3]), &shares(&[4]), me).iter().zip(theirs) {
                assert_eq!(slot.alternate, if slot.current == me { their.current } else { 0 });
            }
        }
    }

    #[test]
    fn a_table_that_is_asked_for_again_is_the_one_that_would_be_built() {
        let mut builder = Builder::default();
        let cases =
            [(&[1, 2, 3][..], &[][..]), (&[1, 2], &[]), (&[1], &[2]), (&[1, 2, 3], &[]), (&[1], &[2]), (&[], &[1])];
        for (serving, standby) in cases.map(|(serving, standby)| (shares(serving), shares(standby))) {
            assert_eq!(builder.build(&serving, &standby, 1), build(&serving, &standby, 1));
        }
        assert_eq!(builder.kept.len(), 4);
    }

    #[test]
    fn the_alternates_of_a_node_alone_are_what_the_nodes_out_of_sight_use() {
        let theirs = build(&shares(&[2, 3]), &[], 2);
        let mine = build(&shares(&[1]), &shares(&[2, 3]), 1);
        assert_eq!(mine.len(), theirs.len());
        assert!(mine.iter().zip(theirs).all(|(mine, their)| mine.current == 1 && mine.alternate == their.current));
        assert!(build(&shares(&[1]), &[], 1).iter().all(|slot| slot.alternate == 0));
        assert!(build(&[], &shares(&[2]), 1).is_empty());
    }

    #[test]
    fn tables_of_other_sizes_agree_on_a_connections_slot() {
        let names: Vec<String> = (0..12).map(|n| format!("node-{n}")).collect();
        let all: Vec<Share<'_>> = (1..).zip(&names).map(|(node, name)| Share { name, node, weight: 1 }).collect();
        let cases = [(&all[..11], &all[..0], &all[1..11]), (&all[..1], &all[1..], &all[1..])];
        for (serving, standby, others) in cases {
            let (mine, theirs) = (build(serving, standby, 1), build(others, &[], 2));
            for hash in 0..20_000 {
                let (mine, theirs) = (mine[hash % mine.len()], theirs[hash % theirs.len()]);
                assert!(mine.current != 1 || mine.alternate == theirs.current);
            }
        }
    }

    #[test]
    fn forgetting_leaves_the_current_nodes() {
        let mut table = [slot(1, 2), slot(2, 1), Slot { current: 1, before: 3, alternate: 2 }];
        assert!(forget(&mut table, 2));
        assert_eq!(table, [slot(1, 0), slot(2, 1), slot(1, 3)]);
        assert!(!forget(&mut table, 2));
    }
}
