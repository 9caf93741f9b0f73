//! One service's part of the maps: its tables, its entry, its place in the directory.

use std::{collections::BTreeMap, time::Instant};

use forwarder_ebpf::{BackendEntry, ROW_SLOTS, Row, ServiceEntry, limits};
use membership::NodeName;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BackendKey, Tables, address, key, number,
    shared::{NodeTables, rows_for, words},
};
use crate::forward::{
    maglev,
    plan::{Limit, Plan, Write},
    rows::{Rows, Run},
    slots::{self, Builder, Kind, Share, Slot},
    wanted::{Socket, Targets},
};

/// What is in the maps for a socket.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) targets: Targets,
    pub(super) node_run: Run,
    pub(super) local_run: Run,
    local_slots: u32,
    /// Which of its number's two entries it has.
    place: u32,
    /// Something did not fit, so it is planned again when there is room.
    partial: bool,
}

/// What is new in one plan.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// Numbers have become free: what was left out may fit now.
    room: bool,
    builder: Builder,
    /// Where the node tables went, by what they were made of: the table that was there, and the nodes. When a node dies, it is
    /// the same for most services.
    placed: BTreeMap<(Option<Run>, Kind), Run>,
}

impl Installed {
    /// The ranges of an entry that is used no more.
    pub(super) fn forgotten_sources(&self) -> impl Iterator<Item = Write> {
        self.targets.sources.iter().map(|net| Write::RemoveSource(self.place + 1, *net))
    }
}

impl Fresh {
    pub(super) fn new(room: bool) -> Self {
        Self { room, ..Self::default() }
    }
}

/// A service's tables, where they lie.
struct Placed {
    node_run: Run,
    local_run: Run,
    local_slots: u32,
    /// The local table is another than before.
    fresh_locals: bool,
}

impl Tables {
    /// Writes a service whose targets have changed: its tables, then an entry that leads to them, and last its place in the
    /// directory, by which it becomes true.
    pub(super) fn write_service(
        &mut self,
        socket: &Socket,
        targets: &Targets,
        fresh: &mut Fresh,
        now: Instant,
        plan: &mut Plan,
    ) {
        let old = self.services.get(socket);
        if let Some(old) = old.filter(|old| old.targets == *targets && !(old.partial && fresh.room)) {
            if old.partial {
                plan.limit(Limit::Backends);
            }
            return;
        }
        let second = old.is_some_and(|old| old.place.is_multiple_of(2));
        if self.sources + targets.sources.len() > limits::SOURCES as usize {
            return plan.limit(Limit::Sources);
        }
        let number = self.directory.has_room(&key(socket)).then(|| self.numbers.assign(socket)).flatten();
        let Some(number) = number else { return plan.limit(Limit::Services) };
        let new_counters = self.counted.get(&targets.labels).is_none();
        let Some(counted) = self.counted.assign(&targets.labels) else { return plan.limit(Limit::Counters) };
        if new_counters {
            plan.writes.push(Write::ResetCounters(counted));
        }
        let Some(tables) = self.write_tables(socket, targets, fresh, plan) else { return plan.limit(Limit::Rows) };
        let Placed { node_run, local_run, local_slots, fresh_locals } = tables;
        let place = 2 * number + u32::from(second);
        // A set for each entry, so that ranges that change are never half there either.
        let sources = if targets.sources.is_empty() { 0 } else { place + 1 };
        let entry = ServiceEntry {
            counted,
            node_row: node_run.start,
            node_slots: length(self.node_tables.slots(node_run)),
            local_row: local_run.start,
            local_slots,
            affinity: targets.affinity,
            sources,
        };
        plan.writes.extend(targets.sources.iter().map(|net| Write::Source(sources, *net)));
        plan.writes.push(Write::Service(place, entry));
        let pointed = self.directory.point(key(socket), place);
        plan.writes.extend(pointed.map(|(bucket, changed)| Write::Bucket(bucket, Box::new(changed))));
        let partial = self.is_partial(socket, targets);
        let installed = Installed { targets: targets.clone(), node_run, local_run, local_slots, place, partial };
        self.sources += targets.sources.len();
        if let Some(old) = self.services.insert(*socket, installed) {
            self.sources -= old.targets.sources.len();
            plan.writes.extend(old.forgotten_sources());
            release(&mut self.rows, &mut self.node_tables, old.node_run, now);
            if fresh_locals {
                self.rows.release(old.local_run, now);
            }
            if old.targets.labels != targets.labels {
                self.relabel_accounts(socket, targets, plan);
            }
        }
    }

    /// Writes both of a service's tables, or finds them written. `None` if there are no rows for them.
    fn write_tables(
        &mut self,
        socket: &Socket,
        targets: &Targets,
        fresh: &mut Fresh,
        plan: &mut Plan,
    ) -> Option<Placed> {
        let kept = self.kept_locals(socket, targets);
        let locals = if kept.is_some() { Vec::new() } else { self.local_table(socket, targets, plan) };
        let local = kept.or_else(|| Some((self.rows.take(rows_for(locals.len()))?, length(&locals))));
        let (local_run, local_slots) = local?;
        let Some(node_run) = self.place_nodes(socket, targets, fresh, plan) else {
            if kept.is_none() {
                self.rows.untake(local_run);
            }
            return None;
        };
        self.node_tables.join(node_run);
        plan.writes.extend(rows(local_run, &locals));
        Some(Placed { node_run, local_run, local_slots, fresh_locals: kept.is_none() })
    }

    /// Where a service's node table is: one that is there already, or else a new one.
    fn place_nodes(&mut self, socket: &Socket, targets: &Targets, fresh: &mut Fresh, plan: &mut Plan) -> Option<Run> {
        let [serving, standby] = [&targets.nodes, &targets.standby].map(|nodes| self.shares(nodes).collect::<Vec<_>>());
        let old = self.services.get(socket).map(|old| old.node_run);
        let made_of = (old, slots::kind(&serving, &standby));
        if let Some(run) = fresh.placed.get(&made_of) {
            return Some(*run);
        }
        let table = self.node_table(old, &serving, &standby, &mut fresh.builder);
        let there = self.node_tables.find(&table);
        let run = there.or_else(|| self.rows.take(rows_for(table.len())))?;
        if there.is_none() {
            plan.writes.extend(rows(run, &words(&table)));
            self.node_tables.insert(run, table);
        }
        fresh.placed.insert(made_of, run);
        Some(run)
    }

    /// The local table that is there, if it has exactly the wanted pods. A node's death changes none, and a hundred services
    /// wait for each other's rows.
    fn kept_locals(&self, socket: &Socket, targets: &Targets) -> Option<(Run, u32)> {
        let same = |old: &&Installed| {
            old.targets.local == targets.local && old.targets.translated == targets.translated && !old.partial
        };
        self.services.get(socket).filter(same).map(|old| (old.local_run, old.local_slots))
    }

    /// Whether a pod or a node has no number, so that it is in no table.
    fn is_partial(&self, socket: &Socket, targets: &Targets) -> bool {
        let mut pods = backends(socket, targets);
        let mut nodes = targets.nodes.keys();
        pods.any(|(backend, _)| self.backends.get(&backend).is_none())
            || nodes.any(|node| self.nodes.get(node).is_none())
    }

    /// The table of these nodes, in the place of the one that is in a run.
    fn node_table(
        &self,
        old: Option<Run>,
        serving: &[Share<'_>],
        standby: &[Share<'_>],
        builder: &mut Builder,
    ) -> Vec<Slot> {
        let mut table = builder.build(serving, standby, self.me);
        if let Some(old) = old.map(|run| self.node_tables.slots(run)) {
            if table.is_empty() {
                table = slots::vacant(old.len());
            }
            let known = |node: u16| {
                let first = u32::from(node) * limits::UPLINKS;
                self.node_entries.range(first..first + limits::UPLINKS).next().is_some()
            };
            slots::remember(&mut table, old, self.me, known);
        } else if self.inherits {
            table.iter_mut().for_each(Slot::claim);
        }
        table
    }

    fn shares<'a>(&self, nodes: &'a BTreeMap<NodeName, u32>) -> impl Iterator<Item = Share<'a>> {
        nodes.iter().filter_map(|(name, weight)| {
            let node = number(self.nodes.get(name)?);
            Some(Share { name: name.as_str(), node, weight: *weight })
        })
    }

    /// The local table; pods that were not there yet are written.
    fn local_table(&mut self, socket: &Socket, targets: &Targets, plan: &mut Plan) -> Vec<u64> {
        let (mut numbers, mut entries) = (Vec::new(), Vec::new());
        for (backend, share) in backends(socket, targets) {
            let known = self.backends.get(&backend).is_some();
            let Some(index) = self.backends.assign(&backend) else {
                plan.limit(Limit::Backends);
                continue;
            };
            let mut entry = backend_entry(&backend);
            if !known {
                (entry.counted, entry.counted_by) = self.account(&backend, &targets.labels, entry.tag, plan);
                plan.writes.push(Write::Backend(index, entry));
            }
            numbers.push(u64::from(index));
            entries.push(maglev::Entry::new(&[&entry.address[..], &entry.port[..]].concat(), share));
        }
        let table = maglev::build(&entries, maglev::size(entries.len()));
        table.iter().filter_map(|at| numbers.get(*at as usize)).copied().collect()
    }
}

/// Gives a node table back, if no other service uses it.
pub(super) fn release(rows: &mut Rows, node_tables: &mut NodeTables, run: Run, now: Instant) {
    if node_tables.leave(run) {
        rows.release(run, now);
    }
}

/// The writes that fill a run with a table.
pub(super) fn rows(run: Run, table: &[u64]) -> impl Iterator<Item = Write> {
    (run.start..).zip(table.chunks(ROW_SLOTS as usize)).map(|(index, chunk)| {
        let mut row = Row { slots: [0; ROW_SLOTS as usize] };
        row.slots.iter_mut().zip(chunk).for_each(|(slot, value)| *slot = *value);
        Write::Row(index, Box::new(row))
    })
}

fn length<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).unwrap_or(u32::MAX)
}

/// A service's backends on this node with their shares.
pub(super) fn backends(socket: &Socket, targets: &Targets) -> impl Iterator<Item = (BackendKey, u32)> {
    targets
        .local
        .iter()
        .map(|((ip, port), share)| ((*socket, *ip, *port, targets.translated.get(&(*ip, *port)).copied()), *share))
}

/// A pod's entry, but for its counter.
pub(super) fn backend_entry((socket, ip, port, own): &BackendKey) -> BackendEntry {
    let own_address = own.map_or([0; 16], address);
    let (key, address, port) = (key(socket), address(*ip), port.to_be_bytes());
    let hash = xxh3_64(&[&key.vip[..], &key.port[..], &[key.protocol], &address[..], &port[..]].concat());
    let [a, b, c, d, ..] = hash.to_le_bytes();
    let tag = u32::from_le_bytes([a, b, c, d]).max(1);
    let flags = BackendEntry::USABLE | if own.is_some() { BackendEntry::TRANSLATED } else { 0 };
    BackendEntry { address, port, pad: [0; 2], tag, flags, counted: 0, counted_by: 0, own: own_address }
}
