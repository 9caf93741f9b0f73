//! The readiness gate `crier.io/healthy`: what probes find decides whether a pod is ready.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    manifests::web,
    objects::gated_pod,
    observe::eventually,
    scenario::{Cluster, SETTLE, WEB},
};
use serde_json::json;

/// Waits until the pod's condition says this.
fn says(cluster: &Cluster, pod: &str, status: &str) -> Result<()> {
    eventually(SETTLE, &format!("pod {pod} is told {status}"), || {
        let pod = cluster.api().get("default", &format!("pod/{pod}"))?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == "crier.io/healthy");
        ensure!(found.is_some_and(|one| one["status"] == status), "{conditions:?}");
        Ok(())
    })
}

/// Does what Kubernetes does when a pod's readiness has changed.
fn becomes(cluster: &mut Cluster, pod: &str, ready: bool) -> Result<()> {
    cluster.edit("web", |web| {
        web.endpoints.iter_mut().filter(|endpoint| endpoint.pod == pod).for_each(|endpoint| endpoint.ready = ready);
    })
}

#[test]
fn a_pod_becomes_ready_when_its_probes_succeed_and_ready_again_when_they_do_again() -> Result<()> {
    let mut cluster = Cluster::of("kube-gate", 2).pods(1).kubernetes().start()?;
    for pod in &cluster.pods {
        cluster.api().apply(&gated_pod(&pod.name, &pod.node))?;
    }
    cluster.expose(web().tcp(WEB).http_check(Duration::from_millis(200)))?;
    let pods: Vec<String> = cluster.pods.iter().map(|pod| pod.name.clone()).collect();
    for pod in &pods {
        becomes(&mut cluster, pod, false)?;
    }
    cluster.pods[1].fail_health(true);
    ensure!(
        !cluster.api().get("default", &format!("pod/{}", pods[0]))?.to_string().contains("crier.io/healthy\",\"status")
    );

    // Only pods of services that ask for it.
    let gate = json!({"metadata": {"annotations": {"crier.io/readiness-gate": "true"}}});
    cluster.api().patch("default", "service/web", &gate)?;
    says(&cluster, &pods[0], "True")?;
    says(&cluster, &pods[1], "False")?;
    becomes(&mut cluster, &pods[0], true)?;
    let vip = cluster.addresses("web")?[0];
    eventually(SETTLE, "the one that is ready serves", || {
        let answer = cluster.get(vip)?;
        ensure!(answer.pod == pods[0], "{answer:?}");
        Ok(())
    })?;

    cluster.pods[1].fail_health(false);
    says(&cluster, &pods[1], "True")?;
    becomes(&mut cluster, &pods[1], true)?;
    cluster.pods[0].fail_health(true);
    says(&cluster, &pods[0], "False")?;
    becomes(&mut cluster, &pods[0], false)?;
    cluster.pods[0].fail_health(false);
    says(&cluster, &pods[0], "True")?;
    cluster.end_quietly();
    Ok(())
}
