//! Mistakes get an error that names file, object and field; what was served before is served on, without a request lost.

use std::{net::TcpListener, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    manifests::{POOL, service, web},
    observe::{eventually, throughout},
    scenario::{Cluster, DNS, SETTLE, WEB},
};

/// Makes a mistake under load; every agent must complain of it in these words, and the load must not notice.
fn complains(cluster: &Cluster, words: &[&str], mistake: impl FnOnce() -> Result<()>) -> Result<()> {
    let load = cluster.udp_load(cluster.vip4()).start(&cluster.client().ns)?;
    let requests = cluster.tcp_load(cluster.vip6()).start(&cluster.client().ns)?;
    mistake()?;
    for agent in &cluster.agents {
        eventually(SETTLE, &format!("{} complains of {words:?}", agent.name), || {
            let status = agent.status()?;
            ensure!(status.complains_of(words), "{:#?}", status.source.problems);
            Ok(())
        })?;
    }
    load.more_answers(500)?;
    let (load, requests) = (load.stop()?, requests.stop()?);
    ensure!(load.lost == 0 && requests.lost == 0, "{load:?} {requests:?}");
    Ok(())
}

fn no_complaints(cluster: &Cluster) -> Result<()> {
    eventually(SETTLE, "nobody complains any more", || {
        for agent in &cluster.agents {
            let problems = agent.status()?.source.problems;
            ensure!(problems.is_empty(), "{} says {problems:?}", agent.name);
        }
        Ok(())
    })
}

fn cluster(name: &str) -> Result<Cluster> {
    Cluster::three(name).service(web().tcp(WEB).udp(DNS).dual_stack()).start()
}

#[test]
fn mistakes_in_objects_are_named_and_disturb_nothing() -> Result<()> {
    let cluster = cluster("bad-objects")?;
    let good = std::fs::read_to_string(cluster.manifests.path().join("web.yaml"))?;
    let write = |file: &'static str, text: String| move |cluster: &Cluster| cluster.manifests.write(file, &text);

    let unknown = write("other.yaml", service("other").tcp(WEB).at(&["10.77.0.110"]).extra("loadBalancerIp: x").yaml());
    complains(&cluster, &["other.yaml", "loadBalancerIp"], || unknown(&cluster))?;

    let same = write("other.yaml", service("other").tcp(WEB).at(&["10.77.0.100"]).yaml());
    complains(&cluster, &["other.yaml", "default/other", "10.77.0.100"], || same(&cluster))?;

    let outside = write("other.yaml", service("other").tcp(WEB).at(&["10.99.0.1"]).yaml());
    complains(&cluster, &["other.yaml", "default/other", "10.99.0.1"], || outside(&cluster))?;

    cluster.manifests.remove("other.yaml")?;
    no_complaints(&cluster)?;

    // The served service itself, first with a mistake, then torn in the middle of a word.
    let mistaken = good.replace("port: 80,", "port: 99999,");
    complains(&cluster, &["web.yaml", "default/web", "port"], || cluster.manifests.write("web.yaml", &mistaken))?;
    let torn = &good[..good.find("loadBalancerIPs").unwrap_or(0) + 4];
    complains(&cluster, &["web.yaml"], || cluster.manifests.write_in_place("web.yaml", torn))?;
    cluster.manifests.write_in_place("web.yaml", &good)?;
    no_complaints(&cluster)
}

#[test]
fn an_emptied_folder_is_taken_for_a_mistake() -> Result<()> {
    let cluster = cluster("empty-folder")?;
    let good = std::fs::read_to_string(cluster.manifests.path().join("web.yaml"))?;
    complains(&cluster, &["manifests"], || {
        cluster.manifests.remove("web.yaml")?;
        cluster.manifests.remove("pool.yaml")
    })?;
    cluster.manifests.write("pool.yaml", POOL)?;
    cluster.manifests.write("web.yaml", &good)?;
    no_complaints(&cluster)
}

/// Restarts n3 in an impossible situation: it must say so in these words; the others must serve on.
fn n3_says(cluster: &Cluster, words: &[&str], start: impl FnOnce() -> Result<()>) -> Result<()> {
    let n3 = cluster.agent("n3")?;
    n3.terminate()?;
    cluster.settle()?;
    let load = cluster.udp_load(cluster.vip4()).start(&cluster.client().ns)?;
    let before = n3.log().len();
    start()?;
    eventually(SETTLE, &format!("n3 says {words:?}"), || {
        let log = n3.log();
        let new = &log[before..];
        ensure!(words.iter().all(|word| new.contains(word)), "{new}");
        Ok(())
    })?;
    throughout(Duration::from_secs(1), "the others own and serve", || {
        let owner = cluster.agreed_owner(cluster.vip4(), &["n1", "n2"])?;
        ensure!(owner != "n3");
        cluster.get(cluster.vip4()).map(drop)
    })?;
    if n3.is_running() {
        n3.kill()?;
    } else {
        n3.wait(Duration::from_secs(1))?;
    }
    let report = load.stop()?;
    ensure!(report.lost == 0, "{report:?}");
    Ok(())
}

#[test]
fn a_missing_interface_and_a_taken_port_are_named() -> Result<()> {
    let cluster = cluster("missing-interface")?;
    let n3 = cluster.agent("n3")?;
    let good = cluster.config("n3")?;

    let mut config = good.clone();
    config.interfaces = vec!["nope0".to_owned()];
    n3.configure(&config)?;
    n3_says(&cluster, &["nope0"], || n3.start())?;

    n3.configure(good)?;
    n3.start()?;
    cluster.settle()?;
    let ns = &cluster.lan.host("n3")?.ns;
    n3_says(&cluster, &["9650", "in use"], || {
        // The listener must live in the node's namespace, and until the agent has tried.
        let taken = ns.run(|| Ok(TcpListener::bind("0.0.0.0:9650")?))?;
        let before = n3.log().len();
        n3.start()?;
        eventually(SETTLE, "n3 notices", || {
            ensure!(n3.log()[before..].contains("in use"));
            Ok(())
        })?;
        drop(taken);
        Ok(())
    })
}

#[test]
fn without_permission_for_bpf_the_agent_says_what_it_lacks() -> Result<()> {
    /// CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF in capability.h.
    const FOR_BPF: &[libc::c_ulong] = &[21, 38, 39];
    let cluster = cluster("no-bpf")?;
    n3_says(&cluster, &["CAP_BPF"], || {
        let n3 = cluster.agent("n3")?;
        n3.withhold(FOR_BPF.iter().copied());
        n3.start()
    })
}

#[test]
fn check_finds_the_line_at_fault() -> Result<()> {
    let cluster = Cluster::three("check").build()?;
    let agent = cluster.agent("n1")?;
    let path = agent.config_path().display().to_string();
    let good = agent.run(&["--check", "--config", &path])?;
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    std::fs::write(&path, "node: n1\ngossip:\n  wacht: {interval: 50ms}\n")?;
    let bad = agent.run(&["--check", "--config", &path])?;
    let said = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(2), "{said}");
    assert!(said.contains("wacht") && said.contains('3'), "the key and its line: {said}");
    Ok(())
}
