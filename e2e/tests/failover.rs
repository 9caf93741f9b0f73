//! Whatever happens to the owner, another takes over, and connections to pods on other nodes go on.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    longlived::all_survived,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::Report,
};

/// Far above what is promised (`make bench-failover` measures that): this tells "moved" from "did not move".
const AT_MOST: Duration = Duration::from_secs(3);

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::three(name).nothing_moves_by_itself().service(web().tcp(WEB).udp(DNS).dual_stack()).start()
}

/// Does `fault` to the owner of `vip` under load and waits until another serves it: old owner, new owner, account.
fn fail_over(
    cluster: &Cluster,
    vip: IpAddr,
    fault: impl FnOnce(&Cluster, &str) -> Result<()>,
) -> Result<(String, String, Report)> {
    let old = cluster.owner(vip)?;
    let connections = cluster.long_lived(vip, 12)?;
    ensure!(connections.pods().iter().any(|pod| cluster.node_of(pod) != old), "all connections end on {old}");
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    load.more_answers(200)?;
    fault(cluster, &old)?;
    let new = cluster.new_owner(vip, &old)?;
    cluster.client_sends_to(vip, &new)?;
    eventually(SETTLE, "requests are answered again", || cluster.get(vip).map(drop))?;
    load.more_answers(200)?;
    let report = load.stop()?;
    let ended = connections.finish()?;
    println!("{old} -> {new}: {report:?}\n{ended:?}");
    all_survived(&ended, |pod| cluster.node_of(pod) != old)?;
    Ok((old, new, report))
}

#[test]
fn a_cut_owner_is_replaced_and_does_not_take_its_vip_back() -> Result<()> {
    let cluster = cluster("owner-cut")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let (old, new, report) = fail_over(&cluster, vip, |cluster, owner| cluster.lan.cut(owner))?;
        assert!(report.outage < AT_MOST, "{report:?}");

        let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
        let connections = cluster.long_lived(vip, 6)?;
        let present: Vec<_> = cluster.running().into_iter().filter(|node| *node != old).collect();
        let other = if vip == cluster.vip4() { cluster.vip6() } else { cluster.vip4() };
        let others_owner = cluster.agreed_owner(other, &present)?;
        cluster.lan.heal(&old)?;
        cluster.settle()?;
        assert_eq!(cluster.owner(vip)?, new, "a returning node does not take its VIPs back");
        assert_eq!(cluster.owner(other)?, others_owner, "what it claimed while it was alone it gives up");
        let report = load.stop()?;
        assert_eq!((report.lost, report.duplicates), (0, 0), "the return disturbed: {report:?}");
        all_survived(&connections.finish()?, |_| true)?;
    }
    Ok(())
}

#[test]
fn an_owner_whose_link_goes_down_is_replaced() -> Result<()> {
    let cluster = cluster("link-down")?;
    let (old, new, report) = fail_over(&cluster, cluster.vip4(), |cluster, owner| cluster.lan.link_down(owner))?;
    assert!(report.outage < AT_MOST, "{report:?}");
    cluster.lan.heal(&old)?;
    cluster.settle()?;
    assert_eq!(cluster.owner(cluster.vip4())?, new);
    Ok(())
}

#[test]
fn a_killed_owner_is_replaced_and_its_new_start_disturbs_nothing() -> Result<()> {
    let cluster = cluster("owner-killed")?;
    let vip = cluster.vip6();
    let (old, new, report) = fail_over(&cluster, vip, |cluster, owner| cluster.agent(owner)?.kill())?;
    assert!(report.outage < AT_MOST, "{report:?}");

    let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
    let connections = cluster.long_lived(vip, 6)?;
    cluster.agent(&old)?.start()?;
    eventually(SETTLE, "it is ready", || cluster.agent(&old)?.get("/readyz")?.ok().map(drop))?;
    cluster.settle()?;
    assert_eq!(cluster.owner(vip)?, new, "a restarted node does not take its VIPs back");
    let report = load.stop()?;
    assert_eq!((report.lost, report.duplicates), (0, 0), "the return disturbed: {report:?}");
    all_survived(&connections.finish()?, |_| true)
}

#[test]
fn a_graceful_stop_loses_no_request_and_no_connection() -> Result<()> {
    let cluster = cluster("graceful")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let requests = cluster.tcp_load(vip).start(&cluster.client().ns)?;
        let all = cluster.long_lived(vip, 12)?;
        let (old, _, report) = fail_over(&cluster, vip, |cluster, owner| cluster.agent(owner)?.terminate())?;
        let requests = requests.stop()?;
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
        assert_eq!(requests.lost, 0, "{requests:?}");
        // The hooks outlive the agent, so the stopped node's own pods keep their connections too.
        all_survived(&all.finish()?, |_| true)?;
        cluster.agent(&old)?.start()?;
        cluster.settle()?;
    }
    Ok(())
}

#[test]
fn a_frozen_owner_is_replaced_and_falls_silent_when_it_thaws() -> Result<()> {
    let cluster = cluster("frozen")?;
    let vip = cluster.vip4();
    let old = cluster.owner(vip)?;
    cluster.agent(&old)?.freeze()?;
    let new = cluster.new_owner(vip, &old)?;
    cluster.agent(&old)?.thaw()?;
    cluster.settle()?;
    assert_eq!(cluster.owner(vip)?, new);
    Ok(())
}
