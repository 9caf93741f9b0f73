//! A backend of which no node is named: a gateway probes it and carries its connections, and when that node dies another does.
#![expect(clippy::disallowed_methods, reason = "edge: a scenario in real time")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    agent::Agent,
    longlived::all_survived,
    manifests::{Endpoint, web},
    observe::eventually,
    pods::Pod,
    scenario::{Cluster, SETTLE, WEB},
};

const INTERVAL: Duration = Duration::from_millis(200);
/// A host on the segment on which no agent runs.
const BARE: &str = "n4";

/// The node that carries the backend's IPv4 address, as all these nodes see it; they see it healthy as well, or not.
fn gateway(cluster: &Cluster, nodes: &[&str], healthy: bool) -> Result<String> {
    let mut carriers = Vec::new();
    for node in nodes {
        for backend in cluster.agent(node)?.status()?.backends.into_iter().filter(|backend| backend.address.is_ipv4()) {
            ensure!(backend.healthy == Some(healthy), "{node} says {backend:?}");
            ensure!(
                backend.reason.as_str().is_some_and(|reason| reason.contains("full NAT")),
                "{node} says {backend:?}"
            );
            carriers.push(backend.node.with_context(|| format!("{node} names no gateway"))?);
        }
    }
    carriers.dedup();
    ensure!(carriers.len() == 1, "they name {carriers:?}");
    carriers.pop().context("nobody knows the backend")
}

fn served(cluster: &Cluster, pod: &str) -> Result<()> {
    for vip in cluster.vips() {
        for _ in 0..10 {
            let answer = cluster.get(vip)?;
            ensure!(answer.pod == pod, "{vip} is answered by {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn a_backend_without_a_node_is_probed_and_carried_by_a_gateway_and_by_another_when_that_dies() -> Result<()> {
    let mut cluster =
        Cluster::of("gateway", 4).pods(1).service(web().tcp(WEB).dual_stack().tcp_check(INTERVAL)).build()?;
    let bare = Pod::start("bare", "", cluster.lan.host(BARE)?)?;
    cluster.edit("web", |web| web.endpoints = vec![Endpoint::from(&bare)])?;
    cluster.agents.iter().filter(|agent| agent.name != BARE).try_for_each(Agent::start)?;
    cluster.settle()?;
    let all = ["n1", "n2", "n3"];
    let first =
        eventually(SETTLE, "all know the gateway, and that the backend is healthy", || gateway(&cluster, &all, true))?;
    served(&cluster, "bare")?;

    bare.refuse_connections(true);
    eventually(SETTLE, "its gateway finds it unhealthy", || gateway(&cluster, &all, false))?;
    bare.refuse_connections(false);
    eventually(SETTLE, "its gateway finds it healthy", || gateway(&cluster, &all, true))?;

    // Who announces the VIP is another matter: its place may change under a connection.
    let vip = cluster.vip4();
    let connections = cluster.long_lived(vip, 8)?;
    let owner = cluster.owner(vip)?;
    if owner != first {
        cluster.lan.cut(&owner)?;
        cluster.new_owner(vip, &owner)?;
        eventually(SETTLE, "served by the next owner", || served(&cluster, "bare"))?;
    }
    all_survived(&connections.finish()?, |_| true)?;
    cluster.lan.heal(&owner)?;
    eventually(SETTLE, "all are back", || gateway(&cluster, &all, true))?;

    cluster.lan.cut(&first)?;
    let others: Vec<&str> = all.into_iter().filter(|node| *node != first).collect();
    eventually(SETTLE, "another carries it, and has probed it", || {
        let next = gateway(&cluster, &others, true)?;
        ensure!(next != first, "{first} still does");
        served(&cluster, "bare")
    })?;
    cluster.end_quietly();
    Ok(())
}
