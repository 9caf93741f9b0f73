//! A service's node table: to which node each slot's connections go, and where else they may live.
//!
//! The others are what a mid-flow packet is tried with that finds no flow at the slot's node. They are the nodes the slot
//! went to before, as far as they are recorded. A slot of this node without such a record has an *alternate*, so that a node
//! that was away or has just started need not know its history: the node to which the others' table gives the slot
//! while this one is away. They compute the same table, from the same nodes without this one.

use forwarder_ebpf::NodeSlot;

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
    /// The shares of its pods together.
    pub(super) weight: u32,
}

/// A slot; nodes by their numbers, 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    current: u16,
    /// Newest first.
    before: [u16; NodeSlot::BEFORE],
    alternate: u16,
    /// This node has, or had, or may have had the slot: flows of it may be here.
    mine: bool,
}

impl Slot {
    /// The slot as the kernel reads it.
    pub(super) fn word(self) -> u64 {
        let mut before = self.before;
        if !before.contains(&self.alternate)
            && let Some(free) = before.iter_mut().find(|node| **node == 0)
        {
            *free = self.alternate;
        }
        NodeSlot::new(self.current, before, self.mine).0
    }

    /// Flows of it may be here, from before this agent's time.
    pub(super) fn claim(&mut self) {
        self.mine = true;
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
    let table = maglev(serving, maglev::size(serving.len().max(others.len())));
    let slot = |(at, &current): (usize, &u16)| {
        let mine = current == me;
        let own = || same_place(at, table.len(), &alternates).copied().unwrap_or(0);
        Slot { current, alternate: if mine { own() } else { 0 }, mine, ..Slot::default() }
    };
    table.iter().enumerate().map(slot).collect()
}

/// Where the connections of the slot at `at` of a table of `len` slots are in another one. Sizes are multiples of one another: in a
/// larger table they are in several slots, of which this is the first.
fn same_place<T>(at: usize, len: usize, other: &[T]) -> Option<&T> {
    other.get((at * other.len()).checked_div(len)?)
}

/// The nodes of a table by number and weight: those that serve, and those that stand by.
pub(super) type Kind = [Vec<(u16, u32)>; 2];

/// The kind of table that these nodes make.
pub(super) fn kind(serving: &[Share<'_>], standby: &[Share<'_>]) -> Kind {
    [serving, standby].map(|shares| shares.iter().map(|share| (share.node, share.weight)).collect())
}

/// Builds the tables of one moment. Most services are served by the same nodes, so when a node dies few tables have to be made
/// for however many services.
#[derive(Debug, Default)]
pub(super) struct Builder {
    kept: Vec<(Kind, Vec<Slot>)>,
}

impl Builder {
    /// As [`build`]; `me` and the names of the numbers must be the same each time.
    pub(super) fn build(&mut self, serving: &[Share<'_>], standby: &[Share<'_>], me: u16) -> Vec<Slot> {
        let kind = kind(serving, standby);
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

/// Records in a new table the nodes each slot had in the table it replaces, newest first. Nodes that are `known` no more
/// are forgotten. `me` is this node's number.
///
/// Sizes divide one another, so a connection's slot in the smaller table follows from that in the larger; the other
/// way round, when a table shrinks, one of the candidates is taken.
pub(super) fn remember(table: &mut [Slot], replaced: &[Slot], me: u16, known: impl Fn(u16) -> bool) {
    let len = table.len();
    for (at, slot) in table.iter_mut().enumerate() {
        let Some(old) = same_place(at, len, replaced) else { return };
        let former = std::iter::once(old.current).chain(old.before);
        let mut kept = former.filter(|&node| node != slot.current && node != 0 && known(node));
        slot.before = std::array::from_fn(|_| kept.next().unwrap_or(0));
        slot.mine |= old.mine || (me != 0 && slot.before.contains(&me));
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
    for slot in table {
        if slot.alternate == node {
            slot.alternate = 0;
            found = true;
        }
        if slot.before.contains(&node) {
            let mut kept = slot.before.into_iter().filter(|other| *other != node);
            slot.before = std::array::from_fn(|_| kept.next().unwrap_or(0));
            found = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use forwarder_ebpf::steer;

    use super::*;

    const NAMES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];

    fn slot<const N: usize>(current: u16, before: [u16; N]) -> Slot {
        let before = std::array::from_fn(|at| before.get(at).copied().unwrap_or(0));
        Slot { current, before, ..Slot::default() }
    }

    fn current(nodes: &[u16]) -> Vec<Slot> {
        nodes.iter().map(|node| slot(*node, [])).collect()
    }

    fn with_history(nodes: &[u16], replaced: &[Slot], known: impl Fn(u16) -> bool) -> Vec<Slot> {
        let mut table = current(nodes);
        remember(&mut table, replaced, 0, known);
        table
    }

    fn shares(nodes: &[u16]) -> Vec<Share<'static>> {
        nodes.iter().map(|&node| Share { name: NAMES[usize::from(node)], node, weight: u32::from(node) }).collect()
    }

    #[test]
    fn a_changed_slot_remembers_the_node_it_had() {
        assert_eq!(with_history(&[2, 1], &current(&[1, 1]), |_| true), [slot(2, [1]), slot(1, [])]);
    }

    #[test]
    fn a_slot_remembers_three_nodes_and_each_once() {
        let mut table = current(&[1]);
        for (node, before) in
            [(2, [1, 0, 0]), (1, [2, 0, 0]), (3, [1, 2, 0]), (4, [3, 1, 2]), (5, [4, 3, 1]), (5, [4, 3, 1])]
        {
            table = with_history(&[node], &table, |_| true);
            assert_eq!(table, [slot(node, before)]);
        }
    }

    #[test]
    fn an_unknown_node_is_not_remembered_but_the_one_before_it_is() {
        assert_eq!(with_history(&[3], &[slot(2, [1])], |node| node != 2), [slot(3, [1])]);
        assert_eq!(with_history(&[3], &[slot(2, [])], |node| node != 2), [slot(3, [])]);
    }

    #[test]
    fn a_slot_that_was_this_nodes_stays_marked() {
        let (me, mut table) = (1, build(&shares(&[1]), &[], 1));
        for nodes in [[2, 3], [3, 4], [4, 2]] {
            let mut next = build(&shares(&nodes), &[], me);
            remember(&mut next, &table, me, |_| true);
            table = next;
        }
        assert!(table.iter().all(|slot| slot.mine && slot.current != me && NodeSlot(slot.word()).is_mine()));
        let mut strangers = build(&shares(&[2, 3]), &[], me);
        assert!(strangers.iter().all(|slot| !slot.mine));
        strangers.iter_mut().for_each(Slot::claim);
        assert!(strangers.iter().all(|slot| slot.mine));
    }

    #[test]
    fn what_nobody_serves_remembers_who_did_and_hands_it_down() {
        let mut table = vacant(2);
        remember(&mut table, &[slot(1, []), slot(2, [1])], 0, |_| true);
        assert_eq!(table, [slot(0, [1]), slot(0, [2, 1])]);
        assert_eq!(with_history(&[3, 2], &table, |_| true), [slot(3, [1]), slot(2, [1])]);
    }

    #[test]
    fn a_grown_table_finds_its_history_by_the_smaller_size() {
        let small = current(&[1, 2]);
        let grown = [slot(3, [1]), slot(3, [1]), slot(3, [2]), slot(3, [2])];
        assert_eq!(with_history(&[3, 3, 3, 3], &small, |_| true), grown);
        assert_eq!(with_history(&[3], &[], |_| true), [slot(3, [])]);
        assert_eq!(with_history(&[4, 4], &grown, |_| true), [slot(4, [3, 1]), slot(4, [3, 2])]);
    }

    #[test]
    fn what_is_recorded_goes_before_the_alternate() {
        let alternate = Slot { current: 1, alternate: 2, ..Slot::default() };
        assert_eq!(NodeSlot(alternate.word()).before(), [2, 0, 0]);
        assert_eq!(NodeSlot(Slot { before: [3, 0, 0], ..alternate }.word()).before(), [3, 2, 0]);
        assert_eq!(NodeSlot(Slot { before: [2, 3, 0], ..alternate }.word()).before(), [2, 3, 0]);
        assert_eq!(with_history(&[1], &[alternate], |_| true), [slot(1, [])], "an alternate is no record");
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
            for hash in (0..20_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                let at = |table: &[Slot]| table[steer::node_slot(hash, table.len().try_into().unwrap()) as usize];
                let (mine, theirs) = (at(&mine), at(&theirs));
                assert!(mine.current != 1 || mine.alternate == theirs.current);
            }
        }
    }

    #[test]
    fn forgetting_leaves_the_current_nodes() {
        let mut table = [slot(1, [2]), slot(2, [1]), Slot { alternate: 2, ..slot(1, [3, 2, 4]) }];
        assert!(forget(&mut table, 2));
        assert_eq!(table, [slot(1, []), slot(2, [1]), slot(1, [3, 4])]);
        assert!(!forget(&mut table, 2));
    }
}
