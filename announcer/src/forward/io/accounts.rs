//! The counters of services and pods in the kernel, summed over all CPUs.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use forwarder_ebpf::{Counter, Direction, Handed, Waits, limits, map};

use super::{StartError, maps::take};
use crate::forward::{
    counters::{Conversation, Counters, Traffic},
    tables::Tables,
};

/// The maps, and what was counted for pods whose counters others have by now.
pub(super) struct Accounts {
    counters: PerCpuArray<MapData, Counter>,
    by_tag: HashMap<MapData, u32, u32>,
    handed: PerCpuArray<MapData, Handed>,
    waits: Array<MapData, Waits>,
    /// By the service port's number.
    closed: BTreeMap<u32, Conversation>,
    cpus: usize,
}

impl Accounts {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self {
            counters: take(ebpf, map::COUNTERS)?,
            by_tag: take(ebpf, map::COUNTED)?,
            handed: take(ebpf, map::HANDED)?,
            waits: take(ebpf, map::WAITS)?,
            closed: BTreeMap::new(),
            cpus: nr_cpus().map_or(1, |cpus| cpus),
        })
    }

    /// A service port's counters start from zero.
    pub(super) fn reset(&mut self, counted: u32) -> Result<(), MapError> {
        self.closed.remove(&counted);
        self.set(counted, Counter::default())?;
        self.handed.set(counted, self.everywhere(Handed::default())?, 0)?;
        self.waits.set(counted, Waits::default(), 0)
    }

    /// A pod has this counter, which starts from zero.
    pub(super) fn open(&mut self, number: u32, tag: u32) -> Result<(), MapError> {
        let counted = limits::COUNTED + number;
        self.set(counted, Counter { tag, ..Counter::default() })?;
        self.resume(number, tag)
    }

    /// A pod has this counter again. Its tag may lead to another by now: of the same pod, with another own address.
    pub(super) fn resume(&mut self, number: u32, tag: u32) -> Result<(), MapError> {
        self.by_tag.insert(tag, limits::COUNTED + number, 0)
    }

    /// A pod has it no more. What its last connections are counted by from now on is their service's counter.
    pub(super) fn close(&mut self, number: u32, tag: u32, service: Option<u32>) -> Result<(), MapError> {
        let counted = limits::COUNTED + number;
        // The pod, or one with the same tag, may have another by now.
        if matches!(self.by_tag.get(&tag, 0), Ok(whose) if whose == counted) {
            self.by_tag.remove(&tag)?;
        }
        if let Some(service) = service {
            let last = self.conversation(counted)?;
            *self.closed.entry(service).or_default() += last;
        }
        self.set(counted, Counter::default())
    }

    /// Reads what was counted for all of them.
    pub(super) fn read(&self, tables: &Tables, into: &mut Counters) -> Result<(), MapError> {
        for (labels, counted) in tables.counted() {
            let mut conversation = self.conversation(counted)?;
            conversation += self.closed.get(&counted).copied().unwrap_or_default();
            into.conversations.insert(labels.clone(), conversation);
            let mut handed = Traffic::default();
            for here in self.handed.get(&counted, 0)?.iter() {
                handed += Traffic { packets: here.packets, bytes: here.bytes, flows: 0 };
            }
            into.traffic.insert((labels.clone(), Direction::Forwarded), handed);
            *into.waits.entry(labels.service.clone()).or_default() += self.waits.get(&counted, 0)?;
        }
        for (pod, account) in tables.accounts() {
            // Of services that are gone nothing is told.
            let Some(service) = into.conversations.get_mut(&account.labels) else { continue };
            let conversation = self.conversation(limits::COUNTED + account.number)?;
            *service += conversation;
            *into.pods.entry((account.labels.clone(), pod)).or_default() += conversation;
        }
        for (labels, conversation) in &into.conversations {
            into.traffic.insert((labels.clone(), Direction::Inbound), conversation.inbound);
            into.traffic.insert((labels.clone(), Direction::Outbound), conversation.outbound);
        }
        Ok(())
    }

    fn conversation(&self, counted: u32) -> Result<Conversation, MapError> {
        let mut sum = Conversation::default();
        for counter in self.counters.get(&counted, 0)?.iter() {
            sum += Conversation::from(counter);
        }
        Ok(sum)
    }

    fn set(&mut self, counted: u32, counter: Counter) -> Result<(), MapError> {
        self.counters.set(counted, self.everywhere(counter)?, 0)
    }

    fn everywhere<V: Pod>(&self, value: V) -> Result<PerCpuValues<V>, MapError> {
        Ok(PerCpuValues::try_from(vec![value; self.cpus])?)
    }
}
