//! Digests: what a node has of which documents, in a page that fits a frame.
//!
//! Documents are ordered by the hash of their owner's name. A page covers a closed range of hashes and lists every
//! document of an up member in it; one that is not listed is one the sender lacks. Whoever compares a page with its own
//! store knows what to send and what it lacks itself. Clusters too large for a page are gone through page by page.

use serde::{Deserialize, Serialize};

/// Documents on a page: about 20 bytes each.
pub(crate) const PAGE_ENTRIES: usize = 50;

/// How much the sender has of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Hash of the owner's name, big-endian: hashes are wider as the encoding's varints.
    pub(crate) owner: [u8; 8],
    /// The life of the owner's agent.
    pub(crate) generation: u64,
    /// The sender has every cell up to this version.
    pub(crate) complete_to: u64,
}

/// What the sender has of the documents of a range of owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// The lowest owner hash covered.
    pub(crate) first: u64,
    /// The highest.
    pub(crate) last: u64,
    /// The documents, ascending by owner.
    pub(crate) entries: Vec<Entry>,
    /// The sender wants the receiver's page of the same range.
    pub(crate) answer: bool,
    /// The sender knows what was there before it: who has caught up with it has caught up with the cluster.
    pub(crate) settled: bool,
}

impl Page {
    /// The entry of an owner, if the page has it.
    pub(crate) fn entry(&self, owner: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| u64::from_be_bytes(entry.owner) == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    #[test]
    fn a_full_page_fits_a_frame() {
        let entry = Entry { owner: [255; 8], generation: 1 << 45, complete_to: 1 << 28 };
        let page = Page { first: 0, last: u64::MAX, entries: vec![entry; PAGE_ENTRIES], answer: true, settled: true };
        assert!(Frame::Digest(page).encode().is_some());
    }
}
