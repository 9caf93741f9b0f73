//! A standby carries what a switch floods when the owner's link is lost, before anybody has noticed; and carries nothing
//! twice where frames are flooded though the owner lives.
#![expect(clippy::disallowed_methods, reason = "edge: measures real networks")]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    longlived::all_survived,
    manifests::{Endpoint, web},
    observe::{eventually, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::{Meter, Report, Transport},
};

/// Above the promise (5 ms in the median), for a machine that does other things as well.
const AT_MOST: Duration = Duration::from_millis(50);
/// Far above the lease of a standby without an agent.
const LEASE_IS_OVER: Duration = Duration::from_secs(4);

fn cluster(name: &str, nodes: u8) -> Result<Cluster> {
    Cluster::of(name, nodes).service(web().tcp(WEB).udp(DNS).dual_stack()).build()
}

fn start(cluster: Cluster) -> Result<Cluster> {
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    cluster.settle()?;
    spread(&cluster)?;
    Ok(cluster)
}

/// Waits until each VIP has an owner of its own, so that no VIP is moved to even them out.
fn spread(cluster: &Cluster) -> Result<()> {
    eventually(SETTLE, "the VIPs are spread", || {
        ensure!(cluster.owner(cluster.vip4())? != cluster.owner(cluster.vip6())?);
        Ok(())
    })
}

/// Leaves only pods on other nodes than `node` behind the service: what is lost then, the announcers lost.
fn serve_away_from(cluster: &mut Cluster, node: &str, vip: IpAddr) -> Result<()> {
    let endpoints: Vec<_> = cluster.pods.iter().filter(|pod| pod.node != node).map(Endpoint::from).collect();
    cluster.edit("web", |service| service.endpoints = endpoints)?;
    let nodes = cluster.running().into_iter().map(str::to_owned).collect::<Vec<_>>();
    eventually(SETTLE, "all agents know these backends alone", || {
        for running in &nodes {
            let status = cluster.agent(running)?.status()?;
            ensure!(!status.backends.is_empty(), "{running} knows none");
            ensure!(status.backends.iter().all(|b| b.node.as_deref() != Some(node)), "{running} knows others");
        }
        let by_pod = cluster.ask_many(Transport::Udp, (vip, DNS).into(), 32)?;
        ensure!(!cluster.by_node(&by_pod).contains_key(node), "{by_pod:?}");
        Ok(())
    })
}

/// Whether a node stands in for another in this state.
fn stands_in(cluster: &Cluster, node: &str, owner: &str, state: &str) -> Result<bool> {
    let metrics = cluster.agent(node)?.metrics()?;
    Ok(metrics.metric("crier_shadow_state").label("owner", owner).label("state", state).sum() > 0.0)
}

fn packets(cluster: &Cluster, node: &str, result: &str) -> Result<f64> {
    Ok(cluster.agent(node)?.metrics()?.metric("crier_shadow_packets_total").label("result", result).sum())
}

fn stand_downs(cluster: &Cluster, node: &str) -> Result<f64> {
    Ok(cluster.agent(node)?.metrics()?.metric("crier_shadow_stand_downs_total").sum())
}

fn load(cluster: &Cluster, vip: IpAddr) -> Result<Meter> {
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    load.more_answers(300)?;
    Ok(load)
}

/// Takes the owner's link and gives it back, under load: what that cost.
fn lose_link(cluster: &mut Cluster, vip: IpAddr) -> Result<Report> {
    let owner = cluster.owner(vip)?;
    serve_away_from(cluster, &owner, vip)?;
    let standby = cluster.armed_standby(vip)?;
    let carried = packets(cluster, &standby, "carried")?;
    let connections = cluster.long_lived(vip, 10)?;
    let load = load(cluster, vip)?;

    cluster.lan.link_down(&owner)?;
    let successor = cluster.new_owner(vip, &owner)?;
    cluster.client_sends_to(vip, &successor)?;
    load.more_answers(300)?;
    let report = load.stop()?;
    all_survived(&connections.finish()?, |_| true)?;
    eventually(SETTLE, "the standby has carried", || {
        ensure!(packets(cluster, &standby, "carried")? > carried);
        Ok(())
    })?;

    cluster.lan.heal(&owner)?;
    cluster.settle()?;
    spread(cluster)?;
    Ok(report)
}

#[test]
fn a_lost_link_costs_at_most_a_request_and_no_connection() -> Result<()> {
    let trials = std::env::var("CRIER_TRIALS").ok().and_then(|count| count.parse().ok()).unwrap_or(2);
    let mut cluster = start(cluster("shadow-link", 3)?)?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        for trial in 1..=trials {
            let report = lose_link(&mut cluster, vip)?;
            println!(
                "{vip} trial {trial}: outage {:?}, lost {} of {}, slowest {:?}, duplicates {}",
                report.outage, report.lost, report.sent, report.slowest, report.duplicates
            );
            assert!(report.outage < AT_MOST && report.lost <= 2, "{report:?}");
            assert_eq!(report.duplicates, 0, "{report:?}");
        }
    }
    Ok(())
}

#[test]
fn on_a_segment_that_always_floods_nothing_arrives_twice() -> Result<()> {
    let seconds = std::env::var("CRIER_SECONDS").ok().and_then(|count| count.parse().ok()).unwrap_or(15);
    let cluster = cluster("shadow-hub", 3)?;
    cluster.lan.flood_always()?;
    let cluster = start(cluster)?;
    let (v4, v6) = (cluster.vip4(), cluster.vip6());
    let loads = [load(&cluster, v4)?, load(&cluster, v6)?];
    for vip in [v4, v6] {
        let owner = cluster.owner(vip)?;
        let status = cluster.agent(&owner)?.status()?;
        let named = status.vips.into_iter().find(|entry| entry.address == vip).and_then(|entry| entry.standby);
        let standby = named.context("no standby is named")?;
        eventually(SETTLE, "the standby says why it does not arm", || {
            ensure!(stands_in(&cluster, &standby, &owner, "flooded")?);
            ensure!(packets(&cluster, &standby, "refused")? > 0.0);
            Ok(())
        })?;
    }
    throughout(Duration::from_secs(seconds), "nobody arms", || {
        for node in cluster.running() {
            let metrics = cluster.agent(node)?.metrics()?;
            ensure!(metrics.metric("crier_shadow_state").label("state", "armed").sum() == 0.0, "{node} is armed");
            ensure!(metrics.metric("crier_shadow_packets_total").label("result", "carried").sum() == 0.0);
        }
        Ok(())
    })?;
    for load in loads {
        let report = load.stop()?;
        println!("hub: {report:?}");
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_hub_without_traffic_is_found_out_by_echoes() -> Result<()> {
    let cluster = cluster("shadow-idle-hub", 2)?;
    cluster.lan.flood_always()?;
    let cluster = start(cluster)?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    let standby = if owner == "n1" { "n2" } else { "n1" };
    eventually(SETTLE, "the standby knows the segment floods", || {
        ensure!(stands_in(&cluster, standby, &owner, "flooded")?);
        Ok(())
    })?;
    throughout(Duration::from_secs(5), "it does not arm", || {
        ensure!(!stands_in(&cluster, standby, &owner, "armed")?);
        Ok(())
    })
}

#[test]
fn a_switch_that_forgets_addresses_while_the_owner_lives_makes_the_standby_stand_down() -> Result<()> {
    let mut cluster = start(cluster("shadow-flush", 3)?)?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let owner = cluster.owner(vip)?;
        serve_away_from(&mut cluster, &owner, vip)?;
        let standby = cluster.armed_standby(vip)?;
        let before = stand_downs(&cluster, &standby)?;
        let load = load(&cluster, vip)?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            cluster.lan.forget_addresses()?;
        }
        eventually(SETTLE, "the standby stands down", || {
            ensure!(stand_downs(&cluster, &standby)? > before);
            Ok(())
        })?;
        assert_eq!(cluster.owner(vip)?, owner, "the owner lives");
        let report = load.stop()?;
        println!("flushed: {report:?}");
        // At 1,000 requests a second: for so many milliseconds at most.
        assert!(report.duplicates <= 25, "{report:?}");
        assert_eq!(report.lost, 0, "{report:?}");
        assert_eq!(cluster.armed_standby(vip)?, standby, "it arms again");
    }
    Ok(())
}

#[test]
fn a_standby_without_an_agent_does_not_stand_in_for_ever() -> Result<()> {
    for family in [0, 1] {
        let mut cluster = start(cluster("shadow-lease", 2)?)?;
        let vip = cluster.vips()[family];
        let owner = cluster.owner(vip)?;
        serve_away_from(&mut cluster, &owner, vip)?;
        let standby = cluster.armed_standby(vip)?;
        let load = load(&cluster, vip)?;
        cluster.agent(&standby)?.kill()?;
        cluster.lan.link_down(&owner)?;
        let began = Instant::now();
        // Its hooks go on for a while.
        load.more_answers(300)?;
        eventually(SETTLE, "nothing is answered any more", || {
            let before = load.answered();
            throughout(Duration::from_millis(500), "silence", || {
                ensure!(load.answered() == before);
                Ok(())
            })
        })?;
        let took = began.elapsed();
        assert!(took < LEASE_IS_OVER, "{took:?}");
        println!("{vip}: stood in for {took:?} without an agent (500 ms of that to see it): {:?}", load.stop()?);
    }
    Ok(())
}

#[test]
fn a_standby_that_is_cut_off_from_gossip_makes_room_for_the_next() -> Result<()> {
    let cluster = start(cluster("shadow-gossip-cut", 3)?)?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    let standby = cluster.armed_standby(vip)?;
    let other = cluster.running().into_iter().find(|node| *node != owner && *node != standby).context("of three")?;
    for peer in [owner.as_str(), other] {
        cluster.lan.block_gossip(&standby, peer)?;
    }
    eventually(SETTLE, "the owner's next standby is armed", || {
        ensure!(stands_in(&cluster, other, &owner, "armed")?);
        Ok(())
    })?;
    assert!(!stands_in(&cluster, &standby, &owner, "armed")?, "two stand in for {owner}");
    cluster.lan.heal_all()?;
    cluster.settle()
}
