//! Strangers, garbage, echoes of the past and split networks: nothing changes that must not, and all is counted.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    agent::GOSSIP_PORT,
    manifests::web,
    observe::{eventually, neighbour, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB, key},
    sniffer::capture_udp,
    traffic::flood,
};

const SECOND: Duration = Duration::from_secs(1);

fn service() -> e2e::manifests::ServiceSpec {
    web().tcp(WEB).udp(DNS).dual_stack()
}

fn rejected(cluster: &Cluster, node: &str) -> Result<f64> {
    Ok(cluster.agent(node)?.metrics()?.metric("crier_gossip_rejected_total").sum())
}

/// Checks that members and owners stay, and no request is lost, while `attack` goes on and for two seconds after it.
fn undisturbed(cluster: &Cluster, attack: impl FnOnce() -> Result<()>) -> Result<()> {
    let members = ["n1", "n2", "n3"];
    let owners: Vec<_> = cluster.vips().into_iter().map(|vip| Ok((vip, cluster.owner(vip)?))).collect::<Result<_>>()?;
    let load = cluster.udp_load(cluster.vip4()).start(&cluster.client().ns)?;
    attack()?;
    throughout(2 * SECOND, "members and owners stay", || {
        for member in members {
            ensure!(cluster.agent(member)?.status()?.up() == members, "{member} sees others");
        }
        owners.iter().try_for_each(|(vip, owner)| {
            ensure!(cluster.agreed_owner(*vip, &members)? == *owner);
            Ok(())
        })
    })?;
    let report = load.stop()?;
    ensure!(report.lost == 0 && report.duplicates == 0, "{report:?}");
    Ok(())
}

fn send(cluster: &Cluster, datagrams: &[(IpAddr, Vec<u8>)]) -> Result<()> {
    cluster.client().ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for (node, bytes) in datagrams {
            socket.send_to(bytes, SocketAddr::new(*node, GOSSIP_PORT))?;
        }
        Ok(())
    })
}

#[test]
fn an_agent_with_another_key_stays_a_stranger() -> Result<()> {
    let cluster = Cluster::of("other-key", 4).service(service()).build()?;
    for member in &cluster.agents[..3] {
        member.start()?;
    }
    cluster.settle()?;
    let stranger = cluster.agent("n4")?;
    let mut config = cluster.config("n4")?.clone();
    config.keys = vec![key(9)];
    config.manifests = cluster.run_dir().join("nothing");
    std::fs::create_dir(&config.manifests)?;
    stranger.configure(&config)?;
    undisturbed(&cluster, || {
        stranger.start()?;
        eventually(SETTLE, "its datagrams are rejected and counted", || {
            ensure!(rejected(&cluster, "n1")? > 0.0);
            Ok(())
        })
    })?;
    assert_eq!(stranger.status()?.up(), ["n4"]);
    Ok(())
}

#[test]
fn garbage_is_counted_and_changes_nothing() -> Result<()> {
    let cluster = Cluster::three("garbage").service(service()).start()?;
    let node = IpAddr::from(cluster.lan.nodes[0].host.v4);
    let lengths = [0_usize, 1, 16, 48, 100, 1400];
    let garbage: Vec<_> = (0..300_u32)
        .map(|n| {
            let byte = |i: usize| u8::try_from((i * 31 + n as usize * 17) % 256).unwrap_or(0);
            (node, (0..lengths[n as usize % lengths.len()]).map(byte).collect::<Vec<_>>())
        })
        .collect();
    let before = rejected(&cluster, "n1")?;
    undisturbed(&cluster, || send(&cluster, &garbage))?;
    eventually(SETTLE, "all of it is counted", || {
        let count = rejected(&cluster, "n1")? - before;
        ensure!(count >= 300.0, "{count} of 300");
        Ok(())
    })
}

#[test]
fn replayed_datagrams_are_counted_and_change_nothing_even_after_a_restart() -> Result<()> {
    let cluster = Cluster::three("replay").service(service()).start()?;
    let recorded = capture_udp(&cluster.lan.nodes[0].host.ns, "eth0", GOSSIP_PORT, 200, 20 * SECOND)?;
    let to_n1 = IpAddr::from(cluster.lan.nodes[0].host.v4);
    let heard: Vec<_> = recorded.iter().filter(|(to, _)| *to == to_n1).cloned().collect();
    assert!(heard.len() > 20, "n1 heard {} datagrams", heard.len());
    // To whom they were meant, and to another node.
    let to_n2 = IpAddr::from(cluster.lan.nodes[1].host.v4);
    let elsewhere: Vec<_> = heard.iter().map(|(_, bytes)| (to_n2, bytes.clone())).collect();
    let replay = || {
        let before = [rejected(&cluster, "n1")?, rejected(&cluster, "n2")?];
        undisturbed(&cluster, || send(&cluster, &heard).and_then(|()| send(&cluster, &elsewhere)))?;
        for (node, before) in ["n1", "n2"].into_iter().zip(before) {
            let count = rejected(&cluster, node)? - before;
            ensure!(count >= heard.len() as f64, "{node} counted {count} of {}", heard.len());
        }
        Ok(())
    };
    replay()?;
    cluster.agent("n1")?.kill()?;
    cluster.agent("n1")?.start()?;
    cluster.settle()?;
    replay()
}

#[test]
fn a_partition_gives_each_side_an_owner_and_heals_to_one() -> Result<()> {
    let cluster = Cluster::three("partition").service(service()).start()?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let old = cluster.owner(vip)?;
        let others: Vec<_> = cluster.running().into_iter().filter(|name| *name != old).collect();
        let with_client: Vec<_> = others.iter().copied().chain(["c1"]).collect();
        cluster.lan.partition(&[&[old.as_str()], &with_client])?;
        let new = cluster.new_owner(vip, &old)?;
        assert_eq!(cluster.agreed_owner(vip, &[&old])?, old, "the lonely side keeps its owner");
        eventually(SETTLE, "the client's side is served", || cluster.get(vip).map(drop))?;
        cluster.lan.heal_all()?;
        cluster.settle()?;
        let last = cluster.owner(vip)?;
        assert!(last == old || last == new, "{last} had nothing to do with it");
        let mac = cluster.lan.host(&last)?.mac;
        eventually(SETTLE, "the client sends to the one owner", || {
            cluster.get(vip)?;
            ensure!(neighbour(cluster.client(), vip)? == Some(mac));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn two_agents_of_one_name_say_so_and_the_others_stay_together() -> Result<()> {
    let cluster = Cluster::of("namesakes", 4).service(service()).build()?;
    let (twin, other) = (cluster.agent("n3")?, cluster.agent("n4")?);
    let mut config = cluster.config("n4")?.clone();
    config.node = "n3".to_owned();
    other.configure(&config)?;
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    let address = |node: usize| format!("{}:{GOSSIP_PORT}", cluster.lan.nodes[node - 1].host.v4);
    eventually(3 * SETTLE, "both say so, where the other is, and what to do", || {
        for (agent, other) in [(twin, address(4)), (other, address(3))] {
            let log = agent.log();
            let said = log.lines().find(|line| line.contains("ERROR") && line.contains(&other));
            ensure!(said.is_some_and(|line| line.contains("its own `node:` name")), "{}: {log}", agent.name);
            let counted = agent.metrics()?.metric("crier_gossip_name_conflicts_total").sum();
            ensure!(counted > 0.0, "{} counts none", agent.name);
        }
        Ok(())
    })?;
    throughout(10 * SECOND, "the others see each other", || {
        for member in ["n1", "n2"] {
            let status = cluster.agent(member)?.status()?;
            ensure!(["n1", "n2"].iter().all(|name| status.up().contains(name)), "{member} sees {:?}", status.up());
        }
        Ok(())
    })?;
    for agent in [twin, other] {
        let lines = agent.log().lines().filter(|line| line.contains("ERROR")).count();
        assert!(lines <= 4, "{lines} errors in the log of {}", agent.name);
    }
    Ok(())
}

/// What the watch of all agents has counted: nodes overdue, and its own lateness.
fn alarms(cluster: &Cluster) -> Result<Vec<f64>> {
    let of = |node: &str| -> Result<f64> {
        let metrics = cluster.agent(node)?.metrics()?;
        Ok(["suspicions", "false_alarms", "retractions"]
            .iter()
            .map(|what| metrics.metric(&format!("crier_watch_{what}_total")).sum())
            .sum())
    };
    ["n1", "n2", "n3"].into_iter().map(of).collect()
}

fn refused(cluster: &Cluster, reason: &str) -> Result<f64> {
    Ok(cluster.agent("n1")?.metrics()?.metric("crier_gossip_rejected_total").label("reason", reason).sum())
}

#[test]
fn a_flood_of_forged_beats_raises_no_alarm() -> Result<()> {
    const WATCH_VERSION: u8 = 0x81;
    const PER_SECOND: u32 = 50_000;
    let cluster = Cluster::three("watch-flood").service(service()).start()?;
    let to_n1 = IpAddr::from(cluster.lan.nodes[0].host.v4);
    let recorded = capture_udp(&cluster.lan.nodes[0].host.ns, "eth0", GOSSIP_PORT, 200, 20 * SECOND)?;
    let beat = recorded.into_iter().find(|(to, bytes)| *to == to_n1 && bytes[0] == WATCH_VERSION);
    let (_, mut forged) = beat.context("n1 hears no beat")?;
    // A counter to come, so that only the keys tell; and a datagram for a session that there is not.
    forged[35] ^= 1;
    let mut garbage = vec![0x5a; forged.len()];
    garbage[0] = WATCH_VERSION;
    for (datagram, reason) in [(garbage, "unread"), (forged, "throttled")] {
        let before = (alarms(&cluster)?, refused(&cluster, reason)?);
        let mut sent = 0;
        undisturbed(&cluster, || {
            sent = cluster.client().ns.run(|| flood((to_n1, GOSSIP_PORT).into(), &datagram, PER_SECOND, 4 * SECOND))?;
            Ok(())
        })?;
        let count = refused(&cluster, reason)? - before.1;
        println!("{reason}: {count} of {sent} in 4 s");
        assert!(count > f64::from(sent) * 0.9, "{reason}: {count} of {sent}");
        assert_eq!(alarms(&cluster)?, before.0, "{reason}");
    }
    Ok(())
}
