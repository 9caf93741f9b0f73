//! `make demo`: three nodes, a client and six pods on this machine; a VIP moves before your eyes.
//!
//! Configs and manifests are those in `e2e/demo/`. Everything happens in network namespaces that go with the demo,
//! also on Ctrl-C.
#![expect(clippy::disallowed_methods, reason = "edge: shows real agents in real time")]

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    agent::Agent,
    longlived::{Ended, Fate, LongLived},
    scenario::{Cluster, DNS, WEB},
    traffic::{Report, Transport},
};

/// How long any step may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints the story, in colour on a terminal.
struct Narrator {
    colour: bool,
    start: Instant,
}

impl Narrator {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn good(&self, text: impl Into<String>) -> String {
        self.paint("1;32", &text.into())
    }

    fn bad(&self, text: impl Into<String>) -> String {
        self.paint("1;31", &text.into())
    }

    fn name(&self, text: impl Into<String>) -> String {
        self.paint("1;36", &text.into())
    }

    fn step(&self, number: usize, title: &str) {
        println!("\n{}", self.paint("1", &format!("{number}. {title}")));
    }

    fn say(&self, text: &str) {
        println!("   {} {text}", self.paint("2", &format!("{:5.1} s", self.start.elapsed().as_secs_f64())));
    }

    /// Repeats `attempt` until it gives a value; after two seconds shows that something is going on.
    fn wait<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let mut shown = Duration::from_secs(2);
        loop {
            let error = match attempt() {
                Ok(value) => {
                    self.clear_line();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let waited = start.elapsed();
            if waited > PATIENCE {
                self.clear_line();
                return Err(error).with_context(|| format!("waited {} s in vain: {what}", PATIENCE.as_secs()));
            }
            if waited > shown {
                shown += Duration::from_secs(if self.colour { 1 } else { 5 });
                if self.colour {
                    print!("\r           ... {what}, {:.0} s", waited.as_secs_f64());
                    let _ = std::io::stdout().flush();
                } else {
                    self.say(&format!("... {what}, {:.0} s", waited.as_secs_f64()));
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn clear_line(&self) {
        if self.colour {
            print!("\r\x1b[K");
        }
    }
}

fn all_run(cluster: &Cluster) -> Result<()> {
    match cluster.agents.iter().find(|agent| !agent.is_running()) {
        Some(ended) => bail!(
            "{}\n\nThe log above says why. `{} --check --config FILE` checks a config; \
             the configs and manifests are in e2e/demo/.",
            ended.obituary(),
            e2e::agent::binary("crier")?.display(),
        ),
        None => Ok(()),
    }
}

fn members_find_each_other(tell: &Narrator, cluster: &Cluster) -> Result<()> {
    cluster.agents.iter().try_for_each(Agent::start)?;
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    tell.wait("the members find each other", || {
        for agent in &cluster.agents {
            let Ok(status) = agent.status() else { continue };
            let sees: Vec<String> = status.up().into_iter().map(str::to_owned).collect();
            if known.get(&agent.name) != Some(&sees) {
                tell.clear_line();
                tell.say(&format!("{} sees {}", tell.name(&agent.name), sees.join(", ")));
                known.insert(agent.name.clone(), sees);
            }
        }
        if let Err(ended) = all_run(cluster) {
            return Ok(Err(ended));
        }
        ensure!(known.len() == 3 && known.values().all(|sees| sees.len() == 3), "seen so far: {known:?}");
        Ok(Ok(()))
    })?
}

/// The VIPs as the first agent lists them, with their services.
fn vips(cluster: &Cluster) -> Result<Vec<(IpAddr, String)>> {
    let status = cluster.agents[0].status()?;
    Ok(status.vips.into_iter().map(|vip| (vip.address, format!("{}/{}", vip.namespace, vip.service))).collect())
}

fn owners(tell: &Narrator, cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let all: Vec<_> = cluster.agents.iter().map(|agent| agent.name.as_str()).collect();
    tell.wait("each VIP gets an owner", || {
        let vips = vips(cluster)?;
        ensure!(vips.len() == 3, "three VIPs are in e2e/demo/manifests, the agents list {vips:?}");
        vips.iter().try_for_each(|(vip, _)| cluster.agreed_owner(*vip, &all).map(drop))
    })?;
    let mut web = Vec::new();
    for (vip, service) in vips(cluster)? {
        let owner = cluster.agreed_owner(vip, &all)?;
        let mac = cluster.lan.host(&owner)?.mac;
        tell.say(&format!(
            "{vip:<12} of {service:<14} is owned by {}, which answers for it as {mac}",
            tell.name(owner)
        ));
        if service == "default/web" {
            web.push(vip);
        }
    }
    ensure!(web.len() == 2, "service web has an IPv4 and an IPv6 VIP");
    web.sort();
    Ok(web)
}

fn requests(tell: &Narrator, cluster: &Cluster, web: &[IpAddr]) -> Result<()> {
    for vip in web {
        for (transport, port, count) in [(Transport::Tcp, WEB, 3), (Transport::Udp, DNS, 2)] {
            let target = SocketAddr::new(*vip, port);
            tell.wait(&format!("{target} is served"), || cluster.ask(transport, target))?;
            for _ in 0..count {
                let answer = cluster.ask(transport, target)?;
                let name = if transport == Transport::Tcp { "TCP" } else { "UDP" };
                let pod = tell.name(format!("{:5}", answer.pod));
                tell.say(&format!("{name} {target:<18} -> pod {pod} answered; it saw the client as {}", answer.seen));
            }
        }
    }
    let pods = cluster.ask_many(Transport::Tcp, SocketAddr::new(web[0], WEB), 600)?;
    let shares: Vec<_> = pods.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    tell.say(&format!("600 more connections: {}", shares.join(", ")));
    Ok(())
}

/// Cuts the owner off under load: the old owner, the new one, the load's account.
fn cut_the_owner(tell: &Narrator, cluster: &Cluster, vip: IpAddr) -> Result<(String, String, Report)> {
    let all: Vec<_> = cluster.agents.iter().map(|agent| agent.name.as_str()).collect();
    let old = cluster.agreed_owner(vip, &all)?;
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    tell.say("the client sends 1,000 UDP requests a second");
    tell.wait("the load runs", || ensure_true(load.answered() > 500))?;
    cluster.lan.cut(&old)?;
    let cut = Instant::now();
    tell.say(&tell.bad(format!("{old} is cut off: its link stays up, nothing passes, nobody is told")));
    let others: Vec<_> = all.iter().copied().filter(|name| *name != old).collect();
    let new = tell.wait("another node takes over", || {
        let owner = cluster.agreed_owner(vip, &others)?;
        ensure!(owner != old);
        Ok(owner)
    })?;
    tell.say(&format!(
        "{} owns {vip} (all agents agreed {} ms after the cut)",
        tell.name(&new),
        cut.elapsed().as_millis()
    ));
    let answered = load.answered();
    tell.wait("requests are answered again", || ensure_true(load.answered() > answered + 500))?;
    let report = load.stop()?;
    let outage = format!("{:.0} ms", report.outage.as_secs_f64() * 1000.0);
    tell.say(&format!(
        "the client was without answers for {}; {} of {} requests were lost",
        tell.good(outage),
        report.lost,
        report.sent,
    ));
    Ok((old, new, report))
}

fn ensure_true(condition: bool) -> Result<()> {
    ensure!(condition, "not yet");
    Ok(())
}

fn connections_since(tell: &Narrator, cluster: &Cluster, connections: &LongLived, cut: &str) -> Result<()> {
    let pods = connections.pods();
    let before: Vec<_> = pods.iter().map(|pod| connections.records(pod)).collect();
    let elsewhere = |pod: &String| cluster.node_of(pod) != cut;
    tell.wait("the long-lived connections go on", || {
        let alive = pods.iter().zip(&before).filter(|(pod, _)| elsewhere(pod));
        ensure_true(alive.into_iter().all(|(pod, before)| connections.records(pod) > *before + 5))
    })?;
    let on_others = pods.iter().filter(|pod| elsewhere(pod)).count();
    tell.say(&tell.good(format!("all {on_others} connections to pods on other nodes went on: not one broke")));
    let waiting = pods.len() - on_others;
    tell.say(&format!(
        "{waiting} connections lead to pods on {cut} itself; they wait, since their pods cannot be reached"
    ));
    Ok(())
}

fn the_return(tell: &Narrator, cluster: &Cluster, vip: IpAddr, old: &str, new: &str) -> Result<()> {
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    tell.wait("the load runs", || ensure_true(load.answered() > 500))?;
    cluster.lan.heal(old)?;
    tell.say(&format!("{} is connected again", tell.name(old)));
    tell.wait("the members see each other", || {
        for agent in &cluster.agents {
            ensure!(agent.status()?.up().len() == 3, "{} does not see all", agent.name);
        }
        let all: Vec<_> = cluster.agents.iter().map(|agent| agent.name.as_str()).collect();
        ensure!(cluster.agreed_owner(vip, &all)? == new, "{vip} is not {new}'s");
        Ok(())
    })?;
    let answered = load.answered();
    tell.wait("the load goes on", || ensure_true(load.answered() > answered + 500))?;
    let report = load.stop()?;
    tell.say(&format!("all members see each other; {} still owns {vip}: {old} does not take it back", tell.name(new)));
    let lost =
        if report.lost == 0 { tell.good("no request was lost") } else { tell.bad(format!("{} lost", report.lost)) };
    tell.say(&format!("{} requests during the return: {lost}", report.sent));
    Ok(())
}

fn fates(tell: &Narrator, ended: &[Ended]) {
    let survived = ended.iter().filter(|end| end.fate == Fate::Survived).count();
    tell.say(&format!(
        "of {} long-lived connections, {} survived to the end",
        ended.len(),
        tell.good(survived.to_string())
    ));
    for end in ended.iter().filter(|end| end.fate != Fate::Survived) {
        tell.say(&tell.bad(format!("the one to {} did not: {:?}", end.pod, end.fate)));
    }
}

fn demo(tell: &Narrator) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces, which needs root: run `sudo make demo`"
    );
    println!(
        "{}",
        tell.paint("1", "Crier: virtual IPs that survive. Everything below is real and runs on this machine:")
    );
    println!(
        "three nodes with an agent each, a client, two pods behind each node, in network namespaces on one bridge.\n"
    );
    println!("   client c1 ----+---- node n1 ---- pods n1-p1, n1-p2");
    println!("    10.77.0.9    +---- node n2 ---- pods n2-p1, n2-p2");
    println!("     fd77::9     +---- node n3 ---- pods n3-p1, n3-p2");

    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let cluster = Cluster::three("demo").files(files).quiet().build()?;
    println!("\nLook inside, in another terminal, while it runs:\n{}", cluster.lan.enter_hints());

    tell.step(1, "The members find each other (by gossip; there is no API server)");
    members_find_each_other(tell, &cluster)?;
    tell.step(2, "They agree on an owner for each virtual IP");
    let web = owners(tell, &cluster)?;
    tell.step(3, "The client asks; pods on all nodes answer, and see the client's own address");
    requests(tell, &cluster, &web)?;

    tell.step(4, "The owner is cut from the network, without warning");
    let vip = web[0];
    let connections = cluster.long_lived(vip, 12)?;
    tell.say("the client opens 12 long-lived TCP connections, and sends a record on each every 10 ms");
    let (old, new, _) = cut_the_owner(tell, &cluster, vip)?;
    tell.step(5, "What became of the long-lived connections");
    connections_since(tell, &cluster, &connections, &old)?;
    tell.step(6, "The node returns");
    the_return(tell, &cluster, vip, &old, &new)?;
    fates(tell, &connections.finish()?);

    println!("\nDone; nothing of it stays on this machine. `make bench-failover` measures many such cuts.");
    Ok(())
}

fn main() -> ExitCode {
    let tell = Narrator { colour: std::io::stdout().is_terminal(), start: Instant::now() };
    match demo(&tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{} {error:#}", tell.bad("The demo failed:"));
            ExitCode::FAILURE
        }
    }
}
