//! Restarts of agents that are announced: nothing moves, nothing is lost, and a machine that goes with its agent is noticed.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    agent::{Agent, Config},
    chaos::wire,
    lossless::Traffic,
    manifests::{Endpoint, web},
    observe::{eventually, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB},
};

fn cluster(name: &str, grace: &str) -> Result<Cluster> {
    let config = format!("restartGrace: {grace}\n");
    let service = web().tcp(WEB).udp(DNS).dual_stack();
    Cluster::three(name).nothing_moves_by_itself().extra(&config).service(service).start()
}

/// The owner and the epoch of a VIP as a node sees them.
fn claim(cluster: &Cluster, viewer: &str, vip: IpAddr) -> Result<(Option<String>, u64)> {
    let status = cluster.agent(viewer)?.status()?;
    let shown = status.vips.iter().find(|shown| shown.address == vip);
    ensure!(shown.is_some(), "{viewer} does not know {vip}");
    Ok(shown.map(|vip| (vip.owner.clone(), vip.epoch)).unwrap_or_default())
}

/// A node other than this one.
fn peer(cluster: &Cluster, node: &str) -> Result<String> {
    let other = cluster.running().into_iter().find(|other| *other != node);
    other.map(ToOwned::to_owned).ok_or_else(|| anyhow::anyhow!("there is nobody but {node}"))
}

fn state(cluster: &Cluster, viewer: &str, of: &str) -> Result<String> {
    let status = cluster.agent(viewer)?.status()?;
    let member = status.members.iter().find(|member| member.name == of);
    Ok(member.map(|member| member.state.clone()).unwrap_or_default())
}

/// The client has to ask anew for all addresses.
fn forget_neighbours(cluster: &Cluster) -> Result<()> {
    cluster.client().ns.output("ip", &["neigh", "flush", "all"], "").map(drop)
}

/// Whoever asks for the VIP is answered by this node and nobody else.
fn answers_alone(cluster: &Cluster, vip: IpAddr, node: &str) -> Result<()> {
    let answers = wire::ask(cluster.client(), &[vip])?.remove(&vip).unwrap_or_default();
    let expected = BTreeSet::from([cluster.lan.host(node)?.mac]);
    ensure!(answers == expected, "{vip}: {answers:?} answer, not {node} ({expected:?})");
    Ok(())
}

#[test]
fn the_hooks_of_a_dead_agent_fall_silent_when_another_node_takes_its_vips() -> Result<()> {
    let cluster = cluster("fall-silent", "0s")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let owner = cluster.owner(vip)?;
        cluster.agent(&owner)?.kill()?;
        let new = cluster.new_owner(vip, &owner)?;
        cluster.client_sends_to(vip, &new)?;
        // The hooks count the agent as gone after 0.3 s.
        throughout(Duration::from_secs(2), "the new owner alone answers", || answers_alone(&cluster, vip, &new))?;
        cluster.agent(&owner)?.start()?;
        cluster.settle()?;
    }
    Ok(())
}

#[test]
fn an_announced_restart_of_the_owner_moves_nothing_and_loses_nothing() -> Result<()> {
    let cluster = cluster("restart", "10s")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let owner = cluster.owner(vip)?;
        let viewer = peer(&cluster, &owner)?;
        let before = claim(&cluster, &viewer, vip)?;
        let traffic = Traffic::mixed(&cluster, &[vip])?;
        cluster.agent(&owner)?.terminate()?;
        ensure!(state(&cluster, &viewer, &owner)? == "restarting", "{}", cluster.agent(&owner)?.log_tail(20));
        // Its hooks answer who asks for the VIP anew: by ARP, by neighbour discovery, and by an echo.
        forget_neighbours(&cluster)?;
        cluster.client().ns.output("ping", &["-n", "-c", "1", "-W", "3", &vip.to_string()], "")?;
        traffic.go_on(500)?;
        answers_alone(&cluster, vip, &owner)?;
        ensure!(claim(&cluster, &viewer, vip)? == before, "moved while the agent was away");
        cluster.agent(&owner)?.start()?;
        cluster.settle()?;
        // To beyond its grace.
        traffic.go_on(5500)?;
        traffic.lost_nothing()?;
        ensure!(claim(&cluster, &viewer, vip)? == before, "moved, or claimed anew, after the agent's return");
        ensure!(claim(&cluster, &owner, vip)? == before);
    }
    Ok(())
}

#[test]
fn an_owner_that_does_not_return_within_its_grace_is_replaced_without_loss() -> Result<()> {
    let cluster = cluster("no-return", "2s")?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    let traffic = Traffic::mixed(&cluster, &[vip])?;
    cluster.agent(&owner)?.terminate()?;
    let new = cluster.new_owner(vip, &owner)?;
    cluster.client_sends_to(vip, &new)?;
    traffic.go_on(500)?;
    traffic.lost_nothing()
}

/// Kills each node's agent in turn, and starts its successor, which takes over what it has left.
fn upgrade_all(cluster: &Cluster, traffic: &Traffic, start: impl Fn(&Agent) -> Result<()>) -> Result<()> {
    for agent in &cluster.agents {
        let before = taken_over(agent);
        agent.kill()?;
        start(agent)?;
        cluster.settle()?;
        traffic.go_on(200)?;
        ensure!(taken_over(agent) == before + 1, "{} took nothing over: {}", agent.name, agent.log_tail(20));
    }
    Ok(())
}

/// How often a node's agents have taken flows over, when there were any.
fn taken_over(agent: &Agent) -> usize {
    let log = agent.log();
    let lines = log.lines().filter(|line| line.contains("took over a former agent's flows"));
    lines.filter(|line| !line.contains("taken=0 ")).count()
}

#[test]
fn killed_agents_are_followed_by_ones_with_another_layout_and_back_and_nothing_is_lost() -> Result<()> {
    let mut cluster = cluster("layout", "0s")?;
    // Then the tables alone lead many connections to the second pod of their node, which knows nothing of them.
    let (first, second): (Vec<_>, Vec<_>) =
        cluster.pods.iter().map(Endpoint::from).partition(|pod| pod.pod.ends_with("p1"));
    cluster.edit("web", |web| web.endpoints = first)?;
    let traffic = Traffic::mixed(&cluster, &[cluster.vip4(), cluster.vip6()])?;
    cluster.edit("web", |web| web.endpoints.extend(second))?;
    upgrade_all(&cluster, &traffic, Agent::start_other)?;
    upgrade_all(&cluster, &traffic, Agent::start)?;
    // Another number of flows is another layout as well.
    for node in ["n1", "n2", "n3"] {
        let config = cluster.config(node)?.clone();
        let forwarder = format!("{}, flows: 40000", config.forwarder);
        cluster.agent(node)?.configure(&Config { forwarder, ..config })?;
    }
    upgrade_all(&cluster, &traffic, Agent::start)?;
    traffic.lost_nothing()
}

#[test]
fn a_machine_that_goes_after_its_agent_is_replaced_before_its_grace_is_over() -> Result<()> {
    // Longer than the test waits for anything.
    let cluster = cluster("gone-too", "60s")?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    cluster.agent(&owner)?.terminate()?;
    let viewer = peer(&cluster, &owner)?;
    ensure!(state(&cluster, &viewer, &owner)? == "restarting");
    cluster.lan.cut(&owner)?;
    let new = cluster.new_owner(vip, &owner)?;
    cluster.client_sends_to(vip, &new)?;
    eventually(SETTLE, "requests are answered again", || cluster.get(vip).map(drop))?;
    eventually(Duration::from_secs(5), "it is down for all", || {
        for node in cluster.running() {
            ensure!(state(&cluster, node, &owner)? == "down", "{node}");
        }
        Ok(())
    })
}
