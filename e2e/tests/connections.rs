//! Thousands of established connections through one VIP, and everything happens at once: the owner is cut off, pods are added, the
//! next owner is drained. All go on but those whose pod went with its node. `make bench-connections` does it with ten thousand.
#![expect(clippy::disallowed_methods, reason = "edge: a scenario in real time")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    agent::{Agent, binary},
    crowd::Crowd,
    longlived::{Ended, Fate},
    manifests::{Endpoint, web},
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB},
};

/// Connections, unless `CONNECTIONS` says otherwise.
const CONNECTIONS: usize = 2_000;
/// Each speaks this often.
const PERIOD: Duration = Duration::from_secs(5);
/// In how much time everything happens.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long an echo is waited for in the end: far beyond the pause to which retransmissions have grown by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods that are added while the connections are open.
const ADDED: [&str; 2] = ["n2-p3", "n3-p3"];

fn crierctl(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<()> {
    let socket = cluster.agent(node)?.socket();
    let output = Command::new(binary("crierctl")?).arg("--agent").arg(socket).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Four nodes with three pods each, of which some are not endpoints yet.
fn cluster() -> Result<Cluster> {
    let builder = Cluster::of("connections", 4).pods(3).nothing_moves_by_itself();
    let mut cluster = builder.service(web().tcp(WEB).dual_stack()).build()?;
    cluster.edit("web", |web| web.endpoints.retain(|endpoint| !ADDED.contains(&endpoint.pod.as_str())))?;
    cluster.agents.iter().try_for_each(Agent::start)?;
    cluster.settle()?;
    Ok(cluster)
}

/// How many of each pod's connections met which fate; printed.
fn account(cluster: &Cluster, ended: &[Ended]) {
    let mut pods: BTreeMap<&str, (u32, u32, Duration)> = BTreeMap::new();
    for end in ended {
        let (survived, lost, pause) = pods.entry(&end.pod).or_default();
        *if end.fate == Fate::Survived { survived } else { lost } += 1;
        *pause = (*pause).max(end.longest_pause);
    }
    for (pod, (survived, lost, pause)) in pods {
        println!("{pod} on {}: {survived} survived, {lost} did not, longest pause {pause:?}", cluster.node_of(pod));
    }
}

#[test]
fn established_connections_outlive_a_cut_owner_new_pods_and_a_drain_within_seconds() -> Result<()> {
    let given = std::env::var("CONNECTIONS").ok().map(|count| count.parse()).transpose()?;
    let count: usize = given.unwrap_or(CONNECTIONS);
    let mut cluster = cluster()?;
    let vip = cluster.vip4();
    let begin = Instant::now();
    let crowd = Crowd::open(&cluster.client().ns, SocketAddr::new(vip, WEB), count, PERIOD)?;
    println!("{count} connections are open after {:?}", begin.elapsed());

    let at = Instant::now();
    let cut = cluster.owner(vip)?;
    cluster.lan.cut(&cut)?;
    let added = cluster.pods.iter().filter(|pod| ADDED.contains(&pod.name.as_str()));
    let added: Vec<Endpoint> = added.map(Endpoint::from).collect();
    cluster.edit("web", |web| web.endpoints.extend(added))?;
    let drained = cluster.new_owner(vip, &cut)?;
    crierctl(&cluster, &drained, &["drain"])?;
    ensure!(at.elapsed() < AT_ONCE, "it took {:?}", at.elapsed());
    println!("{cut} is cut off, {ADDED:?} are added, {drained} is drained: in {:?}", at.elapsed());

    let others: Vec<_> = cluster.running().into_iter().filter(|node| *node != cut).collect();
    let owner = eventually(SETTLE, "another owner than the drained one", || {
        let owner = cluster.agreed_owner(vip, &others)?;
        ensure!(owner != drained, "{drained} still owns it");
        Ok(owner)
    })?;
    cluster.client_sends_to(vip, &owner)?;
    let mut fresh = BTreeMap::new();
    eventually(SETTLE, "new connections reach the added pods", || {
        *fresh.entry(cluster.get(vip)?.pod).or_insert(0) += 1;
        let reached = |pod: &&str| fresh.contains_key(*pod);
        ensure!(ADDED.iter().all(reached), "reached so far: {fresh:?}");
        Ok(())
    })?;

    let ended = crowd.finish(PATIENCE, |pod| cluster.node_of(pod) == cut)?;
    account(&cluster, &ended);
    let on = |node: &str| ended.iter().filter(|end| cluster.node_of(&end.pod) == node).count();
    ensure!(ended.len() == count, "{} of {count} connections are accounted for", ended.len());
    ensure!(on(&cut) > 0 && on(&drained) > 0, "no connection had its pod on {cut}, or none on {drained}");
    let broken: Vec<_> =
        ended.iter().filter(|end| end.fate != Fate::Survived && cluster.node_of(&end.pod) != cut).collect();
    println!("{count} connections: {} to pods of the cut node, {} others broken", on(&cut), broken.len());
    let first = broken.first().context("none").map(|end| format!("{end:?}")).unwrap_or_default();
    ensure!(broken.is_empty(), "{} connections broke though their pods are there: {first}", broken.len());
    Ok(())
}
