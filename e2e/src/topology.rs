//! The network: hosts on one bridge, and pods routed behind the nodes as a CNI would.
//!
//! ```text
//!   sw: br0 ---- n1 eth0 10.77.0.1  fd77::1    02:c7:00:00:00:01 ---- n1-p1 10.78.1.11  fd78:1::11
//!        |                                                       ---- n1-p2 10.78.1.12  fd78:1::12
//!        +------ n2 ...
//!        +------ c1 eth0 10.77.0.9  fd77::9    02:c7:00:00:00:09   (the client: offloads on, routes to all pods)
//!        +------ api eth0 10.77.0.10 fd77::a   02:c7:00:00:00:0a   (where there is a Kubernetes API server)
//! ```
//! A bridge port has the name of its host. The switch is as plain as a cheap one: no spanning tree, no snooping.
//! Nodes forward, masquerade what pods send out of the cluster, and drop what conntrack calls invalid, as
//! kube-proxy and CNIs do: a forwarder that upsets conntrack fails here as it would there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};

use crate::{faults::FaultPlan, netns::Netns};

/// A hardware address; prints as `02:c7:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The client's host number.
const CLIENT: u8 = 9;
/// The host number of the API server.
const API_SERVER: u8 = 10;
/// The number of a node's first pod, less one.
const FIRST_POD: u8 = 10;

/// A namespace with addresses: a node, the client or a pod.
#[derive(Debug)]
pub struct Host {
    /// `n1`, `c1`, `n1-p1`; for those on the bridge also the name of their bridge port.
    pub name: String,
    /// Where it lives.
    pub ns: Arc<Netns>,
    /// The hardware address of its eth0.
    pub mac: Mac,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its global IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// Both addresses.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A node and the pods behind it.
#[derive(Debug)]
pub struct Node {
    /// The node itself.
    pub host: Host,
    /// Its pods.
    pub pods: Vec<Host>,
}

/// A built network; everything goes on Drop.
#[derive(Debug)]
pub struct Lan {
    /// Nodes, `n1` first.
    pub nodes: Vec<Node>,
    /// The client, if there is one.
    client: Option<Host>,
    /// The API server's host, if there is one.
    api: Option<Host>,
    pub(crate) switch: Netns,
    pub(crate) faults: Mutex<FaultPlan>,
}

/// What to build; see [`Lan::new`].
#[derive(Debug, Clone)]
pub struct LanBuilder {
    nodes: u8,
    pods: u8,
    client: bool,
    api: bool,
}

impl Lan {
    /// Begins a network without hosts.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "a builder reads as one sentence: Lan::new(..).nodes(3).build()")]
    pub fn new() -> LanBuilder {
        LanBuilder { nodes: 0, pods: 0, client: false, api: false }
    }

    /// The client.
    ///
    /// # Panics
    /// When the network was built without one.
    #[must_use]
    pub fn client(&self) -> &Host {
        #[expect(clippy::expect_used, reason = "a test that asks for a client it did not build is wrong itself")]
        self.client.as_ref().expect("this network was built without .client()")
    }

    /// The switch: a bridge whose ports have the names of their hosts.
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// A host on the bridge by name: a node, `c1`, `api`.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts().find(|host| host.name == name).with_context(|| format!("there is no host {name}"))
    }

    /// All pods, of `n1` first.
    pub fn pods(&self) -> impl Iterator<Item = &Host> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// The names of all hosts on the bridge.
    #[must_use]
    pub fn host_names(&self) -> Vec<String> {
        self.hosts().map(|host| host.name.clone()).collect()
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.nodes.iter().map(|node| &node.host).chain(&self.client).chain(&self.api)
    }

    /// One line a namespace, on how to look inside; for failed tests and curious people.
    #[must_use]
    pub fn enter_hints(&self) -> String {
        let nodes = self.nodes.iter().flat_map(|node| std::iter::once(&node.host).chain(&node.pods));
        let hosts = nodes.chain(&self.client).chain(&self.api);
        hosts.map(|host| format!("{:8} {}\n", host.name, host.ns.enter_hint())).collect()
    }
}

impl LanBuilder {
    /// So many nodes, `n1` to `n<count>`; at most 8.
    #[must_use]
    pub fn nodes(mut self, count: u8) -> Self {
        self.nodes = count.min(CLIENT - 1);
        self
    }

    /// With a client, `c1`.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    /// With a host for a [Kubernetes API server](crate::kubernetes), `api`.
    #[must_use]
    pub fn api_server(mut self) -> Self {
        self.api = true;
        self
    }

    /// So many pods behind each node.
    #[must_use]
    pub fn pods(mut self, per_node: u8) -> Self {
        self.pods = per_node;
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// Without root, or when `ip` or `nft` is missing or fails.
    pub fn build(&self) -> Result<Lan> {
        let switch = build_switch()?;
        let mut nodes = Vec::new();
        for n in 1..=self.nodes {
            let host = build_host(&switch, format!("n{n}"), n, true)?;
            let pods = (1..=self.pods).map(|p| build_pod(&host, n, p)).collect::<Result<Vec<_>>>()?;
            host.ns.ip(&self.routes(Some(n)))?;
            host.ns.output("nft", &["-f", "-"], NODE_RULES)?;
            nodes.push(Node { host, pods });
        }
        let client = self.client.then(|| self.build_outsider(&switch, "c1", CLIENT)).transpose()?;
        let api = self.api.then(|| self.build_outsider(&switch, "api", API_SERVER)).transpose()?;
        Ok(Lan { nodes, client, api, switch, faults: Mutex::default() })
    }

    /// A host that is no node, and reaches all pods.
    fn build_outsider(&self, switch: &Netns, name: &str, number: u8) -> Result<Host> {
        let host = build_host(switch, name.to_owned(), number, false)?;
        host.ns.ip(&self.routes(None))?;
        Ok(host)
    }

    /// Routes to the pods of all nodes but `own`.
    fn routes(&self, own: Option<u8>) -> Vec<String> {
        let others = (1..=self.nodes).filter(|n| Some(*n) != own);
        others
            .flat_map(|n| {
                [format!("route add 10.78.{n}.0/24 via 10.77.0.{n}"), format!("route add fd78:{n}::/64 via fd77::{n}")]
            })
            .collect()
    }
}

/// As kube-proxy and CNIs have them. The priority of the drop is that of iptables' filter table.
const NODE_RULES: &str = "
table ip cni {
  chain leave {
    type nat hook postrouting priority srcnat
    ip saddr 10.78.0.0/16 ip daddr != 10.78.0.0/16 oifname eth0 masquerade
  }
}
table ip6 cni {
  chain leave {
    type nat hook postrouting priority srcnat
    ip6 saddr fd78::/16 ip6 daddr != fd78::/16 oifname eth0 masquerade
  }
}
table inet kube {
  chain through {
    type filter hook forward priority filter
    ct state invalid counter drop
  }
}
";

fn build_switch() -> Result<Netns> {
    let switch = Netns::new("sw")?;
    switch.ip(&[
        "link set lo up".to_owned(),
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
        "link set br0 up".to_owned(),
    ])?;
    // Bridged frames must not meet a firewall that the machine's own namespace may hand down.
    let _ = switch.sysctl(&[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")]);
    Ok(switch)
}

/// Duplicate address detection would take a second or two of every test, and router advertisements are nobody's.
const HOST_SYSCTLS: [(&str, &str); 5] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
];

/// systemd sets rp_filter to 2. Redirects are off as every guide for such nodes asks: owner and pod share a segment.
const NODE_SYSCTLS: [(&str, &str); 7] = [
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv4/conf/default/rp_filter", "2"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
];

fn build_host(switch: &Netns, name: String, number: u8, forwards: bool) -> Result<Host> {
    let ns = Arc::new(Netns::new(&name)?);
    ns.sysctl(&HOST_SYSCTLS)?;
    if forwards {
        ns.sysctl(&NODE_SYSCTLS)?;
    }
    let mac = Mac([2, 0xc7, 0, 0, 0, number]);
    let (v4, v6) = (Ipv4Addr::new(10, 77, 0, number), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()));
    ns.ip(&[
        "link set lo up".to_owned(),
        format!("link add eth0 address {mac} type veth peer name {name} netns {}", switch.name()),
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
    ])?;
    switch.ip(&[format!("link set {name} master br0 up")])?;
    Ok(Host { name, ns, mac, v4, v6 })
}

fn build_pod(node: &Host, n: u8, p: u8) -> Result<Host> {
    let name = format!("n{n}-p{p}");
    let ns = Arc::new(Netns::new(&name)?);
    ns.sysctl(&HOST_SYSCTLS)?;
    let mac = Mac([2, 0xc7, 0, 1, n, p]);
    let number = FIRST_POD + p;
    // Written as a decimal in both families, so that n1-p1 is ...11 to the reader.
    let suffix = u16::from_str_radix(&number.to_string(), 16)?;
    let (v4, v6) = (Ipv4Addr::new(10, 78, n, number), Ipv6Addr::new(0xfd78, n.into(), 0, 0, 0, 0, 0, suffix));
    node.ns.ip(&[
        format!("link add pod{p} type veth peer name eth0 address {mac} netns {}", ns.name()),
        format!("link set pod{p} up"),
        format!("addr add 10.78.{n}.1/32 dev pod{p}"),
        format!("addr add fe80::1/64 dev pod{p} nodad"),
        format!("route add {v4}/32 dev pod{p}"),
        format!("route add {v6}/128 dev pod{p}"),
    ])?;
    ns.ip(&[
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add {v4}/32 dev eth0"),
        format!("addr add {v6}/128 dev eth0 nodad"),
        format!("route add 10.78.{n}.1 dev eth0"),
        format!("route add default via 10.78.{n}.1"),
        "route add ::/0 via fe80::1 dev eth0".to_owned(),
    ])?;
    Ok(Host { name, ns, mac, v4, v6 })
}
