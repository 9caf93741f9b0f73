//! A pod that does not answer gets nothing new, on any node, and keeps what it has; it comes back when it answers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    longlived::all_survived,
    manifests::{ServiceSpec, web},
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::Transport,
};

const INTERVAL: Duration = Duration::from_millis(200);

fn service() -> ServiceSpec {
    web().tcp(WEB).udp(DNS).dual_stack()
}

/// Waits until every agent judges the pod's TCP sockets so.
fn judged(cluster: &Cluster, pod: &str, healthy: bool) -> Result<()> {
    let addresses = cluster.pod(pod)?.addresses;
    eventually(SETTLE, &format!("{pod} is healthy: {healthy}, on every node"), || {
        for agent in &cluster.agents {
            let status = agent.status()?;
            for backend in status.backends.iter().filter(|b| b.port == e2e::pods::TCP_PORT) {
                if addresses.contains(&backend.address) {
                    ensure!(backend.healthy == Some(healthy), "{} says {backend:?}", agent.name);
                }
            }
        }
        Ok(())
    })
}

/// How many of 200 new connections reach the pod, over both VIPs.
fn share(cluster: &Cluster, pod: &str) -> Result<u32> {
    let mut share = 0;
    for vip in cluster.vips() {
        let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(vip, WEB), 100)?;
        share += pods.get(pod).copied().unwrap_or(0);
    }
    Ok(share)
}

#[test]
fn a_pod_whose_http_check_fails_keeps_its_connections_and_gets_no_new_ones_until_it_recovers() -> Result<()> {
    let cluster = Cluster::three("http-check").service(service().http_check(INTERVAL)).start()?;
    let connections = cluster.long_lived(cluster.vip4(), 24)?;
    let pod = connections.pods()[0].clone();
    judged(&cluster, &pod, true)?;

    cluster.pod(&pod)?.fail_health(true);
    judged(&cluster, &pod, false)?;
    eventually(SETTLE, "no node sends it anything new", || {
        ensure!(share(&cluster, &pod)? == 0);
        Ok(())
    })?;
    assert_eq!(share(&cluster, &pod)?, 0, "and it stays so");
    let records = connections.records(&pod);
    eventually(SETTLE, "its connection goes on", || {
        ensure!(connections.records(&pod) > records + 20);
        Ok(())
    })?;

    cluster.pod(&pod)?.fail_health(false);
    judged(&cluster, &pod, true)?;
    eventually(SETTLE, "it is back", || {
        ensure!(share(&cluster, &pod)? > 0);
        Ok(())
    })?;
    all_survived(&connections.finish()?, |_| true)
}

#[test]
fn a_pod_that_refuses_connections_is_out_by_the_tcp_check() -> Result<()> {
    let cluster = Cluster::three("tcp-check").service(service().tcp_check(INTERVAL)).start()?;
    cluster.pod("n2-p1")?.refuse_connections(true);
    judged(&cluster, "n2-p1", false)?;
    eventually(SETTLE, "no request is refused", || share(&cluster, "n2-p1").map(drop))?;
    assert_eq!(share(&cluster, "n2-p1")?, 0);
    cluster.pod("n2-p1")?.refuse_connections(false);
    judged(&cluster, "n2-p1", true)
}

#[test]
fn a_pod_that_hangs_is_out() -> Result<()> {
    let cluster = Cluster::three("hanging-pod").service(service().http_check(INTERVAL)).start()?;
    cluster.pod("n3-p2")?.pause(true);
    judged(&cluster, "n3-p2", false)?;
    eventually(SETTLE, "nobody waits for it", || share(&cluster, "n3-p2").map(drop))?;
    cluster.pod("n3-p2")?.pause(false);
    judged(&cluster, "n3-p2", true)
}

#[test]
fn when_no_pod_is_healthy_all_ready_ones_serve() -> Result<()> {
    let cluster = Cluster::three("fail-open").service(service().http_check(INTERVAL)).start()?;
    for pod in &cluster.pods {
        pod.fail_health(true);
    }
    for pod in &cluster.pods {
        judged(&cluster, &pod.name, false)?;
    }
    let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(cluster.vip4(), WEB), 300)?;
    assert_eq!(pods.len(), 6, "{pods:?}");
    Ok(())
}

#[test]
fn a_pod_that_leaves_the_endpoint_slice_gets_nothing_new() -> Result<()> {
    let mut cluster = Cluster::three("endpoint-removed").service(service()).start()?;
    let load = cluster.tcp_load(cluster.vip4()).start(&cluster.client().ns)?;
    cluster.edit("web", |web| web.endpoints.retain(|endpoint| endpoint.pod != "n1-p1"))?;
    eventually(SETTLE, "it is out", || {
        ensure!(share(&cluster, "n1-p1")? == 0);
        Ok(())
    })?;
    assert_eq!(share(&cluster, "n1-p1")?, 0);
    assert_eq!(load.stop()?.lost, 0, "the others served on");
    Ok(())
}

#[test]
fn a_pod_that_is_not_ready_gets_nothing_new() -> Result<()> {
    let mut cluster = Cluster::three("not-ready").service(service()).start()?;
    cluster.edit("web", |web| web.endpoints.iter_mut().filter(|e| e.pod == "n1-p2").for_each(|e| e.ready = false))?;
    eventually(SETTLE, "it is out", || {
        ensure!(share(&cluster, "n1-p2")? == 0);
        Ok(())
    })
}

#[test]
fn pods_on_the_nodes_own_address_serve_like_any_other() -> Result<()> {
    let cluster = Cluster::three("host-network").host_network().service(service()).start()?;
    for (vip, own) in cluster.vips().into_iter().zip(cluster.client().addresses()) {
        for (transport, port) in [(Transport::Tcp, WEB), (Transport::Udp, DNS)] {
            let pods = cluster.ask_many(transport, SocketAddr::new(vip, port), 100)?;
            assert_eq!(pods.len(), 3, "{transport:?} {vip}: {pods:?}");
        }
        assert!(cluster.pods.iter().all(|pod| pod.counts().clients.contains(&own)), "{own} is seen by all");
    }
    Ok(())
}

#[test]
fn pods_get_what_they_weigh_and_those_of_weight_0_nothing() -> Result<()> {
    let weights = [("n1", 3), ("n3", 0)];
    let cluster = Cluster::three("weights").service(service().tcp_check(INTERVAL).weights(&weights)).start()?;
    for vip in cluster.vips() {
        let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(vip, WEB), 400)?;
        let of = |node: &str| pods.iter().filter(|(pod, _)| pod.starts_with(node)).map(|(_, count)| count).sum::<u32>();
        assert_eq!((of("n1") + of("n2"), of("n3")), (400, 0), "{pods:?}");
        assert!((250..=350).contains(&of("n1")), "three of four, by chance a few more or less: {pods:?}");
    }
    Ok(())
}

/// What an agent says of a backend in words.
fn why(backend: &e2e::status::Backend) -> String {
    backend.reason.as_str().unwrap_or_default().to_owned()
}

/// Waits until every agent says of the pod's TCP sockets, once or for good, what `says` looks for.
fn said(cluster: &Cluster, pod: &str, what: &str, says: impl Fn(&str) -> bool) -> Result<()> {
    let addresses = cluster.pod(pod)?.addresses;
    for agent in &cluster.agents {
        eventually(SETTLE, &format!("{} says of {pod}: {what}", agent.name), || {
            let status = agent.status()?;
            let mut sockets = status.backends.iter().filter(|b| b.port == e2e::pods::TCP_PORT);
            ensure!(sockets.any(|b| addresses.contains(&b.address) && says(&why(b))));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_that_recovers_starts_slowly_in_all_nodes_eyes_and_none_does_when_the_agents_start() -> Result<()> {
    let slowly = |reason: &str| reason.starts_with("slow start");
    let spec = service().http_check(INTERVAL).slow_start(Duration::from_secs(6));
    let cluster = Cluster::three("slow-start").service(spec).start()?;
    for agent in &cluster.agents {
        let backends = agent.status()?.backends;
        assert!(backends.iter().all(|backend| !slowly(&why(backend))), "{backends:?}");
    }
    cluster.pod("n1-p1")?.fail_health(true);
    judged(&cluster, "n1-p1", false)?;
    cluster.pod("n1-p1")?.fail_health(false);
    said(&cluster, "n1-p1", "a slow start", slowly)?;
    judged(&cluster, "n1-p1", true)?;
    said(&cluster, "n1-p1", "half of its share", |reason| reason == "slow start: 4/8 of its share")?;
    said(&cluster, "n1-p1", "all of it", |reason| !slowly(reason))
}

#[test]
fn a_service_whose_pods_all_terminate_is_served_until_a_new_one_is_there() -> Result<()> {
    let mut cluster = Cluster::three("all-terminate").service(service().tcp_check(INTERVAL)).start()?;
    let connections = cluster.long_lived(cluster.vip4(), 12)?;
    let load = cluster.tcp_load(cluster.vip4()).start(&cluster.client().ns)?;
    let leave = |endpoint: &mut e2e::manifests::Endpoint| (endpoint.ready, endpoint.terminating) = (false, true);
    cluster.edit("web", |web| web.endpoints.iter_mut().for_each(leave))?;
    for pod in cluster.pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>() {
        said(&cluster, &pod, "terminating", |reason| reason == "terminating")?;
    }
    let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(cluster.vip4(), WEB), 300)?;
    assert_eq!(pods.len(), 6, "{pods:?}");
    cluster.edit("web", |web| {
        web.endpoints.iter_mut().take(1).for_each(|e| (e.ready, e.terminating) = (true, false));
    })?;
    eventually(SETTLE, "one alone gets what is new", || {
        ensure!(cluster.ask_many(Transport::Tcp, SocketAddr::new(cluster.vip4(), WEB), 100)?.len() == 1);
        Ok(())
    })?;
    assert_eq!(load.stop()?.lost, 0, "nothing was refused");
    all_survived(&connections.finish()?, |_| true)
}
