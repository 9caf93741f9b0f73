//! The contenders: what the node in the middle does.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpLink;
use e2e::{
    agent::{Agent, Config},
    manifests::{self, web},
    observe::eventually,
    pods::{TCP_PORT, UDP_PORT},
    scenario::{Cluster, DNS, SETTLE, WEB},
    topology::{Host, Lan},
};

use crate::harness::Harness;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The VIP that is flooded ([`super::flood`]), on the same ports as the other.
pub(super) const FLOODED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// Where its pods are, which take what comes and say nothing.
const SINK: u16 = 8090;
/// From where it is flooded.
pub(super) const ANYWHERE: [u8; 2] = [198, 18];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Routing,
    Iptables,
    Nftables,
    CrierTc,
    CrierXdp,
}

impl Contender {
    const ALL: [Self; 5] = [Self::Routing, Self::Iptables, Self::Nftables, Self::CrierTc, Self::CrierXdp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Routing => "plain routing",
            Self::Iptables => "iptables DNAT, MASQUERADE, as kube-proxy",
            Self::Nftables => "nftables DNAT by jhash, masquerade",
            Self::CrierTc => "Crier, TC",
            Self::CrierXdp => "Crier, XDP",
        }
    }

    /// Whether it has VIPs at all.
    pub(super) fn balances(self) -> bool {
        self != Self::Routing
    }

    /// `forwarder.mode`, if it is Crier.
    fn mode(self) -> Option<&'static str> {
        match self {
            Self::Routing | Self::Iptables | Self::Nftables => None,
            Self::CrierTc => Some("tc"),
            Self::CrierXdp => Some("xdp"),
        }
    }
}

/// Where clients send.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) udp: Vec<SocketAddr>,
    pub(super) tcp: Vec<SocketAddr>,
}

/// A network, with the contenders that run in it.
pub(super) enum Side {
    /// The kernel's own, one after another.
    Kernel(Box<Lan>),
    /// Agents, `n1`'s in one of its modes.
    Crier(Box<Crier>),
}

/// Agents. What is attached to the switch goes before the network.
pub(super) struct Crier {
    contender: Contender,
    _passes: Option<(XdpLink, Harness)>,
    cluster: Cluster,
}

impl Side {
    /// All networks that contenders in whose names `only` is run in.
    pub(super) fn all(only: &str) -> Result<Vec<Self>> {
        let wanted = || Contender::ALL.into_iter().filter(|contender| contender.name().contains(only));
        let mut sides = Vec::new();
        if wanted().any(|contender| contender.mode().is_none()) {
            sides.push(Self::kernel()?);
        }
        for contender in wanted() {
            let Some(mode) = contender.mode() else { continue };
            match Self::crier(contender, mode) {
                Ok(side) => sides.push(side),
                Err(error) => eprintln!("{} is left out: {error:#}", contender.name()),
            }
        }
        Ok(sides)
    }

    fn kernel() -> Result<Self> {
        let lan = Lan::new().nodes(3).client().build()?;
        prepare(&lan)?;
        let balancer = &lan.nodes[0].host;
        // Plain routing needs a way through the node; of the VIP nobody but the node's rules knows.
        let through: Vec<_> =
            lan.nodes[1..].iter().map(|node| format!("route add {}/32 via {}", node.host.v4, balancer.v4)).collect();
        lan.client().ns.ip(&through)?;
        lan.client().ns.ip(&[format!("neigh add {VIP} lladdr {} dev eth0 nud permanent", balancer.mac)])?;
        lan.client().ns.ip(&[format!("neigh add {FLOODED} lladdr {} dev eth0 nud permanent", balancer.mac)])?;
        // Whoever floods is somewhere behind the client: the stack takes nothing from where it has no way to.
        let [a, b] = ANYWHERE;
        balancer.ns.ip(&[format!("route add {a}.{b}.0.0/15 via {}", lan.client().v4)])?;
        // The many connections of a round are not to fill the table that all namespaces share.
        balancer.ns.output("nft", &["-f", "-"], NFTABLES)?;
        balancer.ns.sysctl(&[
            ("netfilter/nf_conntrack_tcp_timeout_time_wait", "2"),
            ("netfilter/nf_conntrack_tcp_timeout_close_wait", "2"),
            ("netfilter/nf_conntrack_udp_timeout", "2"),
            ("netfilter/nf_conntrack_tcp_timeout_syn_sent", "2"),
        ])?;
        Ok(Self::Kernel(Box::new(lan)))
    }

    /// `n1` owns the VIP, the pods are the others' own addresses.
    fn crier(contender: Contender, mode: &str) -> Result<Self> {
        let service = web().tcp(WEB).udp(DNS);
        let flooded = manifests::service("flooded").tcp(WEB).udp(DNS);
        let cluster = Cluster::three("bench-forward").host_network().forwarder(mode).service(service).service(flooded);
        let mut cluster = cluster.nothing_moves_by_itself().quiet().build()?;
        for name in ["web", "flooded"] {
            cluster.edit(name, |service| service.endpoints.retain(|endpoint| endpoint.node != "n1"))?;
        }
        prepare(&cluster.lan)?;
        let passes = (contender == Contender::CrierXdp).then(|| pass_all(&cluster.lan)).transpose()?;
        for agent in &cluster.agents[1..] {
            // XDP is for what is handed on, which they do not.
            let config = Config { forwarder: "tc".to_owned(), ..cluster.config(&agent.name)?.clone() };
            agent.configure(&config)?;
        }
        let (first, others) = cluster.agents.split_first().context("no agents")?;
        first.start()?;
        eventually(SETTLE, "n1 owns the VIP", || {
            ensure!(first.status()?.owner(cluster.vip4()) == Some("n1"));
            Ok(())
        })?;
        others.iter().try_for_each(Agent::start)?;
        cluster.settle()?;
        ensure!(cluster.owner(cluster.vip4())? == "n1", "n1 does not own the VIP");
        cluster.edit("flooded", |service| *service = service.clone().target(SINK))?;
        for agent in &cluster.agents {
            eventually(SETTLE, "the flooded VIP's pods say nothing", || {
                let backends = agent.status()?.backends;
                let mut flooded = backends.iter().filter(|backend| backend.service == "flooded");
                ensure!(flooded.all(|backend| backend.port == SINK));
                Ok(())
            })?;
        }
        let forwarder = cluster.agents[0].status()?.forwarder;
        ensure!(forwarder.mode == mode, "it is {forwarder:?}");
        // Their places are taken by servers that do nothing but serve.
        cluster.pods.clear();
        Ok(Self::Crier(Box::new(Crier { contender, _passes: passes, cluster })))
    }

    /// Those that run here.
    pub(super) fn contenders(&self, only: &str) -> Vec<Contender> {
        let here = |contender: &Contender| match self {
            Self::Kernel(_) => contender.mode().is_none(),
            Self::Crier(crier) => *contender == crier.contender,
        };
        Contender::ALL.into_iter().filter(here).filter(|contender| contender.name().contains(only)).collect()
    }

    fn lan(&self) -> &Lan {
        match self {
            Self::Kernel(lan) => lan,
            Self::Crier(crier) => &crier.cluster.lan,
        }
    }

    pub(super) fn client(&self) -> &Host {
        self.lan().client()
    }

    pub(super) fn balancer(&self) -> &Host {
        &self.lan().nodes[0].host
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Host> {
        self.lan().nodes[1..].iter().map(|node| &node.host)
    }

    pub(super) fn target(&self, contender: Contender) -> Target {
        let servers = |port: u16| self.servers().map(|host| SocketAddr::new(host.v4.into(), port)).collect();
        match contender {
            Contender::Routing => Target { udp: servers(UDP_PORT), tcp: servers(TCP_PORT) },
            _ => Target { udp: vec![(VIP, DNS).into()], tcp: vec![(VIP, WEB).into()] },
        }
    }

    /// Makes the node in the middle what the contender is.
    pub(super) fn put(&mut self, contender: Contender) -> Result<()> {
        let Self::Kernel(lan) = self else { return Ok(()) };
        let node = &lan.nodes[0].host.ns;
        node.output("nft", &["flush", "ruleset"], "")?;
        match contender {
            Contender::Iptables => node.output("iptables-restore", &[], &iptables(lan))?,
            Contender::Nftables => node.output("nft", &["-f", "-"], NFTABLES)?,
            Contender::Routing | Contender::CrierTc | Contender::CrierXdp => String::new(),
        };
        Ok(())
    }
}

/// Puts an XDP program that does nothing on the switch's port to `n1`: a veth takes frames that XDP sends only where its
/// other end has a program as well.
fn pass_all(lan: &Lan) -> Result<(XdpLink, Harness)> {
    let mut harness = Harness::load()?;
    let link = lan.switch().run(|| harness.attach("null_xdp", "n1"))?;
    Ok((link, harness))
}

/// As between machines: whole packets with their checksums. Without the rules that the testbed's nodes have for pods.
fn prepare(lan: &Lan) -> Result<()> {
    for host in lan.nodes.iter().map(|node| &node.host).chain([lan.client()]) {
        host.ns.output("ethtool", &["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"], "")?;
        host.ns.output("nft", &["flush", "ruleset"], "")?;
    }
    for node in &lan.nodes[1..] {
        node.host.ns.output("nft", &["-f", "-"], &sink())?;
    }
    lan.client().ns.sysctl(&[("ipv4/ip_local_port_range", "1024 65535")])
}

/// As kube-proxy writes them for a service with two endpoints.
fn iptables(lan: &Lan) -> String {
    let targets = [
        ("tcp", VIP, WEB, TCP_PORT),
        ("udp", VIP, DNS, UDP_PORT),
        ("tcp", FLOODED, WEB, SINK),
        ("udp", FLOODED, DNS, SINK),
    ];
    let mut rules = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         -A PREROUTING -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    for (protocol, vip, port, target) in targets {
        let (service, external) = (format!("KUBE-SVC-{protocol}{target}"), format!("KUBE-EXT-{protocol}{target}"));
        rules += &format!(":{service} - [0:0]\n:{external} - [0:0]\n");
        rules += &format!("-A KUBE-SERVICES -d {vip}/32 -p {protocol} -m {protocol} --dport {port} -j {external}\n");
        rules += &format!("-A {external} -j KUBE-MARK-MASQ\n-A {external} -j {service}\n");
        for (number, node) in lan.nodes[1..].iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{protocol}{target}-{number}");
            let chance = if number == 0 { "-m statistic --mode random --probability 0.5 " } else { "" };
            rules += &format!(":{endpoint} - [0:0]\n-A {service} {chance}-j {endpoint}\n");
            rules += &format!("-A {endpoint} -s {}/32 -j KUBE-MARK-MASQ\n", node.host.v4);
            rules += &format!(
                "-A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {}:{target}\n",
                node.host.v4
            );
        }
    }
    rules + "COMMIT\n"
}

/// Rules by which the flooded VIP's pods take what comes before anything is made of it.
fn sink() -> String {
    format!(
        "table ip sink {{\nchain in {{\ntype filter hook prerouting priority raw\n\
         tcp dport {SINK} counter drop\nudp dport {SINK} counter drop\n}}\n}}\n"
    )
}

/// How many packets came to a node's flooded pods so far.
pub(super) fn sunk(host: &Host) -> Result<u64> {
    let rules = host.ns.output("nft", &["list", "table", "ip", "sink"], "")?;
    let counts = rules.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next());
    counts.map(|count| count.parse::<u64>().with_context(|| format!("a counter of {count}"))).sum()
}

const NFTABLES: &str = "
table ip balance {
  chain in {
    type nat hook prerouting priority dstnat
    ip daddr 10.77.0.100 tcp dport 80 dnat ip to jhash ip saddr . tcp sport mod 2 map { 0 : 10.77.0.2, 1 : 10.77.0.3 } : 8080
    ip daddr 10.77.0.101 tcp dport 80 dnat ip to jhash ip saddr . tcp sport mod 2 map { 0 : 10.77.0.2, 1 : 10.77.0.3 } : 8090
    ip daddr 10.77.0.100 udp dport 5353 dnat ip to jhash ip saddr . udp sport mod 2 map { 0 : 10.77.0.2, 1 : 10.77.0.3 } : 5353
    ip daddr 10.77.0.101 udp dport 5353 dnat ip to jhash ip saddr . udp sport mod 2 map { 0 : 10.77.0.2, 1 : 10.77.0.3 } : 8090
  }
  chain out {
    type nat hook postrouting priority srcnat
    ct status dnat masquerade
  }
}
";

/// How long a connection may take before it counts as broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
