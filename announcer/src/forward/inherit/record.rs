//! Copies records of one layout into those of another, field by field.

use forwarder_ebpf::{
    Flow, Grant, Pod,
    describe::{self, RECORDS},
    table::State,
};

use super::layout::{FLOW, FLOW_STATES, GRANT, Layout, POD, Record, STATE, Unreadable};

/// No field that is copied has more bits.
const MAX_BITS: u32 = 128;

/// What a flow, its state and its pod cannot do without.
const NEEDED: [(&str, &[&str]); 4] = [
    (FLOW, &["grant", "client", "vip", "client_port", "port", "protocol", "seen"]),
    (GRANT, &["pod", "client_port"]),
    (STATE, &["busy", "forward", "reverse", "tcp"]),
    (POD, &["address", "port", "state"]),
];

/// What follows from the rest by this agent's own rules.
const MADE_ANEW: [(&str, &[&str]); 2] = [(GRANT, &["guard"]), (STATE, &["heard", "tag"])];

/// How a record of another layout becomes one of this agent's: the fields that both know, by their names. Others are left, or zero.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// From where, to where, how much: in bits.
    steps: Vec<(u32, u32, u32)>,
    bytes: usize,
}

impl Recipe {
    /// For the record of that name.
    ///
    /// # Errors
    /// If there is none, or a field has become narrower: what it holds might not fit.
    pub fn new(layout: &Layout, name: &str) -> Result<Self, Unreadable> {
        let own = own(name)?;
        let theirs = layout.record(name)?;
        let mut steps = Vec::new();
        let anew = |field: &str| MADE_ANEW.iter().any(|(record, fields)| *record == name && fields.contains(&field));
        for field in own.fields.iter().filter(|field| !anew(field.name)) {
            let Some(&(at, bits)) = theirs.fields.get(field.name) else { continue };
            if bits > MAX_BITS {
                continue;
            }
            if bits > field.bits || at % 8 + bits > MAX_BITS {
                return Err(Unreadable::Contradiction(format!("{name}.{}", field.name)));
            }
            steps.push((at, field.at, bits));
        }
        Ok(Self { steps, bytes: own.bytes as usize })
    }

    /// The record anew.
    #[must_use]
    pub fn apply(&self, record: &[u8]) -> Vec<u8> {
        let mut new = vec![0; self.bytes];
        for (from, to, bits) in &self.steps {
            if (from | to | bits) % 8 == 0 {
                let [from, to, bytes] = [from, to, bits].map(|bits| (bits / 8) as usize);
                if let (Some(there), Some(here)) = (record.get(from..from + bytes), new.get_mut(to..to + bytes)) {
                    here.copy_from_slice(there);
                }
            } else {
                set(&mut new, *to, *bits, get(record, *from, *bits));
            }
        }
        new
    }
}

fn own(name: &str) -> Result<&'static describe::Record, Unreadable> {
    RECORDS.iter().find(|record| record.name == name).ok_or_else(|| Unreadable::Lacks(name.to_owned()))
}

/// Some bits of a record, lowest first.
fn get(record: &[u8], at: u32, bits: u32) -> u128 {
    let mut word = [0; 16];
    let end = (at + bits).div_ceil(8) as usize;
    let there = record.get((at / 8) as usize..end.min(record.len())).unwrap_or_default();
    word.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
    (u128::from_le_bytes(word) >> (at % 8)) & (u128::MAX >> (128 - bits))
}

/// Writes bits that are zero.
fn set(record: &mut [u8], at: u32, bits: u32, value: u128) {
    let end = (at + bits).div_ceil(8) as usize;
    let there = record.get_mut((at / 8) as usize..end).unwrap_or_default();
    there.iter_mut().zip((value << (at % 8)).to_le_bytes()).for_each(|(to, from)| *to |= from);
}

/// Reads a predecessor's records as this agent's.
#[derive(Debug)]
pub(super) struct Reader {
    /// Places in a bucket of the predecessor's.
    pub(super) ways: usize,
    flow: Recipe,
    grant: (u32, Recipe),
    state: Recipe,
    pod: Recipe,
}

impl Reader {
    pub(super) fn new(layout: &Layout) -> Result<Self, Unreadable> {
        for (name, fields) in NEEDED {
            let record = layout.record(name)?;
            if let Some(field) = fields.iter().find(|field| !record.fields.contains_key(**field)) {
                return Err(Unreadable::Lacks(format!("{name}.{field}")));
            }
        }
        let [grant, state] = [layout.record(GRANT)?, layout.record(STATE)?];
        let states = layout.record(FLOW_STATES)?;
        let contradiction = |name: &str| Err(Unreadable::Contradiction(name.to_owned()));
        if state.bytes != 4 || states.bytes != layout.ways * 4 {
            return contradiction(FLOW_STATES);
        }
        let (at, bits) = field(layout.record(FLOW)?, "grant");
        if bits != grant.bytes * 8 || bits != 64 || at % 8 != 0 {
            return contradiction(GRANT);
        }
        Ok(Self {
            ways: layout.ways as usize,
            flow: Recipe::new(layout, FLOW)?,
            grant: (at / 8, Recipe::new(layout, GRANT)?),
            state: Recipe::new(layout, STATE)?,
            pod: Recipe::new(layout, POD)?,
        })
    }

    /// The flags of a flow's state; `None` for what is nobody's, or being written.
    pub(super) fn flags(&self, word: u32) -> Option<u32> {
        let state = self.state.apply(&word.to_le_bytes());
        let word = u32::from_le_bytes(state.try_into().ok()?);
        (word & State::BUSY == 0 && word & (State::FORWARD | State::REVERSE) != 0).then_some(word)
    }

    /// The flow. Its grant names the pod by the predecessor's number.
    pub(super) fn flow(&self, bytes: &[u8]) -> Option<Flow> {
        let (at, grant) = &self.grant;
        let granted = grant.apply(bytes.get(*at as usize..*at as usize + 8)?);
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(self.flow.apply(bytes).chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let granted = Grant::from_word(u64::from_le_bytes(granted.try_into().ok()?));
        let flow = Flow::from_words(words);
        let guard = super::table::guard(&flow);
        Some(Flow { grant: Grant { guard, ..granted }.word(), ..flow })
    }

    /// A pod, if there is one.
    pub(super) fn pod(&self, bytes: &[u8]) -> Option<Pod> {
        let mut words = [0; size_of::<Pod>() / 8];
        for (word, bytes) in words.iter_mut().zip(self.pod.apply(bytes).chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let pod = Pod::from_words(words);
        (!bytes.is_empty() && pod.state == Pod::THERE).then_some(pod)
    }
}

fn field(record: &Record, name: &str) -> (u32, u32) {
    record.fields.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_read_as_they_were_written(at in 0_u32..300, bits in 1_u32..=121, value: u128) {
            let value = value & (u128::MAX >> (128 - bits));
            let mut record = vec![0; 64];
            set(&mut record, at, bits, value);
            prop_assert_eq!(get(&record, at, bits), value);
            prop_assert_eq!(record.iter().map(|byte| byte.count_ones()).sum::<u32>(), value.count_ones());
        }
    }
}
