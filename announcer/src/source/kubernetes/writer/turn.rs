//! Whose turn it is to write: a function of the members.

use std::time::Duration;

use membership::{NodeName, View};
use xxhash_rust::xxh3::xxh3_64;

/// How long each member leaves to the one before it.
const STEP: Duration = Duration::from_secs(3);
/// Nobody waits for longer.
const LONGEST: Duration = Duration::from_secs(15);

/// Whether a node may write: it knows its cluster, and is of its greater part. A part that is cut off would tell old news.
pub(super) fn may_write(me: &NodeName, view: &View) -> bool {
    view.members.get(me).is_some_and(|member| {
        let facts = &member.document.facts;
        !facts.listening && !facts.isolated
    })
}

/// For how long a node leaves writing to others.
pub(super) fn patience(me: &NodeName, view: &View) -> Duration {
    let rank = |node: &NodeName| (xxh3_64(node.as_str().as_bytes()), node.clone());
    let own = rank(me);
    let before = view.up().filter(|(node, _)| may_write(node, view) && rank(node) < own).count();
    STEP.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX)).min(LONGEST)
}
