//! Crier in a cluster: real objects in a real API server, real agents with the rights that the manifest gives them.
#![expect(clippy::disallowed_methods, reason = "edge: prints how long real things take")]

use std::{net::IpAddr, time::Instant};

use anyhow::{Result, ensure};
use e2e::{
    agent::Agent,
    manifests::{POOL, service, web},
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB, manifest},
};
use serde_json::json;

#[test]
fn from_an_empty_api_server_to_a_first_answered_request() -> Result<()> {
    let mut cluster = Cluster::three("kube-start").kubernetes().build()?;
    let begun = Instant::now();
    let step = |what: &str| println!("{:7.3} s  {what}", begun.elapsed().as_secs_f64());
    cluster.agents.iter().try_for_each(Agent::start)?;
    step("the manifest, a pool and three nodes are applied; the agents are started");
    cluster.settle()?;
    step("the members have found each other by the nodes' addresses, with a key from a Secret");
    let applied = Instant::now();
    let vips = cluster.expose(web().tcp(WEB))?;
    println!("{:7.3} s  a service was applied and has {vips:?}", applied.elapsed().as_secs_f64());
    eventually(SETTLE, "a first answer", || cluster.get(vips[0]).map(drop))?;
    println!("{:7.3} s  the first answered request, since the service was applied", applied.elapsed().as_secs_f64());

    let owner = cluster.owner(vips[0])?;
    eventually(SETTLE, "the object says who owns it", || {
        let said = cluster.vip_object("web")?;
        ensure!(
            said["owner"] == owner.as_str() && said["backends"] == "6/6" && said["ips"] == vips[0].to_string(),
            "{said}"
        );
        let told = cluster.events("web")?;
        ensure!(told.contains("AddressAssigned") && told.contains(&format!("announced by node {owner}")), "{told}");
        Ok(())
    })?;
    println!("{}", cluster.api().kubectl(&["get", "services,vips", "-n", "default"])?);
    println!("{}", cluster.api().kubectl(&["get", "ipaddresspools", "-A", "-o", "yaml"])?);
    println!("{}", cluster.api().kubectl(&["describe", "service", "web"])?);
    cluster.end_quietly();
    Ok(())
}

#[test]
fn without_the_api_server_a_dead_owner_is_replaced_and_agents_restart_and_it_comes_back_to_nothing_moved() -> Result<()>
{
    let cluster = Cluster::three("kube-away").kubernetes().service(web().tcp(WEB)).nothing_moves_by_itself().start()?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    eventually(SETTLE, "the address is kept on disk", || {
        for agent in &cluster.agents {
            let kept = std::fs::read_to_string(agent.state_dir().join("kubernetes.json"))?;
            ensure!(kept.contains(&vip.to_string()), "{} has kept {kept}", agent.name);
        }
        Ok(())
    })?;
    cluster.api().kill()?;
    eventually(SETTLE, "the agents notice", || {
        for agent in &cluster.agents {
            ensure!(!agent.status()?.source.connected, "{} has not noticed", agent.name);
        }
        Ok(())
    })?;
    cluster.agent(&owner)?.kill()?;
    let next = cluster.new_owner(vip, &owner)?;
    eventually(SETTLE, "it is served", || cluster.get(vip).map(drop))?;

    // All of them, one after the other and then at once: what is served is on disk.
    for agent in cluster.agents.iter().filter(|agent| agent.is_running()) {
        agent.kill()?;
    }
    cluster.agents.iter().try_for_each(Agent::start)?;
    let after = cluster.owner(vip)?;
    eventually(SETTLE, "it is served from disk", || cluster.get(vip).map(drop))?;
    for agent in &cluster.agents {
        let response = agent.get("/readyz")?;
        ensure!(response.body.contains("source"), "{}: {}", agent.name, response.body);
    }

    cluster.api().start()?;
    eventually(SETTLE, "the agents are connected again", || {
        for agent in &cluster.agents {
            ensure!(agent.status()?.source.connected, "{} is not", agent.name);
        }
        Ok(())
    })?;
    eventually(SETTLE, "what has happened is written down", || {
        let said = cluster.vip_object("web")?;
        ensure!(said["owner"] == after.as_str(), "{said}");
        Ok(())
    })?;
    assert_eq!(cluster.owner(vip)?, after, "nothing moves when the API server comes back; before it was {next}");
    assert_eq!(cluster.recorded("web")?, [vip]);
    cluster.end_quietly();
    Ok(())
}

#[test]
fn a_wiped_store_takes_nothing_away_until_there_is_a_pool_again() -> Result<()> {
    let mut cluster = Cluster::three("kube-wiped").kubernetes().service(web().tcp(WEB)).start()?;
    let vip = cluster.vip4();
    cluster.api().wipe()?;
    // Accounts are gone with all else, so nobody is let in.
    all_agents_say(&cluster, "Unauthorized")?;
    cluster.get(vip)?;

    // Somebody installs everything anew, all but the pool. The agents are let in, and see that there is nothing.
    cluster.api().define(&manifest()?)?;
    cluster.register_nodes()?;
    cluster.renew_account()?;
    for agent in &cluster.agents {
        agent.kill()?;
        agent.start()?;
    }
    all_agents_say(&cluster, "another cluster")?;
    cluster.owner(vip)?;
    eventually(SETTLE, "it is still served", || cluster.get(vip).map(drop))?;

    cluster.api().apply(POOL)?;
    let vips = cluster.expose(web().tcp(WEB).at(&["10.77.0.119"]))?;
    eventually(SETTLE, "what is there now is served", || cluster.get(vips[0]).map(drop))?;
    eventually(SETTLE, "what was there before is gone", || {
        ensure!(cluster.agents[0].status()?.vips.iter().all(|one| one.address != vip));
        Ok(())
    })?;
    cluster.end_quietly();
    Ok(())
}

fn all_agents_say(cluster: &Cluster, what: &str) -> Result<()> {
    eventually(SETTLE * 2, &format!("the agents say {what:?}"), || {
        for agent in &cluster.agents {
            let source = agent.status()?.source;
            let told = source.problems.iter().any(|problem| problem.message.contains(what));
            ensure!(!source.connected && told, "{}: {source:?}", agent.name);
        }
        Ok(())
    })
}

#[test]
fn a_node_that_is_cordoned_or_excluded_hands_over_without_loss_and_one_that_is_not_ready_does_not() -> Result<()> {
    let cluster = Cluster::three("kube-drain")
        .kubernetes()
        .service(web().tcp(WEB).udp(5353))
        .nothing_moves_by_itself()
        .start()?;
    let vip = cluster.vip4();
    let mut owner = cluster.owner(vip)?;
    let unready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    cluster.api().patch_status("", &format!("node/{owner}"), &unready)?;
    for change in [
        json!({"spec": {"unschedulable": true}}),
        json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}}),
    ] {
        assert_eq!(cluster.owner(vip)?, owner);
        let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
        cluster.api().patch("", &format!("node/{owner}"), &change)?;
        owner = cluster.new_owner(vip, &owner)?;
        let report = load.stop()?;
        ensure!(report.lost == 0, "{report:?}");
    }
    cluster.end_quietly();
    Ok(())
}

#[test]
fn a_preferred_node_owns_the_address_whenever_it_can() -> Result<()> {
    let cluster =
        Cluster::three("kube-prefer").kubernetes().service(web().tcp(WEB)).nothing_moves_by_itself().start()?;
    let vip: IpAddr = cluster.vip4();
    for node in ["n1", "n2", "n3"] {
        cluster.api().patch(
            "default",
            "service/web",
            &json!({"metadata": {"annotations": {"crier.io/preferred-node": node}}}),
        )?;
        eventually(SETTLE, &format!("{node} owns it"), || {
            let owner = cluster.owner(vip)?;
            ensure!(owner == node, "{owner} does");
            Ok(())
        })?;
    }
    cluster.agent("n3")?.kill()?;
    let other = cluster.new_owner(vip, "n3")?;
    cluster.agent("n3")?.start()?;
    eventually(SETTLE, "the preferred one is back", || {
        let owner = cluster.owner(vip)?;
        ensure!(owner == "n3", "{owner}, after {other}");
        Ok(())
    })?;
    cluster.end_quietly();
    Ok(())
}

#[test]
fn addresses_are_kept_by_services_and_given_back_by_those_that_change_their_type_or_go() -> Result<()> {
    let mut cluster = Cluster::three("kube-addresses").kubernetes().service(web().tcp(WEB)).start()?;
    let vip = cluster.vip4();
    let foreign = "{apiVersion: v1, kind: Service, metadata: {name: foreign, namespace: default}, \
                   spec: {type: LoadBalancer, loadBalancerClass: example.org/other, ports: [{port: 80}]}}";
    cluster.api().apply(foreign)?;
    let more = cluster.expose(service("more").tcp(WEB))?;
    ensure!(more != [vip], "two services have {vip}");
    for _ in 0..2 {
        for agent in &cluster.agents {
            agent.kill()?;
            agent.start()?;
        }
        cluster.settle()?;
        ensure!(cluster.recorded("web")? == [vip] && cluster.recorded("more")? == more, "they are kept");
    }
    cluster.api().patch("default", "service/web", &json!({"spec": {"type": "ClusterIP"}}))?;
    eventually(SETTLE, "it is released", || {
        ensure!(cluster.recorded("web")?.is_empty() && cluster.vip_object("web").is_err());
        Ok(())
    })?;
    let reused = cluster.expose(service("again").tcp(WEB).at(&[&vip.to_string()]))?;
    ensure!(reused == [vip], "{reused:?}");
    ensure!(cluster.recorded("foreign")?.is_empty(), "another class is somebody else's");
    cluster.end_quietly();
    Ok(())
}
