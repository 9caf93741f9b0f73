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

use forwarder_ebpf::{Address, BackendEntry, NodeEntry, SCTP, ServiceKey, TCP, UDP, Uplinks, limits, mapped};
use membership::NodeName;

use crate::{
    forward::{
        counters::Labels,
        directory::Directory,
        index::Indices,
        plan::{Limit, Plan, Write},
        rows::Rows,
        vips::Vips,
        wanted::{Socket, Wanted},
    },
    model::Protocol,
};

mod accounts;
mod services;
mod shared;

pub use accounts::Account;
use accounts::Accounts;
use services::{Fresh, Installed, release, rows};
use shared::NodeTables;

/// How long rows, nodes and pods rest: far longer than any packet's way through the program.
const REST: Duration = Duration::from_secs(10);
/// How long counters rest: flows of a removed service may still count there.
const COUNTED_REST: Duration = Duration::from_secs(600);

/// A pod's socket as the backend of a service socket: health is judged for each service apart. With this node's address in the
/// clients' place, if it is translated.
type BackendKey = (Socket, IpAddr, u16, Option<IpAddr>);

/// What the kernel's maps hold.
#[derive(Debug)]
pub struct Tables {
    rows: Rows,
    nodes: Indices<NodeName>,
    /// This node's number; 0 before it has one.
    me: u16,
    backends: Indices<BackendKey>,
    counted: Indices<Labels>,
    accounts: Accounts,
    /// Numbers of services: each has two entries, of which one is in use.
    numbers: Indices<Socket>,
    directory: Directory,
    /// Ranges of clients in the map.
    sources: usize,
    /// Flows of a predecessor are here, of any slot.
    inherits: bool,
    columns: BTreeMap<u32, u8>,
    node_entries: BTreeMap<u32, NodeEntry>,
    uplinks: Uplinks,
    /// Connections to translated backends may be there: some backend is, or was, one.
    translates: bool,
    vips: Vips,
    services: BTreeMap<Socket, Installed>,
    node_tables: NodeTables,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            rows: Rows::new(limits::ROWS, REST),
            nodes: Indices::new(limits::NODES, REST),
            me: 0,
            backends: Indices::new(limits::BACKENDS, REST),
            counted: Indices::new(limits::COUNTED, COUNTED_REST),
            accounts: Accounts::new(limits::COUNTED_PODS, COUNTED_REST),
            numbers: Indices::new(limits::SERVICES, REST),
            directory: Directory::default(),
            sources: 0,
            inherits: false,
            columns: BTreeMap::new(),
            node_entries: BTreeMap::new(),
            uplinks: Uplinks::default(),
            translates: false,
            vips: Vips::default(),
            services: BTreeMap::new(),
            node_tables: NodeTables::default(),
        }
    }
}

impl Tables {
    /// Empty tables beside flows that a predecessor's left, whatever slots they are of; perhaps to translated backends.
    #[must_use]
    pub fn inheriting(translates: bool) -> Self {
        Self { inherits: true, translates, ..Self::default() }
    }

    /// Tables that are empty so far, for maps with another number of rows.
    #[must_use]
    pub fn with_rows(self, rows: u32) -> Self {
        Self { rows: Rows::new(rows.clamp(limits::MIN_ROWS, limits::MAX_ROWS), REST), ..self }
    }

    /// What must be written so that the maps hold what is wanted. The plan counts as carried out: if a write of it
    /// fails, the maps must be made anew, beginning with empty tables.
    pub fn plan(&mut self, wanted: &Wanted, now: Instant) -> Plan {
        let mut plan = Plan::default();
        let room = self.wake(now, &mut plan);
        self.assign_columns(wanted, &mut plan);
        let gone_nodes = self.write_nodes(wanted, &mut plan);
        let mut fresh = Fresh::new(room);
        for (socket, targets) in &wanted.services {
            self.write_service(socket, targets, &mut fresh, now, &mut plan);
        }
        self.vips.add(&wanted.vips, &mut plan);
        self.write_uplinks(wanted, &mut plan);
        self.remove(wanted, &gone_nodes, now, &mut plan);
        plan
    }

    /// When rests are over, so that a plan may find more room.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let indices = [self.nodes.next_wake(), self.backends.next_wake(), self.counted.next_wake()];
        indices.into_iter().chain([self.rows.next_wake(), self.numbers.next_wake()]).flatten().min()
    }

    /// The counters in use, by what they count.
    pub fn counted(&self) -> impl Iterator<Item = (&Labels, u32)> {
        self.counted.iter()
    }

    /// Ends rests that are over; whether there is room for nodes or pods that did not fit.
    fn wake(&mut self, now: Instant, plan: &mut Plan) -> bool {
        self.rows.wake(now);
        self.counted.wake(now);
        self.numbers.wake(now);
        let backends = self.backends.wake(now);
        let nodes = self.nodes.wake(now);
        for node in nodes.iter().copied().map(number) {
            for (run, words) in self.node_tables.forget(node) {
                plan.writes.extend(rows(run, &words));
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

    fn write_uplinks(&mut self, wanted: &Wanted, plan: &mut Plan) {
        self.translates |= wanted.services.values().any(|targets| !targets.translated.is_empty());
        let returns = self.translates.into();
        let mut uplinks = self.uplinks;
        for (interface, uplink) in &wanted.uplinks {
            let Some(column) = self.columns.get(interface) else { continue };
            if let Some(place) = uplinks.places.get_mut(usize::from(*column)) {
                *place = forwarder_ebpf::Uplink { interface: *interface, mac: uplink.mac, column: *column, returns };
            }
        }
        self.replace_uplinks(uplinks, plan);
    }

    fn replace_uplinks(&mut self, uplinks: Uplinks, plan: &mut Plan) {
        if self.uplinks != uplinks {
            self.uplinks = uplinks;
            plan.writes.push(Write::Uplinks(uplinks));
        }
    }

    fn remove(&mut self, wanted: &Wanted, gone_nodes: &[u32], now: Instant, plan: &mut Plan) {
        let mut uplinks = self.uplinks;
        for place in uplinks.places.iter_mut().filter(|place| !wanted.uplinks.contains_key(&place.interface)) {
            *place = forwarder_ebpf::Uplink::default();
        }
        self.replace_uplinks(uplinks, plan);
        self.columns.retain(|interface, _| wanted.uplinks.contains_key(interface));
        self.vips.remove(&wanted.vips, plan);
        let (rows, node_tables, directory, sources) =
            (&mut self.rows, &mut self.node_tables, &mut self.directory, &mut self.sources);
        self.services.retain(|socket, installed| {
            let kept = wanted.services.contains_key(socket);
            if !kept {
                let removed = directory.remove(&key(socket));
                plan.writes.extend(removed.map(|(place, bucket)| Write::Bucket(place, Box::new(bucket))));
                plan.writes.extend(installed.forgotten_sources());
                *sources -= installed.targets.sources.len();
                release(rows, node_tables, installed.node_run, now);
                rows.release(installed.local_run, now);
            }
            kept
        });
        self.numbers.release(now, |socket| wanted.services.contains_key(socket));
        plan.writes.extend(gone_nodes.iter().map(|place| Write::Node(*place, NodeEntry::NONE)));
        self.nodes.release(now, |name| wanted.nodes.contains_key(name));
        let serves = |(socket, ip, port, own): &BackendKey| {
            let targets = self.services.get(socket).map(|installed| &installed.targets);
            targets.is_some_and(|targets| {
                targets.local.contains_key(&(*ip, *port)) && targets.translated.get(&(*ip, *port)) == own.as_ref()
            })
        };
        let gone = self.backends.release(now, serves);
        plan.writes.extend(gone.into_iter().map(|index| Write::Backend(index, BackendEntry::NONE)));
        let labels: BTreeSet<&Labels> = wanted.services.values().map(|targets| &targets.labels).collect();
        self.counted.release(now, |counted| labels.contains(counted));
        self.settle_accounts(now, plan);
    }
}

/// A node's number as slots hold it.
fn number(index: u32) -> u16 {
    const { assert!(limits::NODES <= 1 << 16) };
    u16::try_from(index).unwrap_or(0)
}

fn key(socket: &Socket) -> ServiceKey {
    let protocol = match socket.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    };
    ServiceKey { vip: address(socket.vip), port: socket.port.to_be_bytes(), protocol, pad: 0 }
}

pub(super) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests;
