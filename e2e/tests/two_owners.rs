//! Two nodes may both believe that a VIP is theirs. Whatever cut them apart, the client sees one, and goes on being served.
#![expect(clippy::disallowed_methods, reason = "edge: measures real networks")]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    http,
    manifests::{ServiceSpec, web},
    observe::{eventually, neighbour, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB, key},
    sniffer::{Frame, Kind, Sniffer},
    topology::Mac,
};

const SECOND: Duration = Duration::from_secs(1);
/// Far above what is promised: this tells "moved" from "did not move".
const AT_MOST: Duration = Duration::from_secs(3);

fn service() -> ServiceSpec {
    web().tcp(WEB).udp(DNS).dual_stack()
}

/// Whether the frame announces the VIP unasked.
fn announces(frame: &Frame, vip: IpAddr) -> bool {
    match (&frame.kind, vip) {
        (Kind::Arp { sender, target, .. }, IpAddr::V4(vip)) => sender == target && *sender == vip,
        // An answer goes to who asked; unasked, to all.
        (Kind::Advertisement(target), IpAddr::V6(vip)) => *target == vip && frame.destination.0[0] == 0x33,
        _ => false,
    }
}

fn announced_by(sniffer: &Sniffer, mac: Mac, vip: IpAddr) -> usize {
    sniffer.count(|frame| frame.source == mac && announces(frame, vip))
}

/// Waits until nobody announces the VIP any more: bursts are over, and what comes later has another reason.
fn calm(sniffer: &Sniffer, vips: &[IpAddr]) -> Result<()> {
    let start = Instant::now();
    eventually(SETTLE, "bursts are over", || {
        let of_vips = |frame: &&Frame| vips.iter().any(|vip| announces(frame, *vip));
        let last = sniffer.frames().iter().filter(of_vips).map(|frame| frame.at).max();
        ensure!(last.unwrap_or(start).max(start).elapsed() > Duration::from_millis(1500), "somebody announces");
        Ok(())
    })
}

/// Waits until the client sends to this node.
fn reached_by_client(cluster: &Cluster, vip: IpAddr, node: &str) -> Result<()> {
    let mac = cluster.lan.host(node)?.mac;
    eventually(SETTLE, "the client sends to the owner", || {
        cluster.get(vip)?;
        ensure!(neighbour(cluster.client(), vip)? == Some(mac));
        Ok(())
    })
}

fn others<'a>(cluster: &'a Cluster, node: &str) -> Vec<&'a str> {
    cluster.running().into_iter().filter(|name| *name != node).collect()
}

#[test]
fn an_owner_cut_from_its_peers_but_not_from_its_client_keeps_quiet() -> Result<()> {
    let cluster = Cluster::three("cut-from-peers").nothing_moves_by_itself().service(service()).start()?;
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let old = cluster.owner(vip)?;
        let mac = cluster.lan.host(&old)?.mac;
        calm(&sniffer, &cluster.vips())?;
        let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
        cluster.lan.partition(&[&[&old], &others(&cluster, &old)])?;
        sniffer.clear();
        let new = cluster.new_owner(vip, &old)?;
        reached_by_client(&cluster, vip, &new)?;
        throughout(9 * SECOND, "the old owner says nothing, and the client stays with the new one", || {
            ensure!(announced_by(&sniffer, mac, vip) == 0, "{old} announces {vip}");
            cluster.get(vip).map(drop)
        })?;
        reached_by_client(&cluster, vip, &new)?;
        cluster.lan.heal_all()?;
        cluster.settle()?;
        assert_eq!(cluster.owner(vip)?, new, "the healthy side keeps it");
        let report = load.stop()?;
        println!("{vip}: {old} -> {new}: {report:?}");
        assert!(report.outage < AT_MOST, "{report:?}");
        assert_eq!(report.duplicates, 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn of_two_nodes_cut_apart_the_one_that_takes_over_is_heard_by_the_client() -> Result<()> {
    let cluster = Cluster::of("two-cut", 2).nothing_moves_by_itself().service(service()).start()?;
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    let vip = cluster.vip4();
    let old = cluster.owner(vip)?;
    let mac = cluster.lan.host(&old)?.mac;
    calm(&sniffer, &[vip])?;
    let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
    cluster.lan.partition(&[&["n1"], &["n2"]])?;
    sniffer.clear();
    let new = cluster.new_owner(vip, &old)?;
    reached_by_client(&cluster, vip, &new)?;
    throughout(8 * SECOND, "the old owner says nothing", || {
        ensure!(announced_by(&sniffer, mac, vip) == 0, "{old} announces {vip}");
        cluster.get(vip).map(drop)
    })?;
    cluster.lan.heal_all()?;
    cluster.settle()?;
    assert_eq!(cluster.owner(vip)?, new, "the higher epoch");
    reached_by_client(&cluster, vip, &new)?;
    let report = load.stop()?;
    println!("{old} -> {new}: {report:?}");
    assert!(report.outage < AT_MOST, "{report:?}");
    Ok(())
}

#[test]
fn where_only_gossip_is_cut_the_wire_decides() -> Result<()> {
    let cluster = Cluster::of("gossip-cut", 2).nothing_moves_by_itself().service(service()).start()?;
    let nodes = ["n1", "n2"];
    // Claims that have just been made may cross each other; those are another matter.
    cluster.vips().into_iter().try_for_each(|vip| cluster.armed_standby(vip).map(drop))?;
    let before: Vec<_> = cluster.vips().into_iter().map(|vip| Ok((vip, cluster.owner(vip)?))).collect::<Result<_>>()?;
    let load = cluster.udp_load(cluster.vip4()).start(&cluster.client().ns)?;
    cluster.lan.block_gossip("n1", "n2")?;
    let mut after = Vec::new();
    for (vip, old) in before {
        let new = eventually(SETTLE, "the other takes it, and the old one hears that", || {
            let owner = cluster.agreed_owner(vip, &nodes)?;
            ensure!(owner != old, "{old} still owns {vip}");
            Ok(owner)
        })?;
        after.push((vip, new));
    }
    throughout(6 * SECOND, "both agree, though they cannot talk", || {
        after.iter().try_for_each(|(vip, owner)| {
            ensure!(cluster.agreed_owner(*vip, &nodes)? == *owner);
            Ok(())
        })
    })?;
    // The owner dies: its questioner finds out by asking.
    let (vip, dying) = after[0].clone();
    cluster.agent(&dying)?.kill()?;
    cluster.new_owner(vip, &dying)?;
    cluster.agent(&dying)?.start()?;
    cluster.lan.heal_all()?;
    cluster.settle()?;
    let report = load.stop()?;
    assert!(report.outage < AT_MOST, "{report:?}");
    Ok(())
}

#[test]
fn a_node_that_cannot_hear_its_peers_or_be_heard_by_them_costs_the_client_little() -> Result<()> {
    let cluster = Cluster::three("one-way").nothing_moves_by_itself().service(service()).start()?;
    let vip = cluster.vip4();
    for deaf in [true, false] {
        let old = cluster.owner(vip)?;
        let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
        for other in others(&cluster, &old) {
            let (from, to) = if deaf { (other, old.as_str()) } else { (old.as_str(), other) };
            cluster.lan.block_one_way(from, to)?;
        }
        // Whoever it is now, after a while: the client stays with it.
        throughout(4 * SECOND, "the client is served", || cluster.get(vip).map(drop)).or_else(|_| {
            throughout(4 * SECOND, "the client is served but for a takeover", || cluster.get(vip).map(drop))
        })?;
        let first = neighbour(cluster.client(), vip)?.context("no neighbour entry")?;
        throughout(6 * SECOND, "the client stays where it is", || {
            cluster.get(vip)?;
            ensure!(neighbour(cluster.client(), vip)? == Some(first));
            Ok(())
        })?;
        cluster.lan.heal_all()?;
        cluster.settle()?;
        reached_by_client(&cluster, vip, &cluster.owner(vip)?)?;
        let report = load.stop()?;
        println!("deaf {deaf}: {report:?}");
        assert!(report.outage < AT_MOST, "deaf {deaf}: {report:?}");
    }
    Ok(())
}

#[test]
fn an_owner_stopped_in_the_middle_of_a_burst_says_nothing_of_what_it_lost() -> Result<()> {
    let cluster = Cluster::three("stopped").nothing_moves_by_itself().service(service()).start()?;
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let old = cluster.owner(vip)?;
        let agent = cluster.agent(&old)?;
        let mac = cluster.lan.host(&old)?.mac;
        // Announcements are under way, so timers are due when it wakes.
        announce(&cluster, &old, vip)?;
        let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
        agent.freeze()?;
        let stopped = Instant::now();
        let new = cluster.new_owner(vip, &old)?;
        reached_by_client(&cluster, vip, &new)?;
        calm(&sniffer, &[vip])?;
        let rest = (5 * SECOND).saturating_sub(stopped.elapsed());
        throughout(rest, "the new owner serves while the old one is stopped", || cluster.get(vip).map(drop))?;
        sniffer.clear();
        agent.thaw()?;
        throughout(4 * SECOND, "it says nothing of the VIP", || {
            let (unasked, all) = (announced_by(&sniffer, mac, vip), answers(&sniffer, mac, vip));
            ensure!(unasked == 0 && all == 0, "{old} announces {vip} {unasked} times, of {all} frames");
            Ok(())
        })?;
        cluster.settle()?;
        assert_eq!(cluster.owner(vip)?, new);
        let report = load.stop()?;
        println!("{vip}: {old} -> {new}: {report:?}");
        // Its hooks went on: nothing was lost at all while it was stopped.
        assert!(report.outage < SECOND, "{report:?}");
    }
    Ok(())
}

/// Frames by which the node of that MAC says that the VIP is its own, asked or not.
fn answers(sniffer: &Sniffer, mac: Mac, vip: IpAddr) -> usize {
    sniffer.count(|frame| {
        frame.source == mac
            && match (&frame.kind, vip) {
                (Kind::Arp { sender, .. }, IpAddr::V4(vip)) => *sender == vip,
                (Kind::Advertisement(target), IpAddr::V6(vip)) => *target == vip,
                _ => false,
            }
    })
}

#[test]
fn the_last_of_three_takes_over_after_asking_for_a_while() -> Result<()> {
    let cluster = Cluster::three("mass-death").nothing_moves_by_itself().service(service()).start()?;
    let vip = cluster.vip4();
    let old = cluster.owner(vip)?;
    let dying = [old.clone(), others(&cluster, &old)[0].to_owned()];
    let last = others(&cluster, &old)[1].to_owned();
    let died = Instant::now();
    for node in &dying {
        cluster.lan.cut(node)?;
    }
    let served = eventually(SETTLE, "the last one serves", || {
        ensure!(cluster.agreed_owner(vip, &[&last])? == last);
        cluster.get(vip)?;
        Ok(died.elapsed())
    })?;
    println!("served again after {served:?}");
    assert!(served > 4 * SECOND, "{served:?}: it must not take what may be the healthy side's");
    assert!(served < 10 * SECOND, "{served:?}");
    cluster.lan.heal_all()?;
    cluster.settle()
}

#[test]
fn two_clusters_with_different_keys_that_share_a_vip_report_each_other_and_wage_no_war() -> Result<()> {
    let cluster = Cluster::of("two-clusters", 4).service(web().tcp(WEB).udp(DNS)).build()?;
    let vip = cluster.vip4();
    for node in ["n3", "n4"] {
        let mut config = cluster.config(node)?.clone();
        config.keys = vec![key(9)];
        cluster.agent(node)?.configure(&config)?;
    }
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    let owner_of =
        |nodes: [&str; 2]| eventually(SETTLE, "each cluster has an owner", || cluster.agreed_owner(vip, &nodes));
    let owners = [owner_of(["n1", "n2"])?, owner_of(["n3", "n4"])?];
    let address = vip.to_string();
    // The one that came first hears the other announce, at the latest when that is asked to.
    announce(&cluster, &owners[0], vip)?;
    announce(&cluster, &owners[1], vip)?;
    for (node, other) in [(&owners[0], &owners[1]), (&owners[1], &owners[0])] {
        let other = cluster.lan.host(other)?.mac.to_string();
        eventually(SETTLE, "the other cluster is reported, and its gossip refused", || {
            let metrics = cluster.agent(node)?.metrics()?;
            ensure!(metrics.metric("crier_vip_conflicts_total").label("vip", &address).sum() >= 1.0, "not counted");
            ensure!(metrics.metric("crier_gossip_rejected_total").label("reason", "wrong_key").sum() >= 1.0);
            let status = cluster.agent(node)?.get("/api/v1/status")?.ok()?;
            ensure!(status.contains(&other), "{other} is not in the status: {status}");
            ensure!(cluster.agent(node)?.log().contains("a machine outside the cluster uses a VIP"));
            Ok(())
        })?;
    }
    sniffer.clear();
    let watched = 21 * SECOND;
    let mut served = 0;
    throughout(watched, "the client goes to one or the other", || {
        served += u32::from(cluster.get(vip).is_ok());
        Ok(())
    })?;
    ensure!(served > 100, "only {served} requests were answered");
    for owner in &owners {
        let mac = cluster.lan.host(owner)?.mac;
        let frames = announced_by(&sniffer, mac, vip);
        println!("{owner} announced {frames} times in {watched:?}");
        // At most three defences can begin in that time, of ten frames each.
        assert!(frames <= 30, "{owner} announced {frames} times in {watched:?}");
    }
    Ok(())
}

/// The agent announces the VIP again, on demand.
fn announce(cluster: &Cluster, node: &str, vip: IpAddr) -> Result<()> {
    let response = http::post_unix(&cluster.agent(node)?.socket(), &format!("/api/v1/announce?vip={vip}"))?;
    response.ok().map(drop)
}

#[test]
fn a_foreign_machine_that_insists_is_answered_now_and_then() -> Result<()> {
    let cluster = Cluster::three("insists").nothing_moves_by_itself().service(service()).start()?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    let mac = cluster.lan.host(&owner)?.mac;
    let ns = &cluster.client().ns;
    let sniffer = Sniffer::start(ns, "eth0")?;
    calm(&sniffer, &[vip])?;
    let address = vip.to_string();
    let start = Instant::now();
    while start.elapsed() < 9 * SECOND {
        ns.output("arping", &["-U", "-c", "2", "-I", "eth0", "-S", &address, &address], "").ok();
    }
    let frames = announced_by(&sniffer, mac, vip);
    let counted = cluster.agent(&owner)?.metrics()?.metric("crier_vip_conflicts_total").label("vip", &address).sum();
    println!("{frames} frames in defence, {counted} conflicts counted");
    let most = 10 * (1 + usize::try_from(start.elapsed().as_secs() / 10)?);
    assert!((1..=most).contains(&frames), "one burst in ten seconds, not {frames} frames");
    assert!(counted >= 3.0, "{counted}");
    ensure!(cluster.owner(vip)? == owner);
    Ok(())
}
