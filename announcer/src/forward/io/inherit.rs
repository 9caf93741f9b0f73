//! The edge of taking over a predecessor's flows: its pinned maps, its programs, and the order in which it is let go of.
//!
//! 1. Before this agent's programs take their places, they are told of the predecessor's, and leave it whatever they do not know.
//! 2. They are attached, and know nothing. All that is known is entered into their table, flow by flow.
//! 3. What may begin a connection is theirs from now on. When no packet is on its way through the predecessor's programs that
//!    does, what has come meanwhile is entered.
//! 4. The predecessor is asked no more, and goes with its pins.
//!
//! An agent that ends in between leaves programs that know what they know, and ask for the rest; its successor takes over from both.

#![expect(clippy::disallowed_methods, reason = "edge: says how long it took, and waits for the kernel")]

use std::{io, path::Path, time::Instant};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, ProgramArray},
    programs::ProgramFd,
};
use forwarder_ebpf::{Affinity, AffinityKey, Flow, FlowStates, Pod, Predecessor, describe::Text, map};

use super::{StartError, flow_pins, memory::Memory, seconds};
use crate::forward::inherit::{
    Heir, Layout, Maps, Recipe, Table, Tally, Unreadable, check,
    layout::{AFFINITY, AFFINITY_KEY, FLOW, FLOW_STATES, POD},
    translates,
};

type Key = [u8; size_of::<AffinityKey>()];
type Value = [u8; size_of::<Affinity>()];
type Affinities = HashMap<MapData, Key, Value>;

/// Why a predecessor's flows cannot be taken over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("the map {0} cannot be opened")]
    Map(&'static str, #[source] MapError),
    #[error("the map {0} cannot be read")]
    Memory(&'static str, #[source] io::Error),
    #[error("they are from a version that left no description of them")]
    Undescribed,
}

fn pinned(pin_dir: &Path, end: &str, map: &'static str) -> Result<MapData, Lost> {
    let mut names = flow_pins::names(end);
    let path = names.find(|(name, _)| *name == map).map(|(_, pin)| pin_dir.join(pin)).unwrap_or_default();
    MapData::from_pin(path).map_err(|error| Lost::Map(map, error))
}

/// A predecessor's maps.
#[derive(Debug)]
struct Legacy {
    layout: Layout,
    flows: Memory,
    states: Memory,
    pods: Memory,
    affinities: Option<(Affinities, [Recipe; 2])>,
}

impl Legacy {
    fn open(pin_dir: &Path, end: &str) -> Result<Self, Lost> {
        let pin = |map| pinned(pin_dir, end, map);
        let text = Array::<_, Text>::try_from(Map::Array(pin(map::LAYOUT).map_err(|_| Lost::Undescribed)?));
        let text = text.and_then(|text| text.get(&0, 0)).map_err(|_| Lost::Undescribed)?;
        let layout = Layout::decode(&text)?;
        check(&layout)?;
        let memory = |map: &'static str, record: &str| {
            let bytes = layout.record(record)?.bytes;
            Memory::of(&pin(map)?, bytes).map_err(|error| Lost::Memory(map, error))
        };
        let (flows, states, pods) =
            (memory(map::FLOWS, FLOW)?, memory(map::FLOW_STATES, FLOW_STATES)?, memory(map::PODS, POD)?);
        let affinities = pin(map::AFFINITIES).ok().and_then(|map| {
            let lost = |reason: Lost| {
                tracing::warn!(
                    reason = crate::app::with_causes(&reason),
                    "what a former agent remembers of clients with affinity cannot be read: they get a pod anew"
                );
            };
            known_affinities(&layout, map).map_err(lost).ok()
        });
        Ok(Self { layout, flows, states, pods, affinities })
    }
}

/// Clients with affinity, and how theirs are read. Only of records as long as this agent's own.
fn known_affinities(layout: &Layout, map: MapData) -> Result<(Affinities, [Recipe; 2]), Lost> {
    let recipes = [Recipe::new(layout, AFFINITY_KEY)?, Recipe::new(layout, AFFINITY)?];
    let map = Affinities::try_from(Map::LruHashMap(map)).map_err(|error| Lost::Map(map::AFFINITIES, error))?;
    Ok((map, recipes))
}

/// This agent's maps.
struct Own {
    tables: Tables,
    affinities: Affinities,
}

struct Tables {
    flows: Memory,
    states: Memory,
    pods: Memory,
}

impl Own {
    fn open(pin_dir: &Path, end: &str) -> Result<Self, Lost> {
        let memory = |map, bytes: usize| {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            Memory::of(&pinned(pin_dir, end, map)?, bytes).map_err(|error| Lost::Memory(map, error))
        };
        let tables = Tables {
            flows: memory(map::FLOWS, size_of::<Flow>())?,
            states: memory(map::FLOW_STATES, size_of::<FlowStates>())?,
            pods: memory(map::PODS, size_of::<Pod>())?,
        };
        let affinities = Map::LruHashMap(pinned(pin_dir, end, map::AFFINITIES)?);
        let affinities = affinities.try_into().map_err(|error| Lost::Map(map::AFFINITIES, error))?;
        Ok(Self { tables, affinities })
    }
}

impl Tables {
    fn table(&self) -> Table<'_> {
        Table { flows: self.flows.words(), states: self.states.half_words(), pods: self.pods.half_words() }
    }
}

/// Flows that are to be taken over.
pub(super) struct Inheritance {
    legacies: Vec<Legacy>,
    own: Own,
    /// The predecessor's programs are asked for what this agent's do not know.
    asks: bool,
}

/// Writes the description of the maps beside them.
pub(super) fn describe(ebpf: &mut Ebpf) -> Result<(), StartError> {
    let text = Layout::own().encode().ok_or(StartError::Stale(map::LAYOUT))?;
    let map = ebpf.map_mut(map::LAYOUT).ok_or(StartError::Stale(map::LAYOUT))?;
    let failed = |source| StartError::Map { name: map::LAYOUT, source: Box::new(source) };
    Array::<_, Text>::try_from(map).map_err(failed)?.set(0, text, 0).map_err(failed)
}

impl Inheritance {
    /// What lies under pins whose names end so, if there is any that can be read, for this agent's own maps.
    pub(super) fn open(pin_dir: &Path, own: &str, ends: &[String]) -> Option<Self> {
        let lost = |lost: Lost, pins: &str| {
            tracing::warn!(
                reason = crate::app::with_causes(&lost),
                pins,
                "what a former agent remembers of connections to this node's pods cannot be read: those go on that the tables lead \
                 to the same pod, others break"
            );
        };
        let legacy = |end: &String| Legacy::open(pin_dir, end).map_err(|reason| lost(reason, end)).ok();
        let legacies: Vec<Legacy> = ends.iter().filter_map(legacy).collect();
        if legacies.is_empty() {
            return None;
        }
        let own = Own::open(pin_dir, own).map_err(|reason| lost(reason, own)).ok()?;
        Some(Self { legacies, own, asks: false })
    }

    /// Whether there may be flows to translated backends among them.
    pub(super) fn translates(&self) -> bool {
        self.legacies.iter().any(|legacy| translates(&legacy.layout, legacy.pods.words()).unwrap_or(false))
    }

    /// Before this agent's programs are attached: has them leave what they do not know to the predecessor's, from the wire
    /// and to the wire.
    pub(super) fn begin(&mut self, stages: &mut ProgramArray<MapData>, predecessor: [Option<ProgramFd>; 2]) {
        let [Some(ingress), Some(egress)] = predecessor else {
            self.pass();
            return;
        };
        for slot in Predecessor::ALL {
            let program = if slot == Predecessor::Leaving { &egress } else { &ingress };
            if let Err(problem) = stages.set(slot as u32, program, 0) {
                tracing::warn!(%problem, "a former agent's programs cannot be asked while its flows are taken over");
                let_go(stages, &Predecessor::ALL);
                self.pass();
                return;
            }
        }
        self.asks = true;
    }

    /// After they are attached: takes everything over. How many flows found no room.
    pub(super) fn complete(mut self, stages: &mut ProgramArray<MapData>) -> u32 {
        let start = Instant::now();
        let mut tally = Tally::default();
        let table = self.own.tables.table();
        let heirs = self.legacies.iter().filter_map(|legacy| heir(legacy, table));
        let mut heirs: Vec<Heir<'_>> = heirs.collect();
        heirs.iter_mut().for_each(|heir| tally = tally.and(heir.pass(seconds().unwrap_or_default())));
        take_affinities(&self.legacies, &mut self.own.affinities);
        let_go(stages, &[Predecessor::Beginning]);
        wait_for_programs();
        heirs.iter_mut().for_each(|heir| tally = tally.and(heir.pass(seconds().unwrap_or_default())));
        take_affinities(&self.legacies, &mut self.own.affinities);
        drop(heirs);
        let_go(stages, &Predecessor::ALL);
        // Its parts go with their pin.
        wait_for_programs();
        let Tally { taken, known, over, left_out } = tally;
        let (asked, took) = (self.asks, start.elapsed());
        tracing::info!(taken, known, over, left_out, asked, ?took, "took over a former agent's flows");
        left_out
    }

    /// What can be taken over at once.
    fn pass(&mut self) {
        let table = self.own.tables.table();
        for legacy in &self.legacies {
            if let Some(mut heir) = heir(legacy, table) {
                heir.pass(seconds().unwrap_or_default());
            }
        }
        take_affinities(&self.legacies, &mut self.own.affinities);
    }
}

fn heir<'a>(legacy: &'a Legacy, table: Table<'a>) -> Option<Heir<'a>> {
    let Legacy { layout, flows, states, pods, .. } = legacy;
    let maps = Maps::new(layout, flows.words(), states.words(), pods.words());
    let heir = maps.and_then(|maps| Heir::new(layout, maps, table));
    heir.inspect_err(|reason| tracing::warn!(%reason, "a former agent's flows cannot be read, and are lost")).ok()
}

/// Copies what clients with affinity have, unless it is known better here.
fn take_affinities(legacies: &[Legacy], own: &mut Affinities) {
    const SEEN: usize = core::mem::offset_of!(Affinity, seen);
    let seen = |value: &[u8]| value.get(SEEN..SEEN + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    for (theirs, [key_recipe, value_recipe]) in legacies.iter().filter_map(|legacy| legacy.affinities.as_ref()) {
        for (key, value) in theirs.iter().flatten() {
            let key: Result<Key, _> = key_recipe.apply(&key).try_into();
            let value: Result<Value, _> = value_recipe.apply(&value).try_into();
            let (Ok(key), Ok(value)) = (key, value) else { continue };
            let known = own.get(&key, 0).ok().and_then(|known| seen(&known)).unwrap_or_default();
            if seen(&value).is_some_and(|seen| seen > known) {
                // The map gives up the least recently used by itself.
                let _ = own.insert(key, value, 0);
            }
        }
    }
}

/// Asks the predecessor no more.
fn let_go(stages: &mut ProgramArray<MapData>, slots: &[Predecessor]) {
    for slot in slots {
        // It may be empty.
        let _ = stages.clear_index(&(*slot as u32));
    }
}

/// Waits until no program runs that began before now: the kernel's barrier for all processors waits for whoever may not be
/// interrupted, which programs may not.
fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: integers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        // Not there on kernels with processors of their own (nohz_full): far longer than a packet's way takes.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
