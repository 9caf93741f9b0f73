//! What users and their tools see: status, readiness, metrics, `crierctl`.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    agent::binary,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB, key},
};

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::three(name).service(web().tcp(WEB).udp(DNS).dual_stack()).start()
}

#[test]
fn the_status_tells_members_vips_backends_and_forwarder() -> Result<()> {
    let cluster = cluster("status")?;
    for agent in &cluster.agents {
        let status = agent.status()?;
        assert_eq!(status.node, agent.name);
        assert!(!status.version.is_empty());
        let addresses: Vec<_> = status.members.iter().map(|member| member.address.as_str()).collect();
        assert_eq!(addresses, ["10.77.0.1:9651", "10.77.0.2:9651", "10.77.0.3:9651"]);
        assert_eq!(status.vips.len(), 2);
        for vip in &status.vips {
            assert_eq!((vip.namespace.as_str(), vip.service.as_str()), ("default", "web"));
            assert!(vip.epoch >= 1 && !vip.since.is_null(), "{vip:?}");
        }
        assert_eq!(status.forwarder.mode, "tc");
        assert_eq!(status.forwarder.interfaces, ["eth0"]);
        for pod in cluster.pods.iter().flat_map(|pod| pod.addresses) {
            let known = status.backends.iter().find(|backend| backend.address == pod);
            let backend = known.with_context(|| format!("{} does not know {pod}", agent.name))?;
            assert!(backend.ready && backend.node.is_some(), "{backend:?}");
        }
    }
    Ok(())
}

#[test]
fn health_and_readiness_are_answered() -> Result<()> {
    let cluster = cluster("ready")?;
    for agent in &cluster.agents {
        for path in ["/healthz", "/readyz", "/"] {
            agent.get(path)?.ok().with_context(|| format!("{path} of {}", agent.name))?;
        }
        assert_eq!(agent.get("/nonsense")?.status, 404);
    }
    Ok(())
}

/// How often connections are counted, and some.
const COUNTED: Duration = Duration::from_secs(12);

/// Those that exist without anything having gone wrong.
const METRICS: [&str; 21] = [
    "crier_build_info",
    "crier_members",
    "crier_member_transitions_total",
    "crier_vip_owned",
    "crier_vip_transitions_total",
    "crier_announcements_total",
    "crier_gossip_packets_total",
    "crier_backend_healthy",
    "crier_probe_duration_seconds_count",
    "crier_probe_results_total",
    "crier_forward_packets_total",
    "crier_forward_bytes_total",
    "crier_flows_total",
    "crier_flow_resets_total",
    "crier_syn_retransmits_total",
    "crier_backend_packets_total",
    "crier_backend_bytes_total",
    "crier_backend_flows_total",
    "crier_second_hop_packets_total",
    "crier_pool_addresses",
    "crier_source_connected",
];

#[test]
fn the_promised_metrics_are_there_and_count() -> Result<()> {
    let cluster = cluster("metrics")?;
    for _ in 0..60 {
        cluster.get(cluster.vip4())?;
    }
    let owner = cluster.owner(cluster.vip4())?;
    let mut packets = 0.0;
    for agent in &cluster.agents {
        let metrics = agent.metrics()?;
        let missing: Vec<_> = METRICS.iter().filter(|name| !metrics.metric(name).exists()).collect();
        // What only the owner or a node with traffic counts may be absent elsewhere.
        ensure!(
            agent.name != owner || missing.is_empty(),
            "{owner} does not tell {missing:?} but {:?}",
            metrics.names()
        );
        assert_eq!(metrics.metric("crier_members").label("state", "alive").value(), Some(3.0));
        packets += metrics.metric("crier_forward_packets_total").label("service", "web").sum();
    }
    // Each request takes at least three packets each way.
    eventually(SETTLE, "the counters have the requests", || {
        let mut total = 0.0;
        for agent in &cluster.agents {
            total += agent.metrics()?.metric("crier_forward_packets_total").label("service", "web").sum();
        }
        ensure!(total >= 60.0 * 6.0, "{total} (at first {packets})");
        Ok(())
    })
}

#[test]
fn connections_are_counted_measured_and_listed_where_their_pods_are() -> Result<()> {
    const COUNT: usize = 12;
    let cluster = cluster("flows")?;
    let sum = |name: &str| -> Result<f64> {
        cluster.agents.iter().map(|agent| Ok(agent.metrics()?.metric(name).label("service", "web").sum())).sum()
    };
    let held = cluster.long_lived(cluster.vip4(), COUNT)?;
    // Connections in use are counted every ten seconds.
    eventually(SETTLE + COUNTED, "all are in use", || {
        for name in ["crier_flows_active", "crier_backend_flows_active"] {
            let active = sum(name)?;
            ensure!(active == COUNT as f64, "{name} is {active}");
        }
        Ok(())
    })?;
    let begun = sum("crier_flows_total")?;
    assert_eq!(sum("crier_backend_flows_total")?, begun);
    assert_eq!(sum("crier_connect_seconds_count")?, begun, "each was measured");
    let listed = || -> Result<usize> {
        let mut listed = 0;
        for agent in &cluster.agents {
            let arguments = ["flows", "--service", "default/web", "-o", "json", "--agent"];
            let output = Command::new(binary("crierctl")?).args(arguments).arg(agent.socket()).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let flows = json["flows"].as_array().context("no flows")?;
            let here: Vec<_> = flows.iter().filter(|flow| flow["state"] == "established").collect();
            ensure!(here.iter().all(|flow| flow["vip"] == "10.77.0.100" && !flow["pod"].is_null()), "{json}");
            listed += here.len();
        }
        Ok(listed)
    };
    assert_eq!(listed()?, COUNT);
    held.finish()?;
    eventually(SETTLE, "none is in use", || {
        ensure!(listed()? == 0);
        Ok(())
    })?;
    eventually(SETTLE + COUNTED, "none is counted", || {
        ensure!(sum("crier_flows_active")? == 0.0);
        Ok(())
    })
}

#[test]
fn crierctl_shows_the_status_as_a_table_and_as_json() -> Result<()> {
    let cluster = cluster("crierctl")?;
    let agent = cluster.agent("n1")?;
    let socket = agent.socket().display().to_string();
    let crierctl = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(binary("crierctl")?).args(["--agent", &socket]).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let table = crierctl(&["status"])?;
    for word in ["n1", "n2", "n3", "10.77.0.100", "fd77::100", "web"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&crierctl(&["status", "-o", "json"])?)?;
    assert_eq!(json["node"], "n1");
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    Ok(())
}

#[test]
fn keys_are_changed_without_a_moment_apart() -> Result<()> {
    let cluster = cluster("key-rotation")?;
    // New key accepted everywhere, then used everywhere, then the old one gone everywhere.
    for keys in [vec![key(7), key(8)], vec![key(8), key(7)], vec![key(8)]] {
        for agent in &cluster.agents {
            let mut config = cluster.config(&agent.name)?.clone();
            config.keys.clone_from(&keys);
            agent.configure(&config)?;
            agent.hup()?;
            e2e::observe::throughout(Duration::from_millis(500), "nobody is lost", || {
                ensure!(agent.status()?.up() == ["n1", "n2", "n3"]);
                Ok(())
            })?;
        }
    }
    cluster.settle()
}
