//! Many objects, and many changes: what they cost the agents, and whether traffic notices.
//!
//! By default few enough for every run; `SERVICES=5000 STORM=60` prints what docs/benchmarks.md has.
#![expect(clippy::disallowed_methods, reason = "edge: measures real agents")]

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    kubernetes::Proxy,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB},
};
use serde_json::{Value, json};

/// Pods behind each of the many services.
const PODS: u32 = 10;
/// Changes a second.
const PACE: u32 = 100;
/// Requests at once: one alone waits for the API server's disk too often for that pace.
const LANES: u32 = 4;
const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const SLICES_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The agents' memory in MiB: what is in RAM.
fn memory(cluster: &Cluster) -> Result<Vec<f64>> {
    let of = |pid: u32| -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok((kib / 1024.0 * 10.0).round() / 10.0)
    };
    cluster.agents.iter().filter_map(e2e::agent::Agent::pid).map(of).collect()
}

fn many(index: u32) -> (Value, Value) {
    let name = format!("many-{index}");
    let service = json!({
        // None of its pods is there: to probe them would be to measure that.
        "metadata": {"name": name, "annotations": {"crier.io/health-check": "none"}},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"name": "web", "port": 80}]}
    });
    let pod = |number: u32| {
        let [_, b, c, d] = (index * PODS + number).to_be_bytes();
        json!({"addresses": [format!("10.{}.{c}.{d}", 128 + b)], "nodeName": format!("n{}", number % 3 + 1), "conditions": {"ready": true}})
    };
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8080}],
        "endpoints": (0..PODS).map(pod).collect::<Vec<_>>()
    });
    (service, slice)
}

/// Creates the services and waits until all of them have addresses, and all agents know it.
fn fill(cluster: &Cluster, proxy: &Proxy, count: u32) -> Result<()> {
    let pool = "{apiVersion: crier.io/v1alpha1, kind: IPAddressPool, metadata: {name: many, namespace: crier-system}, \
                spec: {addresses: [10.200.0.0/18], serviceAllocation: {priority: 1, namespaces: [default]}}}";
    cluster.api().apply(pool)?;
    let begun = Instant::now();
    for (service, slice) in (0..count).map(many) {
        proxy.create(SERVICES_PATH, &service)?;
        proxy.create(SLICES_PATH, &slice)?;
    }
    let created = begun.elapsed();
    let patience = SETTLE + created * 4;
    eventually(patience, "all services have addresses that all agents know", || {
        for agent in &cluster.agents {
            let known = agent.status()?.vips.len();
            ensure!(known > count as usize, "{} knows {known}", agent.name);
        }
        Ok(())
    })?;
    println!(
        "{count} services, {} endpoints: created in {created:.1?}, all of them have addresses that all agents know {:.1?} later",
        count * PODS,
        begun.elapsed() - created
    );
    Ok(())
}

/// Changes labels of slices, and now and then which pods are ready, at an even pace. How many changes there were.
fn storm(proxy: &Proxy, count: u32, seconds: u32) -> Result<u32> {
    let begun = Instant::now();
    let lane = |first: u32| -> Result<u32> {
        let mut changes = 0;
        for number in (first..PACE * seconds).step_by(LANES as usize) {
            let due = begun + Duration::from_secs(1) * number / PACE;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if begun.elapsed() > Duration::from_secs(seconds.into()) {
                break;
            }
            let (_, slice) = many(number % count);
            let mut endpoints = slice["endpoints"].clone();
            endpoints[0]["conditions"]["ready"] = (number / count % 2 == 1).into();
            let patch = json!({"metadata": {"labels": {"change": number.to_string()}}, "endpoints": endpoints});
            proxy.merge(&format!("{SLICES_PATH}/many-{}", number % count), &patch)?;
            changes += 1;
        }
        Ok(changes)
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|first| scope.spawn(move || lane(first))).collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane does not panic")).sum()
    })
}

#[test]
fn many_services_take_bounded_memory_and_a_storm_of_changes_disturbs_no_traffic() -> Result<()> {
    let (count, seconds) = (number("SERVICES", 200), number("STORM", 5));
    let cluster = Cluster::three("kube-scale")
        .kubernetes()
        .service(web().tcp(WEB).udp(5353))
        .nothing_moves_by_itself()
        .start()?;
    let vip = cluster.vip4();
    println!("at rest, one service: agents of {:?} MiB", memory(&cluster)?);
    let proxy = cluster.api().proxy()?;
    fill(&cluster, &proxy, count)?;
    println!("with them: agents of {:?} MiB", memory(&cluster)?);
    ensure!(memory(&cluster)?.iter().all(|mib| *mib < 400.0), "too much");

    let load = cluster.udp_load(vip).start(&cluster.client().ns)?;
    let owner = cluster.owner(vip)?;
    let changes = storm(&proxy, count, seconds)?;
    let report = load.stop()?;
    println!(
        "{changes} changes in {seconds} s beside {} requests: {} lost, slowest {:.1?}; agents of {:?} MiB",
        report.sent,
        report.lost,
        report.slowest,
        memory(&cluster)?
    );
    ensure!(report.lost == 0, "{report:?}");
    ensure!(cluster.owner(vip)? == owner, "it has moved");

    // From disk and the API server at once, all agents together.
    for agent in &cluster.agents {
        agent.kill()?;
    }
    let begun = Instant::now();
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    eventually(SETTLE * 3, "it is served again", || cluster.get(vip).map(drop))?;
    println!("all agents killed and started again: served after {:.1?}", begun.elapsed());
    cluster.end_quietly();
    Ok(())
}
