//! Takes over the flows that a predecessor remembers in maps of another layout, or of another size.
//!
//! A predecessor's maps lie beside a description of theirs ([`layout`]). By it its flows are read, field by field and by name
//! (`record.rs`), and entered into this agent's own table by this agent's rules (`table.rs`), as the kernel program would enter
//! them: programs run on both meanwhile. [`Heir`] goes through all of them, once and again for those that have come since.
//!
//! Everything here works on words in memory, whoever holds them; `io::inherit` maps the kernel's.

pub mod layout;
mod record;
mod table;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use forwarder_ebpf::{Flow, Grant, Pod, table::State};

use self::{
    layout::{FLOW, FLOW_STATES, POD},
    record::Reader,
};
pub use self::{
    layout::{Layout, Unreadable},
    record::Recipe,
    table::{Entered, Table},
};

/// The records of a map in memory, each beginning on a word.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    words: &'a [AtomicU64],
    stride: usize,
}

impl<'a> Records<'a> {
    /// Records of so many bytes each.
    #[must_use]
    pub fn new(words: &'a [AtomicU64], bytes: u32) -> Self {
        Self { words, stride: (bytes as usize).div_ceil(8).max(1) }
    }

    fn len(&self) -> usize {
        self.words.len() / self.stride
    }

    /// A half word of a record.
    fn half_word(&self, at: usize, half: usize) -> Option<u32> {
        let word = self.words.get(at * self.stride + half / 2)?.load(Ordering::Acquire);
        Some((word >> (half % 2 * 32)) as u32)
    }

    /// Copies a record; whether there is such a one.
    fn read(&self, at: usize, into: &mut Vec<u8>) -> bool {
        into.clear();
        let Some(words) = self.words.chunks_exact(self.stride).nth(at) else { return false };
        words.iter().for_each(|word| into.extend(word.load(Ordering::Acquire).to_le_bytes()));
        true
    }
}

/// A predecessor's maps.
#[derive(Debug, Clone, Copy)]
pub struct Maps<'a> {
    /// Its flows.
    pub flows: Records<'a>,
    /// The states of their places.
    pub states: Records<'a>,
    /// Where they lead.
    pub pods: Records<'a>,
}

impl<'a> Maps<'a> {
    /// Of maps as they lie in memory.
    ///
    /// # Errors
    /// If the description has no such records.
    pub fn new(
        layout: &Layout,
        flows: &'a [AtomicU64],
        states: &'a [AtomicU64],
        pods: &'a [AtomicU64],
    ) -> Result<Self, Unreadable> {
        Ok(Self {
            flows: Records::new(flows, layout.record(FLOW)?.bytes),
            states: Records::new(states, layout.record(FLOW_STATES)?.bytes),
            pods: Records::new(pods, layout.record(POD)?.bytes),
        })
    }
}

/// What became of a predecessor's flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entered here. A flow whose client the pod knows by another port counts twice, having two entries.
    pub taken: u32,
    /// Known here already.
    pub known: u32,
    /// Over, or without a pod, so that nothing is lost with them.
    pub over: u32,
    /// Without room here: they, or others that were spared more easily, are forgotten.
    pub left_out: u32,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            taken: self.taken + other.taken,
            known: self.known + other.known,
            over: self.over + other.over,
            left_out: self.left_out + other.left_out,
        }
    }
}

/// Takes over one predecessor's flows.
#[derive(Debug)]
pub struct Heir<'a> {
    reader: Reader,
    maps: Maps<'a>,
    table: Table<'a>,
    /// By place: whose flow was dealt with there. What has become of that here since is not undone.
    done: Vec<u32>,
    bytes: Vec<u8>,
}

/// Whether flows of maps with this description can be taken over.
///
/// # Errors
/// If not: it leaves open what a flow cannot do without.
pub fn check(layout: &Layout) -> Result<(), Unreadable> {
    layout.record(FLOW_STATES)?;
    Reader::new(layout).map(drop)
}

/// Whether there is a pod whose connections are translated.
///
/// # Errors
/// As [`check`].
pub fn translates(layout: &Layout, pods: &[AtomicU64]) -> Result<bool, Unreadable> {
    let (reader, pods) = (Reader::new(layout)?, Records::new(pods, layout.record(POD)?.bytes));
    let mut bytes = Vec::new();
    Ok((0..pods.len()).any(|number| {
        pods.read(number, &mut bytes);
        reader.pod(&bytes).is_some_and(|pod| pod.way == Pod::TRANSLATED)
    }))
}

impl<'a> Heir<'a> {
    /// Of maps with this description, for that table.
    ///
    /// # Errors
    /// If the description leaves open what a flow cannot do without.
    pub fn new(layout: &Layout, maps: Maps<'a>, table: Table<'a>) -> Result<Self, Unreadable> {
        let reader = Reader::new(layout)?;
        let places = maps.flows.len().min(maps.states.len() * reader.ways);
        Ok(Self { reader, maps, table, done: vec![0; places], bytes: Vec::new() })
    }

    /// Goes through all flows that were not dealt with yet. `now` in seconds of the kernel's monotonic clock.
    pub fn pass(&mut self, now: u32) -> Tally {
        let mut tally = Tally::default();
        for place in 0..self.done.len() {
            let (bucket, way) = (place / self.reader.ways, place % self.reader.ways);
            let word = self.maps.states.half_word(bucket, way).filter(|word| *word != 0);
            let Some((flow, flags, done)) = word.and_then(|word| self.flow(bucket, way, word)) else { continue };
            if let Some(before) = self.done.get_mut(place)
                && std::mem::replace(before, done) != done
            {
                self.take(flow, flags, now, &mut tally);
            }
        }
        tally
    }

    /// The flow in a place whose state is that word, unless it is being written; the flags of its state here; and what it is
    /// recognised by.
    fn flow(&mut self, bucket: usize, way: usize, word: u32) -> Option<(Flow, u32, u32)> {
        let flags = self.reader.flags(word)?;
        self.maps.flows.read(bucket * self.reader.ways + way, &mut self.bytes);
        let flow = self.reader.flow(&self.bytes)?;
        // Another CPU may have begun to replace it meanwhile.
        self.reader.flags(self.maps.states.half_word(bucket, way)?)?;
        Some((flow, flags, Grant::from_word(flow.grant).guard | 1))
    }

    fn take(&mut self, mut flow: Flow, flags: u32, now: u32, tally: &mut Tally) {
        let grant = Grant::from_word(flow.grant);
        self.maps.pods.read(usize::from(grant.pod), &mut self.bytes);
        let Some(mut pod) = self.reader.pod(&self.bytes) else {
            tally.over += 1;
            return;
        };
        if State::new(&self.table.home(&flow, &pod, flags), flags, flow.seen).is_over(now) {
            tally.over += 1;
            return;
        }
        // It is heard no less than its flows.
        if flow.seen.wrapping_sub(pod.seen).cast_signed() > 0 {
            pod.seen = flow.seen;
        }
        let Some(number) = self.table.number(&pod, now) else {
            tally.left_out += 1;
            return;
        };
        flow.grant = Grant { pod: number, ..grant }.word();
        match self.table.enter(flow, &pod, flags, now) {
            Entered::Taken => tally.taken += 1,
            Entered::Instead => {
                tally.taken += 1;
                tally.left_out += 1;
            }
            Entered::Known => tally.known += 1,
            Entered::Full => tally.left_out += 1,
        }
    }
}
