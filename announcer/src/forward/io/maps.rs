//! The maps as the agent writes and reads them.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use forwarder_ebpf::{
    Address, Affinity, AffinityKey, BackendEntry, Bucket, NodeEntry, Row, ServiceEntry, Source, Uplinks, limits, map,
    mapped, node_mac_key,
};

use ipnet::IpNet;

use super::{ApplyError, StartError, accounts::Accounts};
use crate::{announce::HookMaps, forward::plan::Write, shadow};

/// All maps but those that only the kernel program touches.
pub(super) struct Maps {
    uplinks: Array<MapData, Uplinks>,
    vips: HashMap<MapData, Address, u32>,
    vip_bits: Array<MapData, u64>,
    directory: Array<MapData, Bucket>,
    services: Array<MapData, ServiceEntry>,
    sources: LpmTrie<MapData, Source, u32>,
    rows: Array<MapData, Row>,
    nodes: Array<MapData, NodeEntry>,
    node_macs: HashMap<MapData, [u8; 8], u32>,
    backends: Array<MapData, BackendEntry>,
    pub(super) accounts: Accounts,
    events: PerCpuArray<MapData, u64>,
    affinities: HashMap<MapData, AffinityKey, Affinity>,
    /// For the thread that writes them, until it takes them.
    pub(super) shadow: Option<shadow::Maps>,
    /// For the announcer's thread, as well.
    pub(super) hooks: Option<HookMaps>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        let events = take(ebpf, map::EVENTS)?;
        Ok(Self {
            uplinks: take(ebpf, map::UPLINKS)?,
            vips: take(ebpf, map::VIPS)?,
            vip_bits: take(ebpf, map::VIP_BITS)?,
            directory: take(ebpf, map::DIRECTORY)?,
            services: take(ebpf, map::SERVICES)?,
            sources: take(ebpf, map::SOURCES)?,
            rows: take(ebpf, map::ROWS)?,
            nodes: take(ebpf, map::NODES)?,
            node_macs: take(ebpf, map::NODE_MACS)?,
            backends: take(ebpf, map::BACKENDS)?,
            accounts: Accounts::take(ebpf)?,
            events,
            affinities: take(ebpf, map::AFFINITIES)?,
            shadow: Some(shadow::Maps {
                shadows: take(ebpf, map::SHADOWS)?,
                vips: take(ebpf, map::SHADOWED_VIPS)?,
                states: take(ebpf, map::SHADOW_STATES)?,
                floods: take(ebpf, map::FLOODS)?,
            }),
            hooks: Some(HookMaps { owned: take(ebpf, map::OWNED)?, lease: take(ebpf, map::LEASE)? }),
        })
    }

    /// Carries out one write.
    pub(super) fn write(&mut self, write: &Write) -> Result<(), ApplyError> {
        let (map, done) = match write {
            Write::Row(index, row) => (map::ROWS, self.rows.set(*index, **row, 0)),
            Write::Node(place, entry) => (map::NODES, self.set_node(*place, entry)),
            Write::Backend(index, entry) => (map::BACKENDS, self.backends.set(*index, entry, 0)),
            Write::ResetCounters(counted) => (map::COUNTERS, self.accounts.reset(*counted)),
            Write::OpenAccount { number, tag } => (map::COUNTERS, self.accounts.open(*number, *tag)),
            Write::ResumeAccount { number, tag } => (map::COUNTED, self.accounts.resume(*number, *tag)),
            Write::CloseAccount { number, tag, service } => {
                (map::COUNTERS, self.accounts.close(*number, *tag, *service))
            }
            Write::Source(set, net) => (map::SOURCES, self.sources.insert(&source(*set, *net), 1, 0)),
            Write::RemoveSource(set, net) => (map::SOURCES, self.sources.remove(&source(*set, *net))),
            Write::Service(place, entry) => (map::SERVICES, self.services.set(*place, entry, 0)),
            Write::Bucket(place, bucket) => (map::DIRECTORY, self.directory.set(*place, **bucket, 0)),
            Write::Vip(address) => (map::VIPS, self.vips.insert(address, 1, 0)),
            Write::RemoveVip(address) => (map::VIPS, self.vips.remove(address)),
            Write::VipBits(word, bits) => (map::VIP_BITS, self.vip_bits.set(*word, *bits, 0)),
            Write::Uplinks(uplinks) => (map::UPLINKS, self.uplinks.set(0, *uplinks, 0)),
        };
        done.map_err(|source| ApplyError::Write { map, source: Box::new(source) })
    }

    /// An event's count over all CPUs.
    pub(super) fn event(&self, index: u32) -> Result<u64, MapError> {
        Ok(self.events.get(&index, 0)?.iter().sum())
    }

    /// Takes clients out whose time with their pods is over; how many, and how many are left. Another one that is pushed out
    /// meanwhile may send the walk back to its beginning, so that it is bounded.
    pub(super) fn forget_clients(&mut self, now: u32) -> Result<(u64, u64), MapError> {
        let mut left = BTreeSet::new();
        let mut over = Vec::new();
        for key in self.affinities.keys().take(2 * limits::AFFINITIES as usize) {
            let key = key?;
            match self.affinities.get(&key, 0) {
                Ok(known) if now.wrapping_sub(known.seen).cast_signed() > known.patience.cast_signed() => {
                    over.push(key);
                }
                Ok(_) => drop(left.insert((key.client, key.counted))),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let mut removed = 0;
        for key in over {
            match self.affinities.remove(&key) {
                Ok(()) => removed += 1,
                Err(MapError::KeyNotFound) => {}
                // The kernel says it in two ways.
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((removed, left.len() as u64))
    }

    /// A node's entry, and that its MAC is a node's.
    fn set_node(&mut self, place: u32, entry: &NodeEntry) -> Result<(), MapError> {
        let column = (place % limits::UPLINKS) as u8;
        let before = node_mac_key(self.nodes.get(&place, 0)?.mac, column);
        // Another node may have the MAC by now.
        if matches!(self.node_macs.get(&before, 0), Ok(whose) if whose == place) {
            self.node_macs.remove(&before)?;
        }
        self.nodes.set(place, *entry, 0)?;
        if entry.flags & (NodeEntry::PRESENT | NodeEntry::SELF) == NodeEntry::PRESENT {
            self.node_macs.insert(node_mac_key(entry.mac, column), place, 0)?;
        }
        Ok(())
    }
}

/// A range as the longest match has it.
fn source(set: u32, net: IpNet) -> Key<Source> {
    let (address, before) = match net.network() {
        IpAddr::V4(v4) => (mapped(v4.octets()), Source::OF_MAPPED),
        IpAddr::V6(v6) => (v6.octets(), 0),
    };
    Key::new(Source::OF_SET + before + u32::from(net.prefix_len()), Source { set: set.to_be_bytes(), address })
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, StartError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(StartError::Stale(name))?;
    M::try_from(map).map_err(|source| StartError::Map { name, source: Box::new(source) })
}
