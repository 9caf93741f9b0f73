//! What must hold: members see each other, each VIP has one owner in each part of the network, by what the agents say
//! and on the wire, the client is served, and no agent has died, panicked or complained.
//!
//! All VIPs are asked about at once, so that a hundred cost little more than one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{wire, world::World};
use crate::{
    observe::eventually,
    scenario::{Cluster, SETTLE},
    topology::Mac,
};

/// How long a minority leaves a VIP to one whom it has heard announce it, though it answers no question: 75 s, see
/// `docs/failure-modes.md`.
const LEFT_ALONE: Duration = Duration::from_secs(90);

/// The owner of each VIP, on whom `nodes` agree by status and by metrics.
///
/// # Errors
/// When they do not agree, or there is none among them for some VIP.
pub fn owners(cluster: &Cluster, nodes: &[&str]) -> Result<BTreeMap<IpAddr, String>> {
    let mut seen = Vec::new();
    for node in nodes {
        let agent = cluster.agent(node)?;
        seen.push((*node, agent.status()?, agent.metrics()?.metric("crier_vip_owned")));
    }
    let mut owners = BTreeMap::new();
    for vip in cluster.vips() {
        let said: BTreeMap<_, _> = seen.iter().map(|(node, status, _)| (*node, status.owner(vip))).collect();
        let first = said.values().next().copied().flatten();
        let owner = first.with_context(|| format!("{vip} has no owner: {said:?}"))?;
        ensure!(said.values().all(|other| *other == Some(owner)), "{vip} has several owners: {said:?}");
        ensure!(nodes.contains(&owner), "{owner} owns {vip} and is not among {nodes:?}");
        for (node, _, owned) in &seen {
            let owns = owned.clone().label("vip", &vip.to_string()).sum() > 0.0;
            ensure!(owns == (*node == owner), "crier_vip_owned of {vip} on {node} is {owns}, but {owner} owns it");
        }
        owners.insert(vip, owner.to_owned());
    }
    Ok(owners)
}

/// Each VIP answers the client.
///
/// # Errors
/// Names one that does not.
pub fn served(cluster: &Cluster) -> Result<()> {
    cluster.vips().into_iter().try_for_each(|vip| cluster.get(vip).map(drop).with_context(|| vip.to_string()))
}

/// Waits until the running agents see each other and nobody else, and each VIP has one owner and is served.
///
/// # Errors
/// When it does not come to that in time.
pub fn settle(cluster: &Cluster) -> Result<BTreeMap<IpAddr, String>> {
    alive(cluster)?;
    let running = cluster.running();
    ensure!(!running.is_empty(), "no agent runs");
    eventually(SETTLE, "all members see each other", || {
        for node in &running {
            let status = cluster.agent(node)?.status()?;
            ensure!(status.up() == running, "{node} sees {:?}", status.members);
        }
        Ok(())
    })?;
    let owners = eventually(SETTLE, "one owner of each VIP", || owners(cluster, &running))?;
    eventually(SETTLE, "each VIP is served", || served(cluster))?;
    Ok(owners)
}

/// While faults are in force: one owner in each part, and service in the client's; on the wire too where it can be told.
///
/// # Errors
/// The part, and what is wrong in it.
pub fn in_force(world: &World) -> Result<()> {
    let Some(parts) = world.parts() else { return Ok(()) };
    let mut clients = None;
    for (index, part) in parts.iter().enumerate() {
        let names: Vec<_> = part.iter().map(String::as_str).collect();
        let patience = if 2 * names.len() < world.nodes().len() { LEFT_ALONE } else { SETTLE };
        let what = format!("one owner of each VIP among {names:?}");
        let found = eventually(patience, &what, || owners(world.cluster, &names))?;
        if index == 0 {
            clients = Some(found);
        }
    }
    eventually(SETTLE, "each VIP is served", || served(world.cluster))?;
    match clients {
        // Where a part is at rest the nodes may even out their VIPs; a planned move has two answers for a moment.
        Some(_) if world.wire_is_telling() => {
            let part: Vec<_> = parts.first().into_iter().flatten().map(String::as_str).collect();
            eventually(SETTLE, "each VIP has one answer on the wire", || {
                on_the_wire(world.cluster, &owners(world.cluster, &part)?)
            })
        }
        _ => Ok(()),
    }
}

/// The client asks for each VIP and hears its owner, and nobody else.
///
/// # Errors
/// The VIP, who answered, and who should have.
pub fn on_the_wire(cluster: &Cluster, owners: &BTreeMap<IpAddr, String>) -> Result<()> {
    let vips: Vec<_> = owners.keys().copied().collect();
    let answers = wire::ask(cluster.client(), &vips)?;
    for (vip, owner) in owners {
        let expected = BTreeSet::from([cluster.lan.host(owner)?.mac]);
        let found = answers.get(vip).cloned().unwrap_or_default();
        let names = |macs: &BTreeSet<Mac>| macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            found == expected,
            "asked on the wire, {vip} is at [{}]; its owner {owner} is at {}",
            names(&found),
            names(&expected)
        );
    }
    Ok(())
}

/// No agent has ended by itself.
///
/// # Errors
/// With its log's end.
pub fn alive(cluster: &Cluster) -> Result<()> {
    cluster.agents.iter().find(|agent| agent.has_failed()).map_or(Ok(()), |agent| Err(anyhow!(agent.obituary())))
}

/// Lines of a log that no scenario explains: panics, and errors that hold none of the `expected` words.
#[must_use]
pub fn complaints(log: &str, expected: &[&str]) -> Vec<String> {
    let bad = |line: &String| {
        let panics = line.contains("panicked at");
        let errs = line.split_whitespace().take(3).any(|word| word == "ERROR");
        panics || (errs && !expected.iter().any(|words| line.contains(words)))
    };
    log.lines().map(without_colour).filter(bad).collect()
}

/// A line without its terminal escapes (ECMA-48, "select graphic rendition").
fn without_colour(line: &str) -> String {
    let mut pieces = line.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |plain, piece| plain + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_searched_for_panics_and_unexplained_errors() {
        let log = "2026-01-01T00:00:00Z  INFO a: ERROR is only a word here\n\
                   2026-01-01T00:00:00Z ERROR a: No space left on device\n\
                   \u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m a: something else\n\
                   thread 'main' panicked at src/a.rs: No space left on device\n";
        let found = complaints(log, &["No space left"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("something else") && found[1].contains("panicked at"));
    }
}
