//! The description of maps that outlive an agent, as it is written beside them: JSON, so that whoever looks can read it too.
//!
//! An agent writes what follows from its own definitions ([`forwarder_ebpf::describe`]). What it reads is another's, and may say
//! anything: whatever does not fit is an error, never taken at its word.

use std::collections::BTreeMap;

use forwarder_ebpf::{
    LAYOUT_VERSION,
    describe::{RECORDS, Text},
    table::WAYS,
};
use serde::{Deserialize, Serialize};

/// The form of the description itself.
const FORM: u32 = 1;
/// No record is larger.
const MAX_BYTES: u32 = 4096;
/// No bucket has more places.
const MAX_WAYS: u32 = 1024;

/// A flow.
pub const FLOW: &str = "Flow";
/// A bucket's states.
pub const FLOW_STATES: &str = "FlowStates";
/// The word that says where a flow leads.
pub const GRANT: &str = "Grant";
/// The word that says who lies in a place.
pub const STATE: &str = "State";
/// Where flows lead.
pub const POD: &str = "Pod";
/// A client that stays with its pod.
pub const AFFINITY_KEY: &str = "AffinityKey";
/// With which.
pub const AFFINITY: &str = "Affinity";

/// What the maps of an agent look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    form: u32,
    /// [`LAYOUT_VERSION`] of who wrote it.
    pub version: u32,
    /// Places in a bucket of the flow table.
    pub ways: u32,
    records: BTreeMap<String, Record>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Bytes of it.
    pub bytes: u32,
    /// By name: bits before each, and bits of it.
    pub fields: BTreeMap<String, (u32, u32)>,
}

/// Why a description, or what it describes, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no such description.
    #[error("their description is not one that this version knows")]
    Form,
    /// It contradicts itself.
    #[error("their description contradicts itself in {0}")]
    Contradiction(String),
    /// It leaves open what is needed.
    #[error("their description does not say where {0} is")]
    Lacks(String),
}

impl Layout {
    /// This agent's own.
    #[must_use]
    pub fn own() -> Self {
        let record = |record: &forwarder_ebpf::describe::Record| {
            let fields = record.fields.iter().map(|field| (field.name.to_owned(), (field.at, field.bits)));
            (record.name.to_owned(), Record { bytes: record.bytes, fields: fields.collect() })
        };
        Self { form: FORM, version: LAYOUT_VERSION, ways: WAYS, records: RECORDS.iter().map(record).collect() }
    }

    /// As it is kept; `None` if that is too small.
    #[must_use]
    pub fn encode(&self) -> Option<Text> {
        let written = serde_json::to_vec(self).ok()?;
        let mut text = [0; size_of::<Text>()];
        text.get_mut(..written.len())?.copy_from_slice(&written);
        Some(text)
    }

    /// From what was kept.
    ///
    /// # Errors
    /// If it is no description, or one that cannot be true.
    pub fn decode(text: &[u8]) -> Result<Self, Unreadable> {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let layout: Self = serde_json::from_slice(text.get(..end).unwrap_or_default()).map_err(|_| Unreadable::Form)?;
        if layout.form != FORM {
            return Err(Unreadable::Form);
        }
        if !(1..=MAX_WAYS).contains(&layout.ways) {
            return Err(Unreadable::Contradiction("ways".into()));
        }
        for (name, record) in &layout.records {
            let fits = |(at, bits): &(u32, u32)| {
                at.checked_add(*bits).is_some_and(|end| *bits > 0 && end <= record.bytes.saturating_mul(8))
            };
            if !(1..=MAX_BYTES).contains(&record.bytes) || !record.fields.values().all(fits) {
                return Err(Unreadable::Contradiction(name.clone()));
            }
        }
        Ok(layout)
    }

    /// A record.
    ///
    /// # Errors
    /// If it does not say.
    pub fn record(&self, name: &str) -> Result<&Record, Unreadable> {
        self.records.get(name).ok_or_else(|| Unreadable::Lacks(name.to_owned()))
    }
}

/// Other layouts, for tests.
#[cfg(test)]
pub(super) mod tests_support {
    use super::{FLOW, FLOW_STATES, GRANT, Layout, POD, STATE};

    /// The same fields in another order, with gaps, and other buckets.
    pub(in super::super) fn permuted(seed: u64, ways: u32) -> Layout {
        let mut layout = Layout { version: 77, ways, ..Layout::own() };
        let mut state = seed;
        let mut random = |below: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % below
        };
        for (name, gaps, unit) in [(FLOW, 3, 64), (POD, 2, 32), (GRANT, 0, 1), (STATE, 0, 1)] {
            let Some(record) = layout.records.get_mut(name) else { continue };
            if name == STATE {
                // The clock and the tag share what the flags leave.
                let clock = 8 + u32::try_from(random(12)).unwrap_or(0);
                record.fields.insert("heard".to_owned(), (0, clock));
                record.fields.insert("tag".to_owned(), (0, 25 - clock));
            }
            let mut fields: Vec<_> = record.fields.iter_mut().map(|(_, field)| field).collect();
            for at in (1..fields.len()).rev() {
                fields.swap(at, random(at + 1));
            }
            let mut at = 0;
            for field in fields {
                // Whole bytes begin with one.
                *field = (at, field.1);
                at += field.1;
                at += if gaps > 0 { 8 * u32::try_from(random(gaps)).unwrap_or(0) } else { 0 };
            }
            record.bytes = at.next_multiple_of(unit.max(8)) / 8;
        }
        if let Some(record) = layout.records.get_mut(FLOW_STATES) {
            *record = super::Record { bytes: ways * 4, fields: [("states".to_owned(), (0, ways * 32))].into() };
        }
        layout
    }

    impl Layout {
        /// One of this agent's records as this layout has it.
        pub(in super::super) fn written(&self, name: &str, own: &[u8]) -> Vec<u8> {
            let record = &self.records[name];
            let mut written = vec![0; record.bytes as usize];
            for (field, (at, bits)) in &Layout::own().records[name].fields {
                let (to, there) = record.fields[field];
                for bit in 0..there.min(*bits) {
                    let from = (at + bit) as usize;
                    let set = own[from / 8] >> (from % 8) & 1;
                    let to = (to + bit) as usize;
                    written[to / 8] |= set << (to % 8);
                }
            }
            written
        }

        /// The same without a field.
        pub(in super::super) fn without(mut self, record: &str, field: &str) -> Self {
            self.records.get_mut(record).and_then(|record| record.fields.remove(field)).expect("it is there");
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_agents_own_description_fits_and_is_read_as_it_was_written() {
        let own = Layout::own();
        let text = own.encode().unwrap();
        assert_eq!(Layout::decode(&text), Ok(own));
        assert!(text.iter().filter(|byte| **byte != 0).count() < text.len() / 2, "room for twice as much");
    }

    #[test]
    fn what_cannot_be_true_is_not_taken_at_its_word() {
        let own = String::from_utf8(serde_json::to_vec(&Layout::own()).unwrap()).unwrap();
        let wrong = |from: &str, to: &str| {
            assert!(own.contains(from), "{from}");
            Layout::decode(own.replacen(from, to, 1).as_bytes()).unwrap_err()
        };
        assert_eq!(wrong("\"form\":1", "\"form\":2"), Unreadable::Form);
        assert_eq!(Layout::decode(b""), Err(Unreadable::Form));
        assert_eq!(Layout::decode(&[0; 4096]), Err(Unreadable::Form));
        let ways = format!("\"ways\":{WAYS}");
        assert_eq!(wrong(&ways, "\"ways\":0"), Unreadable::Contradiction("ways".into()));
        for bytes in ["0", "8", "4294967295"] {
            assert_eq!(
                wrong("\"Flow\":{\"bytes\":64", &format!("\"Flow\":{{\"bytes\":{bytes}")),
                Unreadable::Contradiction(FLOW.into())
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_lies_there_is_read_without_a_panic(mut text: Vec<u8>, at in 0_usize..2000, byte: u8) {
            let _ = Layout::decode(&text);
            text = Layout::own().encode().unwrap().to_vec();
            text[at] = byte;
            let _ = Layout::decode(&text);
        }
    }
}
