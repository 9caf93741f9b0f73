//! Where a program runs: a network namespace with an uplink, and a forwarder as the agent has it, which fills the maps
//! and attaches the programs. They are found by their names on the uplink, so whatever the agent loads is measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use announcer::{
    forward::{
        FlowTable, Forwarder, Labels, Mode, Options, Wanted,
        wanted::{Node, Socket, Targets, Uplink},
    },
    model::{Protocol, ServiceName},
};
use anyhow::{Context, Result, bail, ensure};
use aya::programs::{ProgramFd, ProgramInfo, SchedClassifier, TcAttachType};
use e2e::{cleanup::RunDir, netns::Netns};
use forwarder_ebpf::{Direction, limits, program};
use membership::NodeName;
use nix::{
    mount::{MsFlags, mount},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frame::{Family, Mac, Outcome, Segment, Shape},
    harness::{Harness, Hook, Packets, Ran, Target},
    update::map_bytes,
};

/// The uplink, and its other end.
pub(crate) const UPLINK: &str = "eth0";
pub(crate) const PEER: &str = "peer0";
/// Who sends what comes in.
const GATEWAY: Mac = [2, 0xc7, 0, 0xff, 0, 1];
/// The port of services, and that of pods.
const PORT: u16 = 80;
const POD_PORT: u16 = 8080;

/// What lies behind the bed's services.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behind {
    /// Pods on so many other nodes, of so many together with this one.
    Others(u16),
    /// So many pods of this node.
    Pods(u16),
}

/// A namespace with an uplink, and its other end.
pub(crate) fn namespace() -> Result<Netns> {
    let ns = Netns::new("fwd")?;
    ns.sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
    let mac = mac_of(0).map(|byte| format!("{byte:02x}")).join(":");
    ns.ip(&[
        format!("link add {UPLINK} address {mac} type veth peer name {PEER}"),
        format!("link set {PEER} up"),
        format!("link set {UPLINK} up"),
    ])?;
    Ok(ns)
}

pub(crate) struct Bed {
    forwarder: Forwarder,
    pub(crate) ns: Netns,
    interface: u32,
    behind: Behind,
    /// What the forwarder was told.
    pub(crate) wanted: Wanted,
    programs: BTreeMap<Hook, ProgramFd>,
    _run: RunDir,
}

impl Bed {
    /// Builds it. Fails if the agent knows no such mode.
    pub(crate) fn new(mode: Mode, behind: Behind) -> Result<Self> {
        let ns = namespace()?;
        let run = RunDir::new("fwd")?;
        let pins = run.path().join("bpf");
        std::fs::create_dir_all(&pins)?;
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>).context("a BPF file system")?;
        let interface = ns.run(|| Ok(nix::net::if_::if_nametoindex(UPLINK)?))?;
        let wanted = wanted(interface, behind)?;
        let (forwarder, programs) = ns.run(|| start(mode, pins.join("crier"), &wanted))?;
        Ok(Self { forwarder, ns, interface, behind, wanted, programs, _run: run })
    }

    /// Has the forwarder hold something else; how many writes to maps that took.
    pub(crate) fn apply(&mut self, wanted: &Wanted) -> Result<usize> {
        let forwarder = &mut self.forwarder;
        let applied = self.ns.run(|| Ok(forwarder.apply(wanted, Instant::now())?))?;
        ensure!(applied.limits.is_empty(), "not all fits: {:?}", applied.limits);
        Ok(applied.writes)
    }

    /// The maps of the program that packets meet first, and the bytes each takes.
    pub(crate) fn maps(&self) -> Result<Vec<(String, u64)>> {
        let (_, attached) = self.ns.run(|| Ok(SchedClassifier::query_tcx(UPLINK, TcAttachType::Ingress)?))?;
        let mut maps = Vec::new();
        for id in attached.first().context("nothing is attached")?.map_ids()?.unwrap_or_default() {
            let info = aya::maps::MapInfo::from_id(id)?;
            maps.push((info.name_as_str().unwrap_or_default().to_owned(), map_bytes(&info.fd()?)?));
        }
        Ok(maps)
    }

    /// The forwarder's program.
    pub(crate) fn program(&self, hook: Hook) -> Result<Target<'_>> {
        let fd = self.programs.get(&hook).with_context(|| format!("there is no program at {}", hook.name()))?;
        Ok(Target::Program(fd))
    }

    /// Runs a program as if packets were at the uplink.
    pub(crate) fn run(
        &self,
        harness: &mut Harness,
        hook: Hook,
        target: Target<'_>,
        packets: Packets<'_>,
    ) -> Result<Ran> {
        self.ns.run(|| {
            stay_on_one_cpu()?;
            harness.run(hook, target, self.interface, packets)
        })
    }

    /// Connections begun, as the program has counted them.
    pub(crate) fn begun(&self) -> Result<u64> {
        let counters = self.forwarder.counters()?;
        let inbound = counters.traffic.iter().filter(|((_, direction), _)| *direction == Direction::Inbound);
        Ok(inbound.map(|(_, traffic)| traffic.flows).sum())
    }

    /// The connections that are remembered.
    pub(crate) fn flow_table(&self) -> Option<Arc<FlowTable>> {
        self.forwarder.flow_table()
    }

    /// A client's packets to the service.
    pub(crate) fn to_vip(family: Family, segment: Segment) -> Shape {
        Shape { to: mac_of(0), from: GATEWAY, other: vip(family), to_client: false, segment }
    }

    /// A client's packets to this node itself, which are none of Crier's.
    pub(crate) fn to_node(family: Family) -> Shape {
        Shape { other: address(family, 1, PORT), ..Self::to_vip(family, Segment::Ack) }
    }

    /// What this node itself answers them.
    pub(crate) fn from_node(family: Family) -> Shape {
        Shape { to: GATEWAY, from: mac_of(0), to_client: true, ..Self::to_node(family) }
    }

    /// What the first pod answers.
    pub(crate) fn from_pod(family: Family) -> Shape {
        Shape { other: pod(family, 0), ..Self::from_node(family) }
    }

    /// What must become of a client's packets to the service.
    pub(crate) fn outcome(&self, family: Family) -> Outcome {
        match self.behind {
            Behind::Others(nodes) => Outcome::HandedOn { from: mac_of(0), nodes: (1..nodes).map(mac_of).collect() },
            Behind::Pods(pods) => Outcome::Delivered { pods: (0..pods).map(|number| pod(family, number)).collect() },
        }
    }

    /// What must become of the pods' answers.
    pub(crate) fn reply_outcome(family: Family) -> Outcome {
        Outcome::From(vip(family))
    }
}

/// Room for the flows of the largest case, a quarter full.
const FLOWS: u32 = 1 << 22;

fn start(mode: Mode, pin_dir: PathBuf, wanted: &Wanted) -> Result<(Forwarder, BTreeMap<Hook, ProgramFd>)> {
    let mut forwarder = Forwarder::start(Options { mode, pin_dir, flows: FLOWS, rows: limits::ROWS, nat_ports: None })?;
    let applied = forwarder.apply(wanted, Instant::now())?;
    ensure!(applied.limits.is_empty(), "not all fits: {:?}", applied.limits);
    let mut programs = BTreeMap::new();
    for (hook, direction, name) in
        [(Hook::TcIn, TcAttachType::Ingress, program::INGRESS), (Hook::TcOut, TcAttachType::Egress, program::EGRESS)]
    {
        let (_, attached) =
            SchedClassifier::query_tcx(UPLINK, direction).context("TCX: Linux 6.6 or newer is needed")?;
        let info = attached.into_iter().find(|info| info.name_as_str() == Some(name));
        programs.insert(hook, info.with_context(|| format!("{name} is not attached"))?.fd()?);
    }
    if let Some(fd) = xdp_program()? {
        programs.insert(Hook::Xdp, fd);
    }
    ensure!(mode != Mode::Xdp || programs.contains_key(&Hook::Xdp), "{} is not attached", program::XDP);
    Ok((forwarder, programs))
}

/// The XDP program on the uplink, if it is Crier's.
fn xdp_program() -> Result<Option<ProgramFd>> {
    let output = std::process::Command::new("ip").args(["-j", "link", "show", "dev", UPLINK]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).context("ip -j link")?;
    let Some(id) = links[0]["xdp"]["prog"]["id"].as_u64() else { return Ok(None) };
    for info in aya::programs::loaded_programs() {
        let info: ProgramInfo = info?;
        if u64::from(info.id()) == id {
            return Ok(if info.name_as_str() == Some(program::XDP) { Some(info.fd()?) } else { None });
        }
    }
    bail!("the XDP program {id} is gone")
}

fn wanted(interface: u32, behind: Behind) -> Result<Wanted> {
    let (count, first, local) = match behind {
        Behind::Others(nodes) => (nodes, 1, 0),
        Behind::Pods(pods) => (1, 0, pods),
    };
    let nodes: Vec<NodeName> = (0..count).map(|number| Ok(format!("n{number}").parse()?)).collect::<Result<_>>()?;
    let node = |number: u16| Node { me: number == 0, macs: BTreeMap::from([(interface, mac_of(number))]) };
    let mut services = BTreeMap::new();
    for family in Family::BOTH {
        let name = ServiceName { namespace: "default".to_owned(), name: format!("web-{family}").to_lowercase() };
        let vip = vip(family);
        let nodes = nodes.iter().skip(first).map(|name| (name.clone(), 1)).collect();
        let local = (0..local).map(|number| pod(family, number)).map(|pod| (pod.ip(), pod.port())).collect();
        let targets = targets(name, nodes, local);
        services.insert(Socket { vip: vip.ip(), port: vip.port(), protocol: Protocol::Tcp }, targets);
    }
    Ok(Wanted {
        uplinks: BTreeMap::from([(interface, Uplink { name: UPLINK.to_owned(), mac: mac_of(0) })]),
        nodes: (0..).zip(&nodes).map(|(number, name)| (name.clone(), node(number))).collect(),
        vips: Family::BOTH.into_iter().map(|family| vip(family).ip()).collect::<BTreeSet<_>>(),
        services,
    })
}

/// A service's targets: these nodes with so many pods each, and these pods here. Nothing else is asked of it.
pub(crate) fn targets(service: ServiceName, nodes: BTreeMap<NodeName, u32>, local: BTreeSet<(IpAddr, u16)>) -> Targets {
    Targets {
        labels: Labels { service, port: PORT, protocol: Protocol::Tcp },
        nodes,
        standby: BTreeMap::new(),
        local: local.into_iter().map(|pod| (pod, 1)).collect(),
        translated: Default::default(),
        affinity: 0,
        sources: BTreeSet::new(),
    }
}

/// A node's MAC; this one is number 0.
pub(crate) fn mac_of(node: u16) -> Mac {
    let [high, low] = node.to_be_bytes();
    [2, 0xc7, 0, 1, high, low]
}

fn vip(family: Family) -> SocketAddr {
    address(family, 100, PORT)
}

fn address(family: Family, number: u8, port: u16) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, number)), port),
        Family::V6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())), port),
    }
}

fn pod(family: Family, number: u16) -> SocketAddr {
    let [high, low] = (number + 1).to_be_bytes();
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 78, high, low)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, number + 1)),
    };
    SocketAddr::new(ip, POD_PORT)
}

/// Keeps the calling thread on the last CPU: the tables of other CPUs would be others.
pub(crate) fn stay_on_one_cpu() -> Result<()> {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    stay_on(last)
}

/// Keeps the calling thread on one CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one CPU")
}
