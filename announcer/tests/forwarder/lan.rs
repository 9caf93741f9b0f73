//! A segment of hosts as network namespaces: a client, nodes, and a pod routed behind each node, as a CNI would.
//! Everything has a unique name and goes with the value, also on panic.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace.
pub(crate) struct Host {
    name: String,
}

impl Host {
    fn new(name: String) -> Self {
        ip(&format!("netns add {name}"));
        let host = Self { name };
        host.ip("link set lo up");
        host
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs `tc` in it.
    pub(crate) fn tc(&self, arguments: &str) -> String {
        command("tc", &format!("-n {} {arguments}", self.name))
    }

    /// Runs a closure on a thread inside it; sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let netns = File::open(format!("/run/netns/{}", self.name)).unwrap();
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The MAC of an interface in it.
    pub(crate) fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.ip(&format!("-br link show {interface}"));
        let mac = text.split_whitespace().nth(2).unwrap();
        let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    /// The index of an interface in it.
    pub(crate) fn index(&self, interface: &'static str) -> u32 {
        self.run(move || nix::net::if_::if_nametoindex(interface).unwrap())
    }

    /// Makes the host fill in checksums before a frame leaves by the interface, so that its receiver verifies them.
    pub(crate) fn checksum_in_software(&self, interface: &'static str) {
        const ETHTOOL_STXCSUM: u32 = 0x17;
        self.switch_off(interface, ETHTOOL_STXCSUM);
    }

    /// Makes the host put VLAN tags into frames before they leave by the interface.
    pub(crate) fn tag_in_software(&self, interface: &'static str) {
        const ETHTOOL_SFLAGS: u32 = 0x26;
        self.switch_off(interface, ETHTOOL_SFLAGS);
    }

    /// Switches off what an interface does for its host.
    fn switch_off(&self, interface: &'static str, what: u32) {
        let inside = || {
            use std::os::fd::AsRawFd;

            const SIOCETHTOOL: u64 = 0x8946;
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut request = [what, 0];
            // SAFETY: all zero is a value of this plain C structure.
            let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = from as libc::c_char;
            }
            ifreq.ifr_ifru.ifru_data = (&raw mut request).cast();
            // SAFETY: the request is an ethtool_value, which lives until the call returns.
            let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut ifreq) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        };
        self.run(inside);
    }

    /// Makes it send a VIP's packets to a MAC.
    fn announce(&self, vip: IpAddr, mac: [u8; 6]) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"));
    }

    fn sysctl(&self, setting: &str) {
        let (path, value) = setting.split_once('=').unwrap();
        let path = format!("/proc/sys/{path}");
        self.run(move || std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// The segment 10.77.0.0/24, fd77::/64: the client is .9, node n is .1n; its pod is 10.77.(100+n).2.
pub(crate) struct Lan {
    pub(crate) client: Host,
    pub(crate) nodes: Vec<Host>,
    pub(crate) pods: Vec<Host>,
    pub(crate) switch: Host,
}

impl Lan {
    pub(crate) fn new(nodes: u8) -> Self {
        let prefix = format!("cr{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let switch = Host::new(format!("{prefix}s"));
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let client = Host::new(format!("{prefix}c"));
        plug(&switch, &client, "c", 9);
        let mut lan = Self { client, nodes: Vec::new(), pods: Vec::new(), switch };
        for n in 1..=nodes {
            let node = Host::new(format!("{prefix}n{n}"));
            for setting in ["net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv4/conf/all/rp_filter=0"]
            {
                node.sysctl(setting);
            }
            plug(&lan.switch, &node, &format!("n{n}"), 10 + n);
            let pod = Host::new(format!("{prefix}p{n}"));
            node.ip(&format!("link add pod0 type veth peer name eth0 netns {}", pod.name));
            node.ip(&format!("addr add 10.77.{}.1/24 dev pod0", 100 + n));
            node.ip(&format!("addr add fd77:{n}::1/64 dev pod0 nodad"));
            node.ip("link set pod0 up");
            pod.ip(&format!("addr add {}/24 dev eth0", pod_v4(n)));
            pod.ip(&format!("addr add {}/64 dev eth0 nodad", pod_v6(n)));
            pod.ip("link set eth0 up");
            pod.ip(&format!("route add default via 10.77.{}.1", 100 + n));
            pod.ip(&format!("-6 route add default via fd77:{n}::1"));
            lan.nodes.push(node);
            lan.pods.push(pod);
        }
        lan
    }

    /// Another host on the segment, without any of Crier's programs.
    pub(crate) fn neighbour(&self, number: u8) -> Host {
        let host = Host::new(format!("cr{}x{}h", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        plug(&self.switch, &host, &format!("h{number}"), number);
        host
    }

    /// Makes the client send a VIP's packets to a node, as an announcement would.
    pub(crate) fn announce(&self, vip: IpAddr, node: usize) {
        self.client.announce(vip, self.nodes[node].mac("eth0"));
    }
}

impl Lan {
    /// A second segment, 10.78.0.0/24 and fd78::/64, on which client and nodes are with `eth1` and the same numbers.
    pub(crate) fn second_segment(&self) {
        self.switch.ip("link add br1 type bridge");
        self.switch.ip("link set br1 up");
        let numbers = (0..self.nodes.len()).map(|n| 11 + n);
        for (host, number) in [(&self.client, 9)].into_iter().chain(self.nodes.iter().zip(numbers)) {
            self.switch.ip(&format!("link add s{number} type veth peer name eth1 netns {}", host.name));
            self.switch.ip(&format!("link set s{number} master br1 up"));
            host.ip(&format!("addr add 10.78.0.{number}/24 dev eth1"));
            host.ip(&format!("addr add fd78::{number}/64 dev eth1 nodad"));
            host.ip("link set eth1 up");
            host.sysctl("net/ipv4/conf/all/rp_filter=0");
        }
    }
}

/// A client 10.99.0.9, fd99::9 behind a router, .50 on the segment.
pub(crate) struct Far {
    pub(crate) client: Host,
    router: Host,
}

impl Far {
    /// Makes the router send a VIP's packets to a node.
    pub(crate) fn announce(&self, vip: IpAddr, node: [u8; 6]) {
        self.router.announce(vip, node);
    }
}

impl Lan {
    /// Behind the router packets may have `mtu` bytes only on their way to the client, who does not know.
    pub(crate) fn far_client(&self, mtu: u16) -> Far {
        let prefix = format!("cr{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (router, client) = (Host::new(format!("{prefix}r")), Host::new(format!("{prefix}f")));
        for setting in ["net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"] {
            router.sysctl(setting);
        }
        plug(&self.switch, &router, "r", 50);
        router.ip(&format!("link add far0 type veth peer name eth0 netns {}", client.name));
        router.ip(&format!("link set far0 mtu {mtu}"));
        for (host, interface, number) in [(&router, "far0", 1), (&client, "eth0", 9)] {
            host.ip(&format!("addr add 10.99.0.{number}/24 dev {interface}"));
            host.ip(&format!("addr add fd99::{number}/64 dev {interface} nodad"));
            host.ip(&format!("link set {interface} up"));
        }
        // Its own packets pass; it tells servers that it takes larger ones.
        client.ip(&format!("route add default via 10.99.0.1 mtu {mtu} advmss 1460"));
        client.ip(&format!("-6 route add default via fd99::1 mtu {mtu} advmss 1440"));
        for node in &self.nodes {
            node.ip("route add 10.99.0.0/24 via 10.77.0.50");
            node.ip("-6 route add fd99::/64 via fd77::50");
        }
        Far { client, router }
    }
}

pub(crate) fn pod_v4(n: u8) -> IpAddr {
    IpAddr::from([10, 77, 100 + n, 2])
}

pub(crate) fn pod_v6(n: u8) -> IpAddr {
    format!("fd77:{n}::2").parse().unwrap()
}

pub(crate) fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn plug(switch: &Host, host: &Host, port: &str, number: u8) {
    switch.ip(&format!("link add {port} type veth peer name eth0 netns {}", host.name));
    switch.ip(&format!("link set {port} master br0 up"));
    host.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
    host.ip(&format!("addr add fd77::{number}/64 dev eth0 nodad"));
    host.ip("link set eth0 up");
}

fn ip(arguments: &str) -> String {
    command("ip", arguments)
}

fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
