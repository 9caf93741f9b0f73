//! Whose turn it is to write: a function of the members.

use std::time::Duration;

use membership::{NodeName, View};
use xxhash_rust::xxh3::xxh3_64;

/// How long each member leaves to the one before it.
const STEP: Duration = Duration::from_secs(3);
/// Nobody waits for longer.
const LONGEST: Duration = Duration::from_secs(15);

/// Whether a node may write: it knows its cluster, and is of its greater part (one that is cut off would tell old news), and
/// knows what the API server says now.
pub(super) fn may_write(me: &NodeName, view: &View) -> bool {
    view.members.get(me).is_some_and(|member| {
        let facts = &member.document.facts;
        !facts.listening && !facts.isolated && facts.informed
    })
}

/// For how long a node leaves writing to others.
pub(super) fn patience(me: &NodeName, view: &View) -> Duration {
    let rank = |node: &NodeName| (xxh3_64(node.as_str().as_bytes()), node.clone());
    let own = rank(me);
    let running = view.up().filter(|(_, member)| member.state.is_running());
    let before = running.filter(|(node, _)| may_write(node, view) && rank(node) < own).count();
    STEP.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use membership::{Facts, Member, MemberState, NodeDocument};

    use super::*;

    fn member(informed: bool) -> Member {
        let facts = Facts { informed, ..Facts::default() };
        Member {
            address: "127.0.0.1:1".parse().unwrap(),
            generation: 1,
            state: MemberState::Alive,
            document: NodeDocument { facts, ..NodeDocument::default() },
        }
    }

    #[test]
    fn the_first_that_reaches_the_api_server_writes_at_once_and_the_others_wait_their_turn() {
        let names: Vec<NodeName> = ["n1", "n2", "n3"].map(|name| name.parse().unwrap()).into();
        let view = |deaf: Option<&NodeName>| {
            let members = names.iter().map(|name| (name.clone(), member(Some(name) != deaf)));
            View { members: members.collect::<BTreeMap<_, _>>(), caught_up: true }
        };
        let waits = |deaf: Option<&NodeName>| {
            names.iter().map(|name| (patience(name, &view(deaf)), name)).collect::<BTreeMap<_, _>>()
        };
        let all = waits(None);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [Duration::ZERO, STEP, STEP * 2]);
        let (first, second) = (all[&Duration::ZERO], all[&STEP]);
        assert!(!may_write(first, &view(Some(first))));
        assert_eq!(patience(second, &view(Some(first))), Duration::ZERO);
    }
}
