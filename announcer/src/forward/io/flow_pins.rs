//! The pins of what outlives an agent: its flows, and what belongs to them. An agent finds its own again by their names, which say
//! what they look like and how many flows there are; all others are a predecessor's that was another version, or told otherwise.

use std::{collections::BTreeSet, path::Path};

use forwarder_ebpf::map;
use xxhash_rust::xxh3::xxh3_64;

use crate::forward::inherit::Layout;

/// The maps, and how their pins' names begin.
pub(super) const MAPS: [(&str, &str); 5] = [
    (map::FLOWS, "flows_"),
    (map::FLOW_STATES, "states_"),
    (map::PODS, "pods_"),
    (map::AFFINITIES, "affinities_"),
    (map::LAYOUT, "layout_"),
];
/// One that can be done without.
const SPARE: &str = map::AFFINITIES;
/// Of former versions.
const FORMER: &str = "replies_";

/// How this agent's pins' names end, with room for so many flows.
pub(super) fn own(flows: u32) -> String {
    let text = Layout::own().encode().unwrap_or([0; _]);
    format!("{:016x}_{flows}", xxh3_64(&text))
}

/// The maps' pins whose names end so.
pub(super) fn names(end: &str) -> impl Iterator<Item = (&'static str, String)> {
    MAPS.into_iter().map(move |(map, prefix)| (map, format!("{prefix}{end}")))
}

/// Whether all that flows need is pinned under such names: one map is of no use without the others.
pub(super) fn are_whole(pin_dir: &Path, end: &str) -> bool {
    names(end).all(|(map, pin)| map == SPARE || pin_dir.join(pin).exists())
}

/// How the names of flows' pins end that are not this agent's.
pub(super) fn others(pins: &BTreeSet<String>, own: &str) -> Vec<String> {
    let ends = pins.iter().filter_map(|pin| pin.strip_prefix(MAPS[0].1));
    ends.filter(|end| *end != own).map(ToOwned::to_owned).collect()
}

/// Whether a pin is of flows, of this layout or another.
pub(super) fn is_one(name: &str) -> bool {
    MAPS.iter().any(|(_, prefix)| name.starts_with(prefix)) || name.starts_with(FORMER)
}
