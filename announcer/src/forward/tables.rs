//! What the kernel's maps hold, and what must be written, in which order, so that they hold what is wanted.
//!
//! The order is what keeps a service whole at every moment: first fresh rows, nodes and pods that nothing points to
//! yet, then the service's one entry that points to them, then VIPs and uplinks, and only then removals. Rows and
//! numbers that are given back rest before they are used again, since a packet may be on its way through them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use forwarder_ebpf::{
    Address, BackendEntry, NodeEntry, ROW_SLOTS, Row, ServiceEntry, ServiceKey, TCP, UDP, Uplink, limits, mapped,
};
use membership::NodeName;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    forward::{
        counters::Labels,
        index::Indices,
        maglev,
        plan::{Limit, Plan, Write},
        rows::{Rows, Run},
        slots::{self, Builder, Share, Slot, forget},
        wanted::{Socket, Targets, Wanted},
    },
    model::Protocol,
};

/// How long rows, nodes and pods rest: far longer than any packet's way through the program.
const REST: Duration = Duration::from_secs(10);
/// How long counters rest: flows of a removed service may still count there.
const COUNTED_REST: Duration = Duration::from_secs(600);
/// Among how many tables of one plan an equal one is looked for.
const MAX_SHARED: usize = 64;

/// A pod's socket as the backend of a service socket: health is judged for each service apart.
type BackendKey = (Socket, IpAddr, u16);

/// What is in the maps for a socket.
#[derive(Debug)]
struct Installed {
    targets: Targets,
    node_run: Run,
    node_table: Vec<Slot>,
    local_run: Run,
    local_slots: u32,
    /// Something did not fit, so it is planned again when there is room.
    partial: bool,
}

/// What the kernel's maps hold.
#[derive(Debug)]
pub struct Tables {
    rows: Rows,
    nodes: Indices<NodeName>,
    /// This node's number; 0 before it has one.
    me: u16,
    backends: Indices<BackendKey>,
    counted: Indices<Labels>,
    columns: BTreeMap<u32, u8>,
    node_entries: BTreeMap<u32, NodeEntry>,
    uplinks: BTreeMap<u32, Uplink>,
    vips: BTreeSet<IpAddr>,
    services: BTreeMap<Socket, Installed>,
    /// How many services use the node table that begins at a row: those whose tables became equal at one moment share one.
    shared: BTreeMap<u32, usize>,
}

/// What is new in one plan.
#[derive(Debug, Default)]
struct Fresh {
    /// Numbers have become free: what was left out may fit now.
    room: bool,
    builder: Builder,
    /// The node tables that are written.
    written: Vec<(Vec<Slot>, Run)>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            rows: Rows::new(limits::ROWS, REST),
            nodes: Indices::new(limits::NODES, REST),
            me: 0,
            backends: Indices::new(limits::BACKENDS, REST),
            counted: Indices::new(limits::COUNTED, COUNTED_REST),
            columns: BTreeMap::new(),
            node_entries: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            vips: BTreeSet::new(),
            services: BTreeMap::new(),
            shared: BTreeMap::new(),
        }
    }
}

impl Tables {
    /// What must be written so that the maps hold what is wanted. The plan counts as carried out: if a write of it
    /// fails, the maps must be made anew, beginning with empty tables.
    pub fn plan(&mut self, wanted: &Wanted, now: Instant) -> Plan {
        let mut plan = Plan::default();
        let room = self.wake(now, &mut plan);
        self.assign_columns(wanted, &mut plan);
        let gone_nodes = self.write_nodes(wanted, &mut plan);
        let mut fresh = Fresh { room, ..Fresh::default() };
        for (socket, targets) in &wanted.services {
            self.write_service(socket, targets, &mut fresh, now, &mut plan);
        }
        self.write_vips(wanted, &mut plan);
        self.write_uplinks(wanted, &mut plan);
        self.remove(wanted, &gone_nodes, now, &mut plan);
        plan
    }

    /// When rests are over, so that a plan may find more room.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        [self.rows.next_wake(), self.nodes.next_wake(), self.backends.next_wake(), self.counted.next_wake()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The counters in use, by what they count.
    pub fn counted(&self) -> impl Iterator<Item = (&Labels, u32)> {
        self.counted.iter()
    }

    /// Ends rests that are over; whether there is room for nodes or pods that did not fit.
    fn wake(&mut self, now: Instant, plan: &mut Plan) -> bool {
        self.rows.wake(now);
        self.counted.wake(now);
        let backends = self.backends.wake(now);
        let nodes = self.nodes.wake(now);
        for node in nodes.iter().copied().map(number) {
            let mut written = BTreeSet::new();
            for installed in self.services.values_mut() {
                if forget(&mut installed.node_table, node) && written.insert(installed.node_run.start) {
                    plan.writes.extend(rows(installed.node_run, &words(&installed.node_table)));
                }
            }
        }
        !backends.is_empty() || !nodes.is_empty()
    }

    fn assign_columns(&mut self, wanted: &Wanted, plan: &mut Plan) {
        for interface in wanted.uplinks.keys() {
            if self.columns.contains_key(interface) {
                continue;
            }
            let mut columns = 0_u8..u8::try_from(limits::UPLINKS).unwrap_or(u8::MAX);
            match columns.find(|column| !self.columns.values().any(|used| used == column)) {
                Some(column) => {
                    self.columns.insert(*interface, column);
                }
                None => plan.limit(Limit::Uplinks),
            }
        }
    }

    /// Writes the nodes that are wanted; the places of those that are not any more are returned.
    fn write_nodes(&mut self, wanted: &Wanted, plan: &mut Plan) -> Vec<u32> {
        let mut entries = BTreeMap::new();
        for (name, node) in &wanted.nodes {
            let Some(index) = self.nodes.assign(name) else {
                plan.limit(Limit::Nodes);
                continue;
            };
            let flags = NodeEntry::PRESENT | if node.me { NodeEntry::SELF } else { 0 };
            if node.me {
                self.me = number(index);
            }
            for (interface, mac) in &node.macs {
                if let Some(column) = self.columns.get(interface) {
                    let place = index * limits::UPLINKS + u32::from(*column);
                    entries.insert(place, NodeEntry { mac: *mac, flags, pad: 0 });
                }
            }
        }
        for (place, entry) in &entries {
            if self.node_entries.get(place) != Some(entry) {
                plan.writes.push(Write::Node(*place, *entry));
            }
        }
        let gone = self.node_entries.keys().filter(|place| !entries.contains_key(place)).copied().collect();
        self.node_entries = entries;
        gone
    }

    fn write_service(&mut self, socket: &Socket, targets: &Targets, fresh: &mut Fresh, now: Instant, plan: &mut Plan) {
        let old = self.services.get(socket);
        if let Some(old) = old.filter(|old| old.targets == *targets && !(old.partial && fresh.room)) {
            if old.partial {
                plan.limit(Limit::Backends);
            }
            return;
        }
        if old.is_none() && self.services.len() >= limits::SERVICES as usize {
            return plan.limit(Limit::Services);
        }
        let new_counters = self.counted.get(&targets.labels).is_none();
        let Some(counted) = self.counted.assign(&targets.labels) else { return plan.limit(Limit::Counters) };
        let node_table = self.node_table(socket, targets, &mut fresh.builder);
        if new_counters {
            plan.writes.push(Write::ResetCounters(counted));
        }
        let kept = self.kept_locals(socket, targets);
        let locals = if kept.is_some() { Vec::new() } else { self.local_table(socket, targets, plan) };
        let written = fresh.written.iter().find(|(table, _)| *table == node_table).map(|(_, run)| *run);
        let Some(node_run) = written.or_else(|| self.rows.take(run_len(&node_table))) else {
            return plan.limit(Limit::Rows);
        };
        let local = kept.or_else(|| Some((self.rows.take(run_len(&locals))?, length(&locals))));
        let Some((local_run, local_slots)) = local else {
            if written.is_none() {
                self.rows.untake(node_run);
            }
            return plan.limit(Limit::Rows);
        };
        let entry = ServiceEntry {
            counted,
            node_row: node_run.start,
            node_slots: length(&node_table),
            local_row: local_run.start,
            local_slots,
        };
        if written.is_none() {
            plan.writes.extend(rows(node_run, &words(&node_table)));
            if fresh.written.len() < MAX_SHARED {
                fresh.written.push((node_table.clone(), node_run));
            }
        }
        // An empty table has no rows, and begins at none.
        if node_run.len > 0 {
            *self.shared.entry(node_run.start).or_default() += 1;
        }
        plan.writes.extend(rows(local_run, &locals));
        plan.writes.push(Write::Service(key(socket), entry));
        let partial = self.is_partial(socket, targets);
        let installed = Installed { targets: targets.clone(), node_run, node_table, local_run, local_slots, partial };
        if let Some(old) = self.services.insert(*socket, installed) {
            release(&mut self.rows, &mut self.shared, old.node_run, now);
            if kept.is_none() {
                self.rows.release(old.local_run, now);
            }
        }
    }

    /// The local table that is there, if it has exactly the wanted pods. A node's death changes none, and a hundred services
    /// wait for each other's rows.
    fn kept_locals(&self, socket: &Socket, targets: &Targets) -> Option<(Run, u32)> {
        let same = |old: &&Installed| old.targets.local == targets.local && !old.partial;
        self.services.get(socket).filter(same).map(|old| (old.local_run, old.local_slots))
    }

    /// Whether a pod or a node has no number, so that it is in no table.
    fn is_partial(&self, socket: &Socket, targets: &Targets) -> bool {
        let mut pods = targets.local.iter();
        let mut nodes = targets.nodes.keys();
        pods.any(|(ip, port)| self.backends.get(&(*socket, *ip, *port)).is_none())
            || nodes.any(|node| self.nodes.get(node).is_none())
    }

    fn node_table(&self, socket: &Socket, targets: &Targets, builder: &mut Builder) -> Vec<Slot> {
        let serving: Vec<Share<'_>> = self.shares(&targets.nodes).collect();
        let standby: Vec<Share<'_>> = self.shares(&targets.standby).collect();
        let mut table = builder.build(&serving, &standby, self.me);
        if let Some(old) = self.services.get(socket) {
            if table.is_empty() {
                table = slots::vacant(old.node_table.len());
            }
            let known = |node: u16| {
                let first = u32::from(node) * limits::UPLINKS;
                self.node_entries.range(first..first + limits::UPLINKS).next().is_some()
            };
            slots::remember(&mut table, &old.node_table, known);
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
    fn local_table(&mut self, socket: &Socket, targets: &Targets, plan: &mut Plan) -> Vec<u32> {
        let (mut numbers, mut entries) = (Vec::new(), Vec::new());
        for &(ip, port) in &targets.local {
            let backend = (*socket, ip, port);
            let known = self.backends.get(&backend).is_some();
            let Some(index) = self.backends.assign(&backend) else {
                plan.limit(Limit::Backends);
                continue;
            };
            let entry = backend_entry(&backend);
            if !known {
                plan.writes.push(Write::Backend(index, entry));
            }
            numbers.push(index);
            entries.push(maglev::Entry::new(&[&entry.address[..], &entry.port[..]].concat(), 1));
        }
        let table = maglev::build(&entries, maglev::size(entries.len()));
        table.iter().filter_map(|at| numbers.get(*at as usize)).copied().collect()
    }

    fn write_vips(&mut self, wanted: &Wanted, plan: &mut Plan) {
        for vip in &wanted.vips {
            if self.vips.contains(vip) {
                continue;
            }
            if self.vips.len() >= limits::VIPS as usize {
                plan.limit(Limit::Vips);
                continue;
            }
            self.vips.insert(*vip);
            plan.writes.push(Write::Vip(address(*vip)));
        }
    }

    fn write_uplinks(&mut self, wanted: &Wanted, plan: &mut Plan) {
        for (interface, uplink) in &wanted.uplinks {
            let Some(column) = self.columns.get(interface) else { continue };
            let entry = Uplink { mac: uplink.mac, column: *column, pad: 0 };
            if self.uplinks.insert(*interface, entry) != Some(entry) {
                plan.writes.push(Write::Uplink(*interface, entry));
            }
        }
    }

    fn remove(&mut self, wanted: &Wanted, gone_nodes: &[u32], now: Instant, plan: &mut Plan) {
        self.uplinks.retain(|interface, _| {
            let kept = wanted.uplinks.contains_key(interface);
            if !kept {
                plan.writes.push(Write::RemoveUplink(*interface));
            }
            kept
        });
        self.columns.retain(|interface, _| wanted.uplinks.contains_key(interface));
        self.vips.retain(|vip| {
            let kept = wanted.vips.contains(vip);
            if !kept {
                plan.writes.push(Write::RemoveVip(address(*vip)));
            }
            kept
        });
        let (rows, shared) = (&mut self.rows, &mut self.shared);
        self.services.retain(|socket, installed| {
            let kept = wanted.services.contains_key(socket);
            if !kept {
                plan.writes.push(Write::RemoveService(key(socket)));
                release(rows, shared, installed.node_run, now);
                rows.release(installed.local_run, now);
            }
            kept
        });
        plan.writes.extend(gone_nodes.iter().map(|place| Write::Node(*place, NodeEntry::NONE)));
        self.nodes.release(now, |name| wanted.nodes.contains_key(name));
        let serves = |(socket, ip, port): &BackendKey| {
            self.services.get(socket).is_some_and(|installed| installed.targets.local.contains(&(*ip, *port)))
        };
        let gone = self.backends.release(now, serves);
        plan.writes.extend(gone.into_iter().map(|index| Write::Backend(index, BackendEntry::NONE)));
        let labels: BTreeSet<&Labels> = wanted.services.values().map(|targets| &targets.labels).collect();
        self.counted.release(now, |counted| labels.contains(counted));
    }
}

/// Gives a node table back, if no other service uses it.
fn release(rows: &mut Rows, shared: &mut BTreeMap<u32, usize>, run: Run, now: Instant) {
    if run.len == 0 {
        return;
    }
    if let Some(users) = shared.get_mut(&run.start).filter(|users| **users > 1) {
        *users -= 1;
    } else {
        shared.remove(&run.start);
        rows.release(run, now);
    }
}

/// The writes that fill a run with a table.
fn rows(run: Run, table: &[u32]) -> impl Iterator<Item = Write> {
    (run.start..).zip(table.chunks(ROW_SLOTS as usize)).map(|(index, chunk)| {
        let mut row = Row { slots: [0; ROW_SLOTS as usize] };
        row.slots.iter_mut().zip(chunk).for_each(|(slot, value)| *slot = *value);
        Write::Row(index, Box::new(row))
    })
}

fn words(table: &[Slot]) -> Vec<u32> {
    table.iter().map(|slot| slot.word()).collect()
}

/// A node's number as slots hold it.
fn number(index: u32) -> u16 {
    const { assert!(limits::NODES <= 1 << 16) };
    u16::try_from(index).unwrap_or(0)
}

fn run_len<T>(table: &[T]) -> u32 {
    length(table).div_ceil(ROW_SLOTS)
}

fn length<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).unwrap_or(u32::MAX)
}

fn key(socket: &Socket) -> ServiceKey {
    let protocol = match socket.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    ServiceKey { vip: address(socket.vip), port: socket.port.to_be_bytes(), protocol, pad: 0 }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn backend_entry((socket, ip, port): &BackendKey) -> BackendEntry {
    let (key, address, port) = (key(socket), address(*ip), port.to_be_bytes());
    let hash = xxh3_64(&[&key.vip[..], &key.port[..], &[key.protocol], &address[..], &port[..]].concat());
    let [a, b, c, d, ..] = hash.to_le_bytes();
    BackendEntry { address, port, pad: [0; 2], tag: u32::from_le_bytes([a, b, c, d]), flags: BackendEntry::USABLE }
}

#[cfg(test)]
mod tests;
