//! Planned moves lose nothing: the next owner answers before the last one stops. A drain and its end, a stop of the
//! agent, a node's return, an uneven spread that is evened out: no request is lost, no connection breaks.

use std::{collections::BTreeMap, net::IpAddr, process::Command};

use anyhow::{Context, Result, ensure};
use e2e::{
    agent::binary,
    lossless::{self, Traffic},
    manifests::{service, web},
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
};

fn crierctl(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<String> {
    let socket = cluster.agent(node)?.socket();
    let output = Command::new(binary("crierctl")?).arg("--agent").arg(socket).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Does `order` to the owner of `vip` under load, and waits until all is served by another: old and new owner.
fn moves(cluster: &Cluster, vip: IpAddr, order: impl FnOnce(&Cluster, &str) -> Result<()>) -> Result<(String, String)> {
    let old = cluster.owner(vip)?;
    let traffic = Traffic::start(cluster, &[vip])?;
    order(cluster, &old)?;
    let new = cluster.new_owner(vip, &old)?;
    cluster.client_sends_to(vip, &new)?;
    // To beyond the end of the announcements, 2.4 s.
    traffic.go_on(2500)?;
    traffic.lost_nothing().with_context(|| format!("{vip}: {old} -> {new}"))?;
    Ok((old, new))
}

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::three(name).nothing_moves_by_itself().service(web().tcp(WEB).udp(DNS).dual_stack()).start()
}

#[test]
fn a_drain_and_its_end_lose_nothing() -> Result<()> {
    let cluster = cluster("drain")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let drain = |cluster: &Cluster, owner: &str| crierctl(cluster, owner, &["drain"]).map(drop);
        let (old, new) = moves(&cluster, vip, drain)?;
        let traffic = Traffic::start(&cluster, &[vip])?;
        crierctl(&cluster, &old, &["drain", "--undo"])?;
        traffic.go_on(1000)?;
        traffic.lost_nothing().context("the end of the drain disturbed")?;
        assert_eq!(cluster.owner(vip)?, new, "what was handed over stays where it is");
    }
    Ok(())
}

#[test]
fn a_stopped_agent_hands_over_first_and_its_return_disturbs_nothing() -> Result<()> {
    let cluster = cluster("stop")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        // The hooks outlive the agent, so the connections to the stopped node's own pods count too.
        let (old, new) = moves(&cluster, vip, |cluster, owner| cluster.agent(owner)?.terminate())?;
        let log = cluster.agent(&old)?.log();
        assert!(log.contains("handed over"), "it says how it went:\n{log}");
        let traffic = Traffic::start(&cluster, &[vip])?;
        cluster.agent(&old)?.start()?;
        cluster.settle()?;
        traffic.go_on(1000)?;
        traffic.lost_nothing().context("the return disturbed")?;
        assert_eq!(cluster.owner(vip)?, new, "a single VIP stays where it is");
    }
    Ok(())
}

/// Three nodes, six VIPs; n1's have gone to the others, and it is back.
fn uneven(name: &str, config: &str) -> Result<Cluster> {
    let mut builder = Cluster::three(name).extra(config);
    for name in ["a", "b", "c"] {
        builder = builder.service(service(name).tcp(WEB).udp(DNS).dual_stack());
    }
    let cluster = builder.start()?;
    // On a busy machine the first to be ready may have taken more than its share.
    for node in ["n1", "n2", "n3"] {
        crierctl(&cluster, node, &["rebalance"])?;
    }
    is_even(&cluster)?;
    cluster.agent("n1")?.terminate()?;
    cluster.settle()?;
    cluster.agent("n1")?.start()?;
    // The return itself is another scenario's; VIPs move 5 s after it.
    cluster.settle()?;
    Ok(cluster)
}

/// How many VIPs each node that has some carries, as all see it.
fn carried(cluster: &Cluster) -> Result<BTreeMap<String, u32>> {
    let mut carried = BTreeMap::new();
    for vip in cluster.vips() {
        *carried.entry(cluster.owner(vip)?).or_default() += 1;
    }
    Ok(carried)
}

fn is_even(cluster: &Cluster) -> Result<()> {
    eventually(SETTLE, "the spread is even", || {
        let carried = carried(cluster)?;
        ensure!(carried.values().eq([&2, &2, &2]), "{carried:?}");
        Ok(())
    })?;
    for vip in cluster.vips() {
        cluster.client_sends_to(vip, &cluster.owner(vip)?)?;
    }
    Ok(())
}

/// How many VIPs the node that was away counts as moved to make the spread even.
fn rebalanced(cluster: &Cluster) -> Result<f64> {
    let counted = cluster.agent("n1")?.metrics()?;
    Ok(counted.metric("crier_vip_transitions_total").label("reason", "rebalance").sum())
}

#[test]
fn an_uneven_spread_is_evened_out_without_loss_after_a_return() -> Result<()> {
    let cluster = uneven("rebalance", "")?;
    let before = rebalanced(&cluster)?;
    let traffic = Traffic::start(&cluster, &cluster.vips())?;
    is_even(&cluster)?;
    traffic.go_on(500)?;
    traffic.lost_nothing()?;
    let moves = rebalanced(&cluster)? - before;
    assert!(moves > 1.5, "{moves} moves; two VIPs had to");
    Ok(())
}

#[test]
fn a_node_that_is_not_to_rebalance_does_so_when_it_is_asked() -> Result<()> {
    let cluster = uneven("rebalance-off", "rebalance: off\n")?;
    cluster.settle()?;
    let traffic = Traffic::start(&cluster, &cluster.vips())?;
    // Longer than a node that rebalances by itself would wait.
    traffic.go_on(u64::from(lossless::REQUESTS / 6) * 7)?;
    assert_eq!(carried(&cluster)?.values().copied().collect::<Vec<_>>(), [3, 3]);
    let said = crierctl(&cluster, "n2", &["rebalance"])?;
    assert!(said.contains("has its share"), "{said}");
    let said = crierctl(&cluster, "n1", &["rebalance"])?;
    assert!(said.contains("taking 2 VIPs over"), "{said}");
    is_even(&cluster)?;
    traffic.go_on(500)?;
    traffic.lost_nothing()
}
