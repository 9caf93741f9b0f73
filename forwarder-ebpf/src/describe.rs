//! What the maps that outlive an agent look like, field by field. It is pinned beside them, so that a successor with another
//! layout can read them: by the fields' names.
//!
//! Everything here follows from the definitions themselves: a field that is left out does not compile, and places are not
//! written down but asked for.

use core::mem::offset_of;

use crate::{
    Affinity, AffinityKey,
    flow::{Flow, FlowStates, Grant, Pod},
    table::State,
};

/// What the description is kept in, with zeros behind its end.
pub type Text = [u8; 4096];

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Bits before it. Records are little-endian: their first bit is the lowest of their first byte.
    pub at: u32,
    /// Bits of it.
    pub bits: u32,
}

/// A record, or a word that is made of several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: &'static str,
    /// Bytes of it.
    pub bytes: u32,
    /// Its fields.
    pub fields: &'static [Field],
}

macro_rules! record {
    ($record:ident { $($field:ident),+ }) => {{
        // All of them, or this does not compile.
        const _: fn(&$record) = |record| { let $record { $($field: _),+ } = record; };
        const fn size<T>(_: fn(&$record) -> &T) -> usize {
            size_of::<T>()
        }
        Record {
            name: stringify!($record),
            bytes: size_of::<$record>() as u32,
            fields: &[$(Field {
                name: stringify!($field),
                at: offset_of!($record, $field) as u32 * 8,
                bits: size(|record| &record.$field) as u32 * 8,
            }),+],
        }
    }};
}

/// All that outlives an agent.
pub const RECORDS: [Record; 7] = [
    record!(Flow { grant, client, vip, client_port, port, protocol, pad, backend, tag, counted, seen, begun }),
    Record {
        name: "Grant",
        bytes: size_of::<u64>() as u32,
        fields: &[
            within("pod", Grant { pod: u16::MAX, client_port: [0; 2], guard: 0 }.word()),
            within("client_port", Grant { pod: 0, client_port: [u8::MAX; 2], guard: 0 }.word()),
            within("guard", Grant { pod: 0, client_port: [0; 2], guard: u32::MAX }.word()),
        ],
    },
    record!(FlowStates { states }),
    Record {
        name: "State",
        bytes: size_of::<State>() as u32,
        fields: &[
            within("busy", State::BUSY as u64),
            within("forward", State::FORWARD as u64),
            within("reverse", State::REVERSE as u64),
            within("tcp", State::TCP as u64),
            within("by_client", State::BY_CLIENT as u64),
            within("by_pod", State::BY_POD as u64),
            within("half_open", State::HALF_OPEN as u64),
            within("heard", State::HEARD as u64),
            within("tag", State::TAG as u64),
        ],
    },
    record!(Pod { address, port, way, state, seen, rest, own, spare }),
    record!(AffinityKey { client, counted }),
    record!(Affinity { backend, tag, seen, patience }),
];

/// What a word has in the bits that are set.
const fn within(name: &'static str, mask: u64) -> Field {
    Field { name, at: mask.trailing_zeros(), bits: mask.count_ones() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit that is nobody's would be lost, one of two fields' spoil one of them.
    #[test]
    fn every_bit_of_a_record_belongs_to_one_field() {
        for record in RECORDS {
            let mut bits: std::vec::Vec<u32> =
                record.fields.iter().flat_map(|field| field.at..field.at + field.bits).collect();
            bits.sort_unstable();
            assert!(bits.into_iter().eq(0..record.bytes * 8), "{}", record.name);
        }
    }

    #[test]
    fn names_are_there_once() {
        for record in RECORDS {
            let names = |name| record.fields.iter().filter(|field| field.name == name).count();
            assert!(record.fields.iter().all(|field| names(field.name) == 1), "{}", record.name);
        }
    }
}
