//! Crier beside another load balancer in one cluster (docs/migrate-from-metallb.md): who has which service, and how one moves.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    agent::Agent,
    manifests::web,
    observe::{eventually, throughout},
    scenario::{Cluster, SETTLE, WEB},
};
use serde_json::json;

#[test]
fn a_service_of_another_load_balancer_is_left_alone_until_it_gets_criers_class_and_keeps_its_address() -> Result<()> {
    let cluster = Cluster::three("beside").kubernetes().build()?;
    cluster.api().patch("default", "ipaddresspool.crier.io/lan", &json!({"spec": {"autoAssign": false}}))?;
    let mut service = web().tcp(WEB);
    service.endpoints = cluster.pods.iter().map(Into::into).collect();
    cluster.api().apply(&service.yaml())?;
    // As the other has given it; Crier's pool has it too.
    let address = "10.77.0.100".parse()?;
    let given = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
    cluster.api().patch_status("default", "service/web", &given)?;
    cluster.agents.iter().try_for_each(Agent::start)?;
    cluster.settle()?;
    eventually(SETTLE, "the pool is judged", || {
        let pool = cluster.api().get("default", "ipaddresspool.crier.io/lan")?;
        ensure!(pool["status"]["conditions"][0]["status"] == "True", "{}", pool["status"]);
        Ok(())
    })?;
    throughout(Duration::from_secs(2), "it stays the other's", || {
        ensure!(cluster.recorded("web")? == [address] && cluster.vip_object("web").is_err());
        ensure!(cluster.events("web")?.is_empty(), "{}", cluster.events("web")?);
        ensure!(cluster.get(address).is_err(), "Crier serves it");
        Ok(())
    })?;

    let asked = json!({"metadata": {"annotations": {"crier.io/loadBalancerIPs": address}}});
    cluster.api().patch("default", "service/web", &asked)?;
    let without = json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}});
    cluster.api().patch("default", "service/web", &without)?;
    let with = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "crier.io/crier"}});
    cluster.api().patch("default", "service/web", &with)?;
    ensure!(cluster.addresses("web")? == [address]);
    eventually(SETTLE, "Crier serves it", || cluster.get(address).map(drop))?;

    // With its pool the address goes.
    cluster.api().delete("default", "ipaddresspool.crier.io/lan")?;
    eventually(SETTLE, "it is released", || {
        let events = cluster.events("web")?;
        ensure!(cluster.recorded("web")?.is_empty() && events.contains("AddressReleased"), "{events}");
        ensure!(cluster.get(address).is_err(), "it is still served");
        Ok(())
    })?;
    cluster.end_quietly();
    Ok(())
}
