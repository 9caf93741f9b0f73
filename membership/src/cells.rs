//! Cells: a document cut into pieces that fit a datagram.
//!
//! One cell holds the facts, and claims and verdicts are spread over 256 cells each by a hash of the VIP or the pod.
//! A cell is always replaced whole, so a removed claim needs no tombstone: its cell is written again without it.
//! Each write gives a cell the next *version* of its document, so "all cells above version 17" says exactly what a
//! reader at 17 lacks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Claim, Facts, NodeDocument, NodeName, Target, Verdict};

/// Bytes of a cell's body: with the longest node name and all numbers at their widest, a batch of one still fits a frame.
pub(crate) const BODY_MAX: usize = 850;

/// Which piece of the document a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum CellKey {
    /// The facts.
    Facts,
    /// The claims whose VIP hashes to this bucket.
    Claims(u8),
    /// The verdicts whose target hashes to this bucket.
    Health(u8),
}

/// A cell as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Which piece.
    pub(crate) key: CellKey,
    /// The document's version with this write.
    pub(crate) version: u64,
    /// The content, in postcard encoding: [`Facts`], or a list of pairs sorted by their first half.
    pub(crate) body: Vec<u8>,
}

/// Cells of one document, ascending by version: with them, who had everything up to `from` has everything up to `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Whose document.
    pub(crate) owner: NodeName,
    /// Of which life of its agent.
    pub(crate) generation: u64,
    /// See above.
    pub(crate) from: u64,
    /// See above.
    pub(crate) to: u64,
    /// The cells.
    pub(crate) cells: Vec<Cell>,
}

/// A cell's content, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Of [`CellKey::Facts`].
    Facts(Facts),
    /// Of [`CellKey::Claims`].
    Claims(Vec<(IpAddr, Claim)>),
    /// Of [`CellKey::Health`].
    Health(Vec<(Target, Verdict)>),
}

impl Content {
    /// Reads a body; `None` if it is not what `key` promises, entries of other buckets included.
    pub(crate) fn decode(key: CellKey, body: &[u8]) -> Option<Self> {
        if body.len() > BODY_MAX {
            return None;
        }
        let content = match key {
            CellKey::Facts => Self::Facts(whole(body)?),
            CellKey::Claims(bucket) => {
                let claims: Vec<(IpAddr, Claim)> = whole(body)?;
                claims.iter().all(|(vip, _)| claim_bucket(*vip) == bucket).then_some(())?;
                Self::Claims(claims)
            }
            CellKey::Health(bucket) => {
                let verdicts: Vec<(Target, Verdict)> = whole(body)?;
                verdicts.iter().all(|(target, _)| health_bucket(target) == bucket).then_some(())?;
                Self::Health(verdicts)
            }
        };
        Some(content)
    }

    /// Takes out of a document what an earlier body of the cell put in.
    pub(crate) fn remove_from(&self, document: &mut NodeDocument) {
        match self {
            Self::Facts(_) => document.facts = Facts::default(),
            Self::Claims(claims) => {
                for (vip, _) in claims {
                    document.claims.remove(vip);
                }
            }
            Self::Health(verdicts) => {
                for (target, _) in verdicts {
                    document.health.remove(target);
                }
            }
        }
    }

    /// Puts the content into a document.
    pub(crate) fn insert_into(self, document: &mut NodeDocument) {
        match self {
            Self::Facts(facts) => document.facts = facts,
            Self::Claims(claims) => document.claims.extend(claims),
            Self::Health(verdicts) => document.health.extend(verdicts),
        }
    }
}

fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// The bucket of a VIP's claim.
pub(crate) fn claim_bucket(vip: IpAddr) -> u8 {
    bucket(&address_bytes(vip))
}

/// The bucket of a pod's verdict.
pub(crate) fn health_bucket(target: &Target) -> u8 {
    let mut bytes = address_bytes(target.address);
    bytes.extend_from_slice(&target.port.to_be_bytes());
    bytes.extend_from_slice(&target.check.to_be_bytes());
    bucket(&bytes)
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn bucket(bytes: &[u8]) -> u8 {
    xxh3_64(bytes).to_be_bytes()[7]
}

/// The facts' body, and how many interfaces had to be left out.
pub(crate) fn encode_facts(facts: &Facts) -> (Vec<u8>, usize) {
    let mut facts = facts.clone();
    let all = facts.interfaces.len();
    loop {
        match postcard::to_stdvec(&facts) {
            Ok(body) if body.len() <= BODY_MAX => return (body, all - facts.interfaces.len()),
            _ if facts.interfaces.pop().is_none() => return (Vec::new(), all),
            _ => {}
        }
    }
}

/// A bucket's body, and how many entries had to be left out: those that sort last.
pub(crate) fn encode_entries<K: Serialize, V: Serialize>(entries: &[(K, V)]) -> (Vec<u8>, usize) {
    let mut fitting = entries;
    loop {
        match postcard::to_stdvec(fitting) {
            Ok(body) if body.len() <= BODY_MAX => return (body, entries.len() - fitting.len()),
            _ => match fitting.split_last() {
                Some((_, rest)) => fitting = rest,
                None => return (Vec::new(), entries.len()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Frame;

    #[test]
    fn the_fullest_cell_of_the_longest_name_fits_a_frame() {
        let batch = Batch {
            owner: "a".repeat(253).parse().unwrap(),
            generation: u64::MAX,
            from: u64::MAX,
            to: u64::MAX,
            cells: vec![Cell { key: CellKey::Health(255), version: u64::MAX, body: vec![0; BODY_MAX] }],
        };
        assert!(Frame::Cells(batch).encode().is_some());
    }

    #[test]
    fn entries_over_the_limit_are_left_out_and_counted() {
        let entries: Vec<(u64, u64)> = (0..1000).map(|n| (u64::MAX, n)).collect();
        let (body, left_out) = encode_entries(&entries);
        assert!(body.len() <= BODY_MAX && left_out > 900, "{} bytes, {left_out}", body.len());
        let read: Vec<(u64, u64)> = postcard::from_bytes(&body).unwrap();
        assert_eq!(read.len() + left_out, entries.len());
    }

    #[test]
    fn an_entry_in_a_foreign_bucket_is_refused() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let (body, _) = encode_entries(&[(vip, Claim { epoch: 1, since_ms: 2, standby: 0 })]);
        let bucket = claim_bucket(vip);
        assert!(Content::decode(CellKey::Claims(bucket), &body).is_some());
        assert!(Content::decode(CellKey::Claims(bucket.wrapping_add(1)), &body).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..900), bucket: u8) {
            for key in [CellKey::Facts, CellKey::Claims(bucket), CellKey::Health(bucket)] {
                let _ = Content::decode(key, &body);
            }
        }
    }
}
