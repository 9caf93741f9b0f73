//! Spreading documents: floods of what is new, digests against loss.
//!
//! New cells go out at once: to every up member in clusters of up to [`FLOOD_ALL`], beyond that to a few random ones,
//! each of which passes on what was news to it. Every digest period a random member's digest is compared with one's
//! own, which repairs what floods lost; a gap noticed in a flood is asked for at once. Owned by [`crate::Cluster`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng, seq::IteratorRandom as _};

use crate::{
    catch_up::CatchUp,
    cells::Batch,
    channel::Peer,
    digest::Page,
    documents::{Applied, Documents},
    frame::Frame,
    identity::node_id,
    stats::{Limit, Stats},
};

/// Up to so many up members are told everything directly.
const FLOOD_ALL: usize = 32;
/// In larger clusters each tells so many: e^-6 of the members hear nothing and are left to the digests.
const FAN_OUT: usize = 6;
/// How often a random member's digest is compared with one's own after something was new,
const BRISK: Duration = Duration::from_millis(200);
/// for so long,
const BRISK_FOR: Duration = Duration::from_secs(2);
/// and otherwise.
const CALM: Duration = Duration::from_secs(2);
/// How often one who is catching up asks.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Between two questions about gaps in floods.
const GAP_REQUEST: Duration = Duration::from_millis(10);
/// Documents of owners that are no members are dropped after one to two of these.
const SWEEP: Duration = Duration::from_secs(60);

/// The up members other than this node, by id.
pub(crate) type Peers = BTreeMap<u64, Peer>;

/// See the module's documentation.
pub(crate) struct Spread {
    documents: Documents,
    catch_up: CatchUp,
    rng: StdRng,
    /// Until then digests are exchanged at [`BRISK`]'s pace.
    brisk_until: Instant,
    next_digest: Instant,
    /// Where the next periodic page begins.
    cursor: u64,
    next_gap_request: Instant,
    next_sweep: Instant,
    strangers: BTreeSet<u64>,
    out: VecDeque<(Peer, Frame<'static>)>,
    changed: bool,
}

impl Spread {
    pub(crate) fn new(documents: Documents, rng: StdRng, now: Instant) -> Self {
        Self {
            documents,
            catch_up: CatchUp::new(now),
            rng,
            brisk_until: now,
            next_digest: now + BRISK,
            cursor: 0,
            next_gap_request: now,
            next_sweep: now + SWEEP,
            strangers: BTreeSet::new(),
            out: VecDeque::new(),
            changed: true,
        }
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    pub(crate) fn caught_up(&self) -> bool {
        self.catch_up.is_done()
    }

    /// Whether documents or `caught_up` changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is to be sent, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<(Peer, Frame<'static>)> {
        self.out.pop_front()
    }

    /// Writes into the own document and floods what changed.
    pub(crate) fn write(
        &mut self,
        write: impl FnOnce(&mut Documents) -> (Vec<Batch>, usize),
        peers: &Peers,
        now: Instant,
        stats: &mut Stats,
    ) {
        let (batches, left_out) = write(&mut self.documents);
        stats.hit(Limit::CellFull, left_out);
        if !batches.is_empty() {
            self.note_news(now);
        }
        for batch in batches {
            self.flood(&batch, peers);
        }
    }

    /// Goes on under another generation of this node: to its peers the document is a new one, so all of it is flooded.
    pub(crate) fn set_own_generation(&mut self, generation: u64, peers: &Peers) {
        self.documents.set_own_generation(generation);
        self.flood_own(peers);
    }

    /// Something was new: as floods may be lost, notes are compared soon, and often for a while.
    fn note_news(&mut self, now: Instant) {
        self.changed = true;
        self.brisk_until = now + BRISK_FOR;
        if self.catch_up.is_done() {
            self.next_digest = self.next_digest.min(now + BRISK.mul_f64(0.75 + self.rng.random::<f64>() / 2.0));
        }
    }

    fn flood_own(&mut self, peers: &Peers) {
        for batch in self.documents.own_batches() {
            self.flood(&batch, peers);
        }
    }

    /// A member has come up: it is told at once what this node is, since it may have missed that, and may not be heard
    /// here yet when it asks; and notes are compared with it.
    pub(crate) fn meet(&mut self, peer: Peer, peers: &Peers, now: Instant) {
        self.brisk_until = now + BRISK_FOR;
        if peers.len() <= FLOOD_ALL {
            self.out.extend(self.documents.own_facts().map(|facts| (peer, Frame::Cells(facts))));
            self.ask(peer, 0, peers, now);
        }
        let soon = if self.catch_up.is_done() { BRISK } else { CATCH_UP };
        self.next_digest = self.next_digest.min(now + soon);
    }

    /// Takes in cells.
    pub(crate) fn handle_cells(&mut self, from: Peer, batch: Batch, peers: &Peers, now: Instant, stats: &mut Stats) {
        let owner = node_id(&batch.owner);
        let relay = (peers.len() > FLOOD_ALL).then(|| batch.clone());
        match self.documents.apply(batch) {
            Applied::Known => {}
            Applied::NoRoom => stats.hit(Limit::TooManyNodes, 1),
            Applied::News { gap } => {
                self.note_news(now);
                if let Some(batch) = relay {
                    self.flood(&batch, peers);
                }
                if gap && now >= self.next_gap_request {
                    self.next_gap_request = now + GAP_REQUEST;
                    let page = self.documents.page_of(owner, owner, |_| true);
                    self.out.push_back((from, Frame::Digest(page)));
                }
            }
        }
    }

    /// Takes in a page: sends what its sender lacks, answers it if asked. True if a node that is still catching up
    /// should ask the page's sender for members: the page lists some that are not among the `known`.
    pub(crate) fn handle_page(
        &mut self,
        from: Peer,
        page: &Page,
        (peers, known): (&Peers, impl FnOnce() -> BTreeSet<u64>),
        now: Instant,
        stats: &mut Stats,
    ) -> bool {
        let own = self.documents.own();
        let listed = |id: u64| id == own || peers.contains_key(&id);
        // Who is new is told of the dead as well, as far as they are remembered: whoever takes what was theirs must know by
        // which epoch they held it, or gives it back when they return.
        let comparison = self.documents.compare(page, |id| listed(id) || !page.settled);
        if comparison.cut_short {
            stats.hit(Limit::RepairBurst, 1);
        }
        self.out.extend(comparison.repairs.into_iter().map(|batch| (from, Frame::Cells(batch))));
        if page.answer {
            let mut answer = self.documents.page_of(page.first, page.last, listed);
            answer.settled = self.catch_up.is_settled(now);
            self.out.push_back((from, Frame::Digest(answer)));
        }
        if self.catch_up.is_done() {
            return false;
        }
        let known = known();
        let stranger = |id: u64| id != own && !known.contains(&id);
        if page.entries.iter().any(|entry| stranger(u64::from_be_bytes(entry.owner))) {
            return true;
        }
        if !comparison.behind && self.catch_up.satisfied(from.id, page, peers) {
            self.changed = true;
            // What was written while nobody was known reached nobody.
            self.flood_own(peers);
        }
        false
    }

    /// Lets time pass. `known` gives the members, up or remembered.
    pub(crate) fn handle_timeout(&mut self, peers: &Peers, known: impl FnOnce() -> BTreeSet<u64>, now: Instant) {
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep(&known());
        }
        if now < self.next_digest {
            return;
        }
        if self.catch_up.is_done() {
            let period = if now < self.brisk_until { BRISK } else { CALM };
            self.next_digest = now + period.mul_f64(0.75 + self.rng.random::<f64>() / 2.0);
            if let Some(peer) = peers.values().choose(&mut self.rng).copied() {
                self.cursor = self.ask(peer, self.cursor, peers, now);
            }
        } else {
            self.next_digest = now + CATCH_UP;
            if let Some((peer, first)) = self.catch_up.next_question(peers, &mut self.rng) {
                self.ask(peer, first, peers, now);
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next_digest.min(self.next_sweep)
    }

    /// Sends a page and asks for the peer's; returns where the next page begins.
    fn ask(&mut self, peer: Peer, first: u64, peers: &Peers, now: Instant) -> u64 {
        let own = self.documents.own();
        let mut page = self.documents.page(first, |id| id == own || peers.contains_key(&id));
        page.answer = true;
        page.settled = self.catch_up.is_settled(now);
        let next = page.last.wrapping_add(1);
        self.out.push_back((peer, Frame::Digest(page)));
        next
    }

    fn flood(&mut self, batch: &Batch, peers: &Peers) {
        let audience = self.audience(peers);
        self.out.extend(audience.into_iter().map(|peer| (peer, Frame::Cells(batch.clone()))));
    }

    /// Whom to tell something that all should know; beyond a certain size of the cluster they pass it on.
    pub(crate) fn audience(&mut self, peers: &Peers) -> Vec<Peer> {
        if peers.len() <= FLOOD_ALL {
            return peers.values().copied().collect();
        }
        peers.values().copied().sample(&mut self.rng, FAN_OUT)
    }

    /// Drops documents of owners that were no members at this and the last sweep.
    fn sweep(&mut self, known: &BTreeSet<u64>) {
        let strangers = std::mem::take(&mut self.strangers);
        let mut still = BTreeSet::new();
        self.documents.retain(|id| {
            let stranger = !known.contains(&id);
            if stranger {
                still.insert(id);
            }
            !(stranger && strangers.contains(&id))
        });
        self.strangers = still;
    }
}
