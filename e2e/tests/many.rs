//! A hundred VIPs on one node: when it goes, the last is announced hardly later than the first.
#![expect(clippy::disallowed_methods, reason = "edge: measures real networks")]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    manifests::{POOL, service},
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB},
    sniffer::{Kind, Sniffer},
};

/// From the first VIP's announcement to the last one's.
const AT_MOST: Duration = Duration::from_millis(100);
/// Services, of two VIPs each.
const SERVICES: usize = 50;

/// n1 owns all VIPs, n2 and n3 none. Gossip goes by a segment of its own.
fn all_on_n1(name: &str) -> Result<Cluster> {
    let mut builder = Cluster::three(name).pods(1).backbone().nothing_moves_by_itself();
    for index in 0..SERVICES {
        builder = builder.service(service(&format!("s{index:02}")).tcp(WEB).dual_stack());
    }
    let cluster = builder.build()?;
    let pool = POOL.replace("10.77.0.119", "10.77.0.199").replace("fd77::11f", "fd77::1ff");
    cluster.manifests.write("pool.yaml", &pool)?;
    owned(&cluster, &["n1"])?;
    owned(&cluster, &["n2", "n3"])?;
    Ok(cluster)
}

/// Starts these agents and waits until all that run know n1 as the owner of everything.
fn owned(cluster: &Cluster, start: &[&str]) -> Result<()> {
    start.iter().try_for_each(|node| cluster.agent(node)?.start())?;
    eventually(SETTLE, "n1 owns everything, and all know it", || {
        for node in cluster.running() {
            let status = cluster.agent(node)?.status()?;
            let owned = status.vips.iter().filter(|vip| vip.owner.as_deref() == Some("n1")).count();
            ensure!(owned == 2 * SERVICES, "{node} knows of {owned}");
            ensure!(status.up() == cluster.running(), "{node} sees {:?}", status.members);
            cluster.agent(node)?.get("/readyz")?.ok()?;
        }
        Ok(())
    })
}

/// When each VIP was first announced by another node than n1, and by whom.
fn announced(cluster: &Cluster, sniffer: &Sniffer) -> Result<BTreeMap<IpAddr, (Instant, String)>> {
    let others = ["n2", "n3"].map(|node| (node, cluster.lan.host(node).map(|host| host.mac)));
    let vips = cluster.vips();
    let mut first = BTreeMap::new();
    for frame in sniffer.frames() {
        let vip: IpAddr = match frame.kind {
            Kind::Arp { sender, target, .. } if sender == target => sender.into(),
            Kind::Advertisement(target) => target.into(),
            _ => continue,
        };
        let by = others.iter().find(|(_, mac)| mac.as_ref().is_ok_and(|mac| *mac == frame.source));
        if let Some((node, _)) = by.filter(|_| vips.contains(&vip)) {
            first.entry(vip).or_insert((frame.at, (*node).to_owned()));
        }
    }
    ensure!(first.len() == vips.len(), "{} of {} VIPs are announced", first.len(), vips.len());
    Ok(first)
}

/// Does `fault` to n1, and tells how long after the first VIP the last one was announced.
fn spread(cluster: &Cluster, fault: impl FnOnce(&Cluster) -> Result<()>) -> Result<Duration> {
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    let at = Instant::now();
    fault(cluster)?;
    let first = eventually(SETTLE, "others announce all VIPs", || announced(cluster, &sniffer))?;
    let times = || first.values().map(|(at, _)| *at);
    let (begin, end) = (times().min().context("none")?, times().max().context("none")?);
    for node in ["n2", "n3"] {
        let own: Vec<_> = first.values().filter(|(_, by)| by == node).map(|(at, _)| at.duration_since(begin)).collect();
        println!("{node}: {} VIPs, first {:?}, last {:?}", own.len(), own.iter().min(), own.iter().max());
    }
    for agent in &cluster.agents {
        let log = agent.log();
        let says =
            |text: &str| log.lines().filter(|line| line.contains(text)).map(|line| line[..30].to_owned()).collect();
        let (took, link): (Vec<String>, Vec<String>) = (says("taking the VIP"), says("uplink changed"));
        println!("{}: took {:?} to {:?}, uplink {link:?}", agent.name, took.first(), took.last());
    }
    println!("first after {:?}, last {:?} later", begin.duration_since(at), end.duration_since(begin));
    cluster
        .vips()
        .iter()
        .try_for_each(|vip| eventually(SETTLE, &format!("{vip} is served"), || cluster.get(*vip).map(drop)))?;
    Ok(end.duration_since(begin))
}

#[test]
fn a_hundred_vips_of_a_node_that_lost_its_link_are_announced_at_once() -> Result<()> {
    let cluster = all_on_n1("hundred-link")?;
    let spread = spread(&cluster, |cluster| cluster.lan.link_down("n1"))?;
    assert!(spread <= AT_MOST, "{spread:?}");
    Ok(())
}

#[test]
fn a_hundred_vips_of_a_drained_node_are_announced_at_once() -> Result<()> {
    let cluster = all_on_n1("hundred-stop")?;
    let spread = spread(&cluster, |cluster| cluster.agent("n1")?.terminate())?;
    assert!(spread <= AT_MOST, "{spread:?}");
    Ok(())
}

#[test]
fn a_hundred_vips_of_a_dead_node_are_announced_at_once() -> Result<()> {
    let cluster = all_on_n1("hundred-dead")?;
    let spread = spread(&cluster, |cluster| cluster.agent("n1")?.kill())?;
    assert!(spread <= AT_MOST, "{spread:?}");
    Ok(())
}
