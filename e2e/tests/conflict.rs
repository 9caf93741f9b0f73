//! A machine outside the cluster that uses a VIP is reported, and answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    manifests::web,
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB},
    sniffer::{Kind, Sniffer},
};

#[test]
fn a_foreign_claim_to_a_vip_is_counted_and_answered_by_the_owner() -> Result<()> {
    let cluster = Cluster::three("foreign").service(web().tcp(WEB)).start()?;
    let vip = cluster.vip4();
    let owner = cluster.owner(vip)?;
    let mac = cluster.lan.host(&owner)?.mac;
    let ns = &cluster.client().ns;
    let sniffer = Sniffer::start(ns, "eth0")?;
    let gratuitous =
        |kind: &Kind| matches!(kind, Kind::Arp { sender, target, .. } if sender == target && *sender == vip);
    // The burst of the take-over has to be over, so that what is announced later is the answer.
    eventually(SETTLE, "the owner has announced all it will", || {
        sniffer.clear();
        std::thread::park_timeout(Duration::from_millis(1500));
        ensure!(sniffer.count(|frame| gratuitous(&frame.kind)) == 0);
        Ok(())
    })?;

    let address = vip.to_string();
    ns.output("arping", &["-U", "-c", "1", "-I", "eth0", "-S", &address, &address], "").ok();
    eventually(SETTLE, "the owner counts it and announces again", || {
        let counted =
            cluster.agent(&owner)?.metrics()?.metric("crier_vip_conflicts_total").label("vip", &address).sum();
        ensure!(counted >= 1.0, "not counted");
        ensure!(sniffer.count(|frame| frame.source == mac && gratuitous(&frame.kind)) >= 2, "not answered");
        ensure!(cluster.agent(&owner)?.log().contains("a machine outside the cluster uses a VIP"));
        Ok(())
    })?;
    ensure!(cluster.owner(vip)? == owner);
    cluster.get(vip).map(drop)
}
