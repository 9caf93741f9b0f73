//! Peers ask for each VIP on the wire: a silent owner is found and replaced, and nothing else moves a VIP.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    manifests::web,
    observe::{eventually, neighbour, throughout},
    scenario::{Cluster, SETTLE, WEB},
};

/// A VIP is asked for every 5 s; it takes two rounds, each of up to 1.2 s, and the first may have to wait.
const FOUND: Duration = Duration::from_secs(30);
/// All machines are asked each twelfth round only.
const ALL_ASKED: Duration = Duration::from_secs(80);

fn cluster(name: &str) -> Result<Cluster> {
    // A planned move must not fall into the replacement.
    Cluster::three(name).nothing_moves_by_itself().service(web().tcp(WEB).dual_stack()).start()
}

/// Rounds that ended with this result, as all agents but `except` count them.
fn rounds(cluster: &Cluster, result: &str, except: &str) -> Result<f64> {
    let nodes = cluster.running().into_iter().filter(|node| *node != except);
    let count =
        |node| Ok(cluster.agent(node)?.metrics()?.metric("crier_vip_selftest_total").label("result", result).sum());
    nodes.map(count).sum()
}

/// Transitions of the VIP with this reason, as one agent counts them.
fn transitions(cluster: &Cluster, node: &str, vip: IpAddr, reason: &str) -> Result<f64> {
    let metrics = cluster.agent(node)?.metrics()?;
    Ok(metrics.metric("crier_vip_transitions_total").label("vip", &vip.to_string()).label("reason", reason).sum())
}

/// The problems that agents report for the VIP: (agent, result).
fn reported(cluster: &Cluster, vip: IpAddr) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for node in cluster.running() {
        let problems = cluster.agent(node)?.status()?.selftest.problems;
        found.extend(problems.into_iter().filter(|p| p.address == vip).map(|p| (node.to_owned(), p.result)));
    }
    Ok(found)
}

fn a_silent_owner(name: &str, pick: fn(&Cluster) -> IpAddr) -> Result<()> {
    let cluster = cluster(name)?;
    let vip = pick(&cluster);
    let old = cluster.owner(vip)?;
    let other = cluster.vips().into_iter().find(|address| *address != vip).unwrap_or(vip);
    let others_owner = cluster.owner(other)?;
    cluster.lan.mute(&old, vip)?;
    cluster.client().ns.ip(&["neigh flush dev eth0".to_owned()])?;
    ensure!(cluster.get(vip).is_err(), "the fault is none: {old} still answers");

    eventually(FOUND, "a peer reports it before it takes the VIP", || {
        let found = reported(&cluster, vip)?;
        ensure!(found.iter().any(|(_, result)| result == "silent"), "reported: {found:?}");
        Ok(())
    })?;
    let new = eventually(FOUND, "another node takes the VIP", || {
        let owner = cluster.agreed_owner(vip, &cluster.running())?;
        ensure!(owner != old);
        Ok(owner)
    })?;
    eventually(SETTLE, "the client is served again", || cluster.get(vip).map(drop))?;
    ensure!(neighbour(cluster.client(), vip)? == Some(cluster.lan.host(&new)?.mac), "by the new owner");
    assert!((transitions(&cluster, &new, vip, "silent")? - 1.0).abs() < f64::EPSILON, "{new} tells why");
    assert!(cluster.agent(&new)?.log().contains("goes on being silent"));
    assert_eq!(cluster.owner(other)?, others_owner, "what is answered for stays");

    cluster.lan.heal(&old)?;
    throughout(Duration::from_secs(8), "the old owner does not take it back, and all is well", || {
        ensure!(cluster.agreed_owner(vip, &cluster.running())? == new);
        Ok(())
    })?;
    eventually(FOUND, "nobody reports a problem any more", || {
        ensure!(reported(&cluster, vip)?.is_empty());
        Ok(())
    })
}

#[test]
fn a_silent_owner_is_reported_and_replaced() -> Result<()> {
    a_silent_owner("silent4", Cluster::vip4)
}

#[test]
fn a_silent_owner_of_an_ipv6_vip_is_reported_and_replaced() -> Result<()> {
    a_silent_owner("silent6", Cluster::vip6)
}

#[test]
fn a_healthy_cluster_on_a_bad_segment_reports_and_replaces_nothing() -> Result<()> {
    let cluster = cluster("self-loss")?;
    let owners: Vec<_> = cluster.vips().into_iter().map(|vip| Ok((vip, cluster.owner(vip)?))).collect::<Result<_>>()?;
    let node = owners[0].1.clone();
    cluster.lan.loss(&node, 5)?;
    let before = rounds(&cluster, "answered", "")?;
    throughout(Duration::from_secs(30), "nothing is reported", || {
        for (vip, _) in &owners {
            ensure!(reported(&cluster, *vip)?.is_empty(), "{:?}", reported(&cluster, *vip)?);
        }
        Ok(())
    })?;
    ensure!(rounds(&cluster, "answered", "")? >= before + 8.0, "the VIPs were not tested");
    cluster.lan.heal_all()?;
    for (vip, _) in &owners {
        for node in cluster.running() {
            assert!(transitions(&cluster, node, *vip, "silent")? < 0.5, "{node} has seen {vip} replaced");
        }
    }
    Ok(())
}

#[test]
fn an_owner_that_cannot_be_reached_at_all_is_not_called_silent() -> Result<()> {
    let cluster = cluster("self-unreachable")?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    // Its address-resolution goes unheard altogether, so nobody can tell its announcer from its kernel.
    cluster.lan.mute(&owner, vip)?;
    cluster.lan.mute(&owner, cluster.lan.host(&owner)?.v4.into())?;
    eventually(FOUND, "a peer reports it", || {
        let found = reported(&cluster, vip)?;
        ensure!(found.iter().any(|(_, result)| result == "unreachable"), "reported: {found:?}");
        Ok(())
    })?;
    throughout(Duration::from_secs(12), "it is not replaced for silence", || {
        for node in cluster.running() {
            ensure!(transitions(&cluster, node, vip, "silent")? < 0.5, "{node} has seen it replaced");
        }
        Ok(())
    })
}

#[test]
fn a_foreign_answerer_is_reported_to_the_owner_and_nobody_is_replaced() -> Result<()> {
    let cluster = cluster("self-foreign")?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    cluster.client().ns.ip(&[format!("addr add {vip}/32 dev eth0")])?;
    eventually(ALL_ASKED, "a peer reports it and the owner defends the VIP", || {
        let found = reported(&cluster, vip)?;
        ensure!(found.iter().any(|(_, result)| result == "foreign"), "reported: {found:?}");
        let metrics = cluster.agent(&owner)?.metrics()?;
        let counted = metrics.metric("crier_vip_conflicts_total").label("vip", &vip.to_string()).sum();
        ensure!(counted >= 1.0, "the owner does not know");
        Ok(())
    })?;
    throughout(Duration::from_secs(12), "the VIP stays", || {
        ensure!(cluster.agreed_owner(vip, &cluster.running())? == owner);
        Ok(())
    })?;
    cluster.client().ns.ip(&[format!("addr del {vip}/32 dev eth0")])?;
    eventually(FOUND, "nobody reports a problem any more", || {
        ensure!(reported(&cluster, vip)?.is_empty());
        Ok(())
    })?;
    cluster.get(vip).map(drop)
}

#[test]
fn a_second_member_that_answers_is_reported_and_nobody_is_replaced() -> Result<()> {
    let cluster = cluster("self-member")?;
    let vip = cluster.vip6();
    let owner = cluster.owner(vip)?;
    // Whichever of the others tests, it hears the third.
    for node in cluster.running().into_iter().filter(|node| *node != owner) {
        cluster.lan.host(node)?.ns.ip(&[format!("addr add {vip}/128 dev eth0 nodad")])?;
    }
    eventually(ALL_ASKED, "it is reported", || {
        let found = reported(&cluster, vip)?;
        ensure!(found.iter().any(|(_, result)| result == "other_member"), "reported: {found:?}");
        Ok(())
    })?;
    ensure!(cluster.owner(vip)? == owner);
    Ok(())
}

#[test]
fn a_node_alone_says_that_its_vips_are_untested() -> Result<()> {
    let cluster = Cluster::of("self-alone", 1).service(web().tcp(WEB).dual_stack()).start()?;
    eventually(SETTLE, "it says so", || {
        let metrics = cluster.agent("n1")?.metrics()?;
        let vips = |state: &str| metrics.metric("crier_vip_selftest_vips").label("state", state).sum();
        ensure!((vips("untested") - 2.0).abs() < f64::EPSILON && vips("tested") < 0.5);
        Ok(())
    })
}
