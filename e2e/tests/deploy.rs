//! What is in `deploy/` fits what the agent does: with the rights of the manifest and no others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::{
    agent::{Agent, Config},
    lossless::Traffic,
    manifests::web,
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
};
use serde::Deserialize;
use serde_norway::Value;

/// The capabilities that the manifest may name, by their numbers in capability.h.
const CAPABILITIES: [(&str, libc::c_ulong); 6] =
    [("NET_ADMIN", 12), ("NET_RAW", 13), ("SYS_ADMIN", 21), ("SYS_NICE", 23), ("PERFMON", 38), ("BPF", 39)];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The object of this kind in a file of `deploy/`.
fn object(file: &str, kind: &str) -> Result<Value> {
    let text = std::fs::read_to_string(deploy().join(file)).with_context(|| format!("deploy/{file}"))?;
    for document in serde_norway::Deserializer::from_str(&text) {
        let object = Value::deserialize(document)?;
        if object.get("kind").and_then(Value::as_str) == Some(kind) {
            return Ok(object);
        }
    }
    anyhow::bail!("deploy/{file} has no {kind}")
}

/// All capabilities of this kernel but those that are granted to the first of the DaemonSet's `containers`.
fn withheld(file: &str, containers: &str) -> Result<Vec<libc::c_ulong>> {
    let daemonset = object(file, "DaemonSet")?;
    let context = &daemonset["spec"]["template"]["spec"][containers][0]["securityContext"];
    let capabilities = &context["capabilities"];
    ensure!(capabilities["drop"] == Value::from(vec!["ALL"]) && context.get("privileged") != Some(&Value::from(true)));
    let names = capabilities["add"].as_sequence().context("no capabilities are added")?;
    let number = |name: &Value| CAPABILITIES.iter().find(|(known, _)| Some(*known) == name.as_str()).map(|(_, n)| *n);
    let granted = names.iter().map(|name| number(name).with_context(|| format!("the test does not know {name:?}")));
    let granted = granted.collect::<Result<Vec<_>>>()?;
    let last: libc::c_ulong = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?.trim().parse()?;
    Ok((0..=last).filter(|capability| !granted.contains(capability)).collect())
}

/// Nothing that was refused for want of a right is in the log.
fn was_refused_nothing(agent: &Agent) -> Result<()> {
    let log = agent.log();
    let refused = log
        .lines()
        .find(|line| ["not permitted", "ermission", "CAP_", "cannot be asked"].iter().any(|word| line.contains(word)));
    ensure!(refused.is_none(), "{}: {}", agent.name, refused.unwrap_or_default());
    Ok(())
}

/// A node carries by XDP if it is told to.
fn accelerates(cluster: &Cluster, node: &str) -> Result<()> {
    let (agent, usual) = (cluster.agent(node)?, cluster.config(node)?);
    for (forwarder, mode) in [("xdp", "xdp"), (usual.forwarder.as_str(), "tc")] {
        agent.terminate()?;
        agent.configure(&Config { forwarder: forwarder.to_owned(), ..usual.clone() })?;
        agent.start()?;
        eventually(SETTLE, &format!("{node} carries by {mode}"), || {
            let found = agent.status()?.forwarder.mode;
            ensure!(found == mode, "{found}");
            Ok(())
        })?;
    }
    cluster.settle()
}

#[test]
fn the_agent_runs_with_the_capabilities_of_the_manifest() -> Result<()> {
    let service = web().tcp(WEB).udp(DNS).dual_stack();
    let cluster =
        Cluster::three("rights").nothing_moves_by_itself().extra("restartGrace: 10s\n").service(service).build()?;
    let rights = withheld("crier.yaml", "containers")?;
    for agent in &cluster.agents {
        agent.withhold(rights.iter().copied());
        agent.start()?;
    }
    cluster.settle()?;
    accelerates(&cluster, "n1")?;
    let vips = [cluster.vip4(), cluster.vip6()];
    let traffic = Traffic::mixed(&cluster, &vips)?;

    // A frame filter for another's MAC.
    cluster.armed_standby(vips[0])?;
    // An upgrade, with another layout of what is remembered, and back.
    for start in [Agent::start_other, Agent::start] {
        for agent in &cluster.agents {
            agent.terminate()?;
            start(agent)?;
            cluster.settle()?;
            traffic.go_on(200)?;
        }
    }
    traffic.lost_nothing()?;
    for agent in &cluster.agents {
        let taken =
            agent.log().lines().filter(|line| line.contains("took over") && line.contains("asked=true")).count();
        ensure!(taken == 2, "the predecessors' programs were not asked: {}", agent.log());
    }

    for vip in vips {
        let owner = cluster.owner(vip)?;
        cluster.agent(&owner)?.kill()?;
        cluster.new_owner(vip, &owner)?;
        eventually(SETTLE, "requests are answered", || cluster.get(vip).map(drop))?;
        cluster.agent(&owner)?.start()?;
        cluster.settle()?;
    }
    cluster.agents.iter().try_for_each(was_refused_nothing)?;

    let agent = &cluster.agents[0];
    agent.terminate()?;
    agent.withhold(withheld("cleanup.yaml", "initContainers")?);
    let output = agent.run(&["cleanup", "--config", &agent.config_path().to_string_lossy()])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!agent.pin_dir().exists(), "{} is left", agent.pin_dir().display());
    Ok(())
}
