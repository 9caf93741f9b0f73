//! All documents a node holds: its own, which it writes, and copies of the others'.
//!
//! A copy knows up to which version it is complete: every cell that its owner had not rewritten since is there. Cells
//! may arrive with gaps (a flood overtakes a repair); they are used at once, but only a batch that begins where the copy
//! is complete moves that mark. Memory is bounded by the number of owners times the cells of a document.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    Claim, Facts, Findings, NodeDocument, NodeName, Target, Verdict,
    cells::{Batch, Cell, CellKey, Content, claim_bucket, encode_entries, encode_facts, health_bucket},
    digest::{Entry, PAGE_ENTRIES, Page},
    identity::node_id,
};

/// Owners whose documents are held.
const MAX_OWNERS: usize = 4096;
/// Bytes of cells put into one batch.
const BATCH_BYTES: usize = 880;
/// Batches that answer one digest.
const REPAIR_BATCHES: usize = 64;

/// A cell as it is kept.
#[derive(Debug)]
struct Stored {
    version: u64,
    body: Vec<u8>,
}

/// One owner's document.
#[derive(Debug)]
struct Copy {
    name: NodeName,
    generation: u64,
    complete_to: u64,
    cells: BTreeMap<CellKey, Stored>,
    document: NodeDocument,
    /// The document of the generation before, with that generation: what a restarted agent left behind.
    before: Option<(u64, NodeDocument)>,
}

impl Copy {
    fn new(name: NodeName, generation: u64) -> Self {
        let document = NodeDocument::default();
        Self { name, generation, complete_to: 0, cells: BTreeMap::new(), document, before: None }
    }

    /// Replaces a cell by a newer one. `None`: not newer, or its content makes no sense.
    fn put(&mut self, cell: Cell) -> Option<()> {
        let stored = self.cells.get(&cell.key);
        if stored.is_some_and(|stored| stored.version >= cell.version) {
            return None;
        }
        let content = Content::decode(cell.key, &cell.body)?;
        if let Some(earlier) = stored.and_then(|stored| Content::decode(cell.key, &stored.body)) {
            earlier.remove_from(&mut self.document);
        }
        content.insert_into(&mut self.document);
        self.cells.insert(cell.key, Stored { version: cell.version, body: cell.body });
        Some(())
    }

    /// The cells above `from`, as batches.
    fn batches_above(&self, from: u64) -> Vec<Batch> {
        let mut cells: Vec<_> = self.cells.iter().filter(|(_, stored)| stored.version > from).collect();
        cells.sort_by_key(|(_, stored)| stored.version);
        let mut batches: Vec<Batch> = Vec::new();
        let mut bytes = 0;
        for (key, stored) in cells {
            let size = stored.body.len() + 15;
            let reached = batches.last().map_or(from, |batch| batch.to);
            let cell = Cell { key: *key, version: stored.version, body: stored.body.clone() };
            match batches.last_mut() {
                Some(batch) if bytes + size <= BATCH_BYTES => {
                    batch.cells.push(cell);
                    bytes += size;
                }
                _ => {
                    let (owner, generation) = (self.name.clone(), self.generation);
                    batches.push(Batch { owner, generation, from: reached, to: reached, cells: vec![cell] });
                    bytes = size;
                }
            }
            if let Some(batch) = batches.last_mut() {
                // A copy with gaps may hand on cells above its mark, but may not vouch for what lies between.
                batch.to = stored.version.min(self.complete_to).max(batch.from);
            }
        }
        batches
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Nothing in it was new.
    Known,
    /// The document changed. `gap`: something before it is missing.
    News {
        /// Cells between what was complete and the batch were lost.
        gap: bool,
    },
    /// For lack of room for another owner.
    NoRoom,
}

/// Comparing a page with the store: what to send, and whether to ask.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// What the page's sender lacks.
    pub(crate) repairs: Vec<Batch>,
    /// Some of it had to be left for the next digest.
    pub(crate) cut_short: bool,
    /// The page's sender has more than this node of some document.
    pub(crate) behind: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Documents {
    own: u64,
    copies: BTreeMap<u64, Copy>,
}

impl Documents {
    pub(crate) fn new(name: NodeName, generation: u64) -> Self {
        let own = node_id(&name);
        Self { own, copies: BTreeMap::from([(own, Copy::new(name, generation))]) }
    }

    /// This node's id.
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// The document of an owner in a generation not below `generation`.
    pub(crate) fn get(&self, id: u64, generation: u64) -> Option<&NodeDocument> {
        self.copies.get(&id).filter(|copy| copy.generation >= generation).map(|copy| &copy.document)
    }

    /// What an owner's last document says of its machine, for as long as that of `generation` is not here: a restarted
    /// agent has the interfaces and the program of the one before, and its pods are where they were. It claims nothing.
    pub(crate) fn former(&self, id: u64, generation: u64) -> Option<NodeDocument> {
        let document = &self.copies.get(&id).filter(|copy| copy.generation < generation)?.document;
        let facts = Facts {
            interfaces: document.facts.interfaces.clone(),
            forwarding: document.facts.forwarding,
            listening: true,
            ..Facts::default()
        };
        Some(NodeDocument { facts, claims: BTreeMap::new(), health: document.health.clone() })
    }

    /// The document of exactly this generation, whether or not the owner has begun another since.
    pub(crate) fn left_behind(&self, id: u64, generation: u64) -> Option<NodeDocument> {
        let copy = self.copies.get(&id)?;
        let before = copy.before.as_ref().map(|(generation, document)| (*generation, document));
        let mut all = before.into_iter().chain([(copy.generation, &copy.document)]);
        let mut document = all.find(|(of, _)| *of == generation)?.1.clone();
        document.facts.findings = Findings::default();
        Some(document)
    }

    /// Whether an owner says, in a document of this generation that is here up to its facts, that it is a candidate.
    pub(crate) fn is_awake(&self, id: u64, generation: u64) -> bool {
        let Some(copy) = self.copies.get(&id).filter(|copy| copy.generation >= generation) else { return false };
        let facts = copy.cells.get(&CellKey::Facts);
        facts.is_some_and(|facts| facts.version <= copy.complete_to) && !copy.document.facts.listening
    }

    /// Writes the own facts. Batches to flood, and entries left out for lack of room in a cell.
    pub(crate) fn write_facts(&mut self, facts: &Facts) -> (Vec<Batch>, usize) {
        let (body, left_out) = encode_facts(facts);
        (self.write(vec![(CellKey::Facts, body)]), left_out)
    }

    /// Writes the own claims; as [`Self::write_facts`].
    pub(crate) fn write_claims(&mut self, claims: &BTreeMap<IpAddr, Claim>) -> (Vec<Batch>, usize) {
        let mut buckets: BTreeMap<u8, Vec<(IpAddr, Claim)>> = BTreeMap::new();
        for (vip, claim) in claims {
            buckets.entry(claim_bucket(*vip)).or_default().push((*vip, *claim));
        }
        self.write_buckets(&buckets, CellKey::Claims)
    }

    /// Writes the own verdicts; as [`Self::write_facts`].
    pub(crate) fn write_health(&mut self, health: &BTreeMap<Target, Verdict>) -> (Vec<Batch>, usize) {
        let mut buckets: BTreeMap<u8, Vec<(Target, Verdict)>> = BTreeMap::new();
        for (target, verdict) in health {
            buckets.entry(health_bucket(target)).or_default().push((*target, *verdict));
        }
        self.write_buckets(&buckets, CellKey::Health)
    }

    fn write_buckets<K: serde::Serialize, V: serde::Serialize>(
        &mut self,
        buckets: &BTreeMap<u8, Vec<(K, V)>>,
        key: fn(u8) -> CellKey,
    ) -> (Vec<Batch>, usize) {
        let mut bodies = Vec::new();
        let mut left_out = 0;
        for bucket in 0..=u8::MAX {
            let entries = buckets.get(&bucket).map_or(&[][..], Vec::as_slice);
            let written_before = self.copies.get(&self.own).is_some_and(|copy| copy.cells.contains_key(&key(bucket)));
            if entries.is_empty() && !written_before {
                continue;
            }
            let (body, over) = encode_entries(entries);
            left_out += over;
            bodies.push((key(bucket), body));
        }
        (self.write(bodies), left_out)
    }

    fn write(&mut self, bodies: Vec<(CellKey, Vec<u8>)>) -> Vec<Batch> {
        let Some(copy) = self.copies.get_mut(&self.own) else { return Vec::new() };
        let before = copy.complete_to;
        for (key, body) in bodies {
            if copy.cells.get(&key).is_some_and(|stored| stored.body == body) {
                continue;
            }
            let version = copy.complete_to + 1;
            if copy.put(Cell { key, version, body }).is_some() {
                copy.complete_to = version;
            }
        }
        copy.batches_above(before)
    }

    /// The whole own document.
    pub(crate) fn own_batches(&self) -> Vec<Batch> {
        self.copies.get(&self.own).map(|copy| copy.batches_above(0)).unwrap_or_default()
    }

    /// The own facts alone; nothing before they were written.
    pub(crate) fn own_facts(&self) -> Option<Batch> {
        let copy = self.copies.get(&self.own)?;
        let facts = copy.cells.get(&CellKey::Facts)?;
        let cell = Cell { key: CellKey::Facts, version: facts.version, body: facts.body.clone() };
        let (owner, generation, to) = (copy.name.clone(), copy.generation, facts.version);
        Some(Batch { owner, generation, from: to.saturating_sub(1), to, cells: vec![cell] })
    }

    /// Goes on under another generation: peers need the whole document again.
    pub(crate) fn set_own_generation(&mut self, generation: u64) {
        if let Some(copy) = self.copies.get_mut(&self.own) {
            copy.generation = generation;
        }
    }

    /// Takes in cells of another node's document.
    pub(crate) fn apply(&mut self, batch: Batch) -> Applied {
        let id = node_id(&batch.owner);
        let full = self.copies.len() >= MAX_OWNERS;
        if id == self.own {
            return Applied::Known;
        }
        let copy = match self.copies.get_mut(&id) {
            Some(copy) => copy,
            None if full => return Applied::NoRoom,
            None => self.copies.entry(id).or_insert_with(|| Copy::new(batch.owner.clone(), batch.generation)),
        };
        if batch.generation < copy.generation {
            return Applied::Known;
        }
        let reborn = batch.generation > copy.generation;
        if reborn {
            let before = (copy.generation, std::mem::take(&mut copy.document));
            *copy = Copy { before: Some(before), ..Copy::new(batch.owner, batch.generation) };
        }
        let mut news = reborn;
        for cell in batch.cells {
            news |= copy.put(cell).is_some();
        }
        let gap = batch.from > copy.complete_to;
        if !gap && batch.to > copy.complete_to {
            copy.complete_to = batch.to;
            news = true;
        }
        if news { Applied::News { gap } } else { Applied::Known }
    }

    /// Drops the copies of owners that `keep` rejects; the own document stays.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        let own = self.own;
        self.copies.retain(|id, _| *id == own || keep(*id));
    }

    /// The page that begins at owner hash `first`, listing owners that `listed` accepts.
    pub(crate) fn page(&self, first: u64, listed: impl Fn(u64) -> bool) -> Page {
        let mut owners = self.copies.range(first..).filter(|(id, _)| listed(**id));
        let mut entries = Vec::new();
        let mut last = u64::MAX;
        for (id, copy) in owners.by_ref() {
            if entries.len() == PAGE_ENTRIES {
                last = id - 1;
                break;
            }
            entries.push(entry(*id, copy));
        }
        Page { first, last, entries, answer: false, settled: false }
    }

    /// The page of a given range; one that has more owners than fit is cut at its end.
    pub(crate) fn page_of(&self, first: u64, last: u64, listed: impl Fn(u64) -> bool) -> Page {
        let mut page = self.page(first, listed);
        page.entries.retain(|entry| u64::from_be_bytes(entry.owner) <= last);
        page.last = page.last.min(last);
        page
    }

    /// What the sender of `page` lacks of the documents `listed` accepts, and whether this node lacks something.
    pub(crate) fn compare(&self, page: &Page, listed: impl Fn(u64) -> bool) -> Comparison {
        let mut comparison = Comparison { behind: !self.satisfies(page), ..Comparison::default() };
        if page.first > page.last {
            return comparison;
        }
        for (id, copy) in self.copies.range(page.first..=page.last) {
            if !listed(*id) {
                continue;
            }
            let theirs = page.entry(*id);
            let from = match theirs {
                Some(entry) if entry.generation > copy.generation => continue,
                Some(entry) if entry.generation == copy.generation => entry.complete_to,
                _ => 0,
            };
            if from >= copy.complete_to && theirs.is_some() {
                continue;
            }
            comparison.repairs.extend(copy.batches_above(from));
            if comparison.repairs.len() > REPAIR_BATCHES {
                comparison.repairs.truncate(REPAIR_BATCHES);
                comparison.cut_short = true;
                break;
            }
        }
        comparison
    }

    /// The generation under which `page` has more of the own document than this node ever wrote: that of an earlier
    /// life, or of another node of its name.
    pub(crate) fn outrun_by(&self, page: &Page) -> Option<u64> {
        let theirs = page.entry(self.own)?;
        let ours = self.copies.get(&self.own).map(|copy| (copy.generation, copy.complete_to));
        (Some((theirs.generation, theirs.complete_to)) > ours).then_some(theirs.generation)
    }

    /// Whether this node has all that `page` lists.
    pub(crate) fn satisfies(&self, page: &Page) -> bool {
        page.entries.iter().all(|entry| {
            let id = u64::from_be_bytes(entry.owner);
            let ours = self.copies.get(&id).map(|copy| (copy.generation, copy.complete_to));
            id == self.own || ours >= Some((entry.generation, entry.complete_to))
        })
    }
}

fn entry(id: u64, copy: &Copy) -> Entry {
    Entry { owner: id.to_be_bytes(), generation: copy.generation, complete_to: copy.complete_to }
}

#[cfg(test)]
mod tests;
