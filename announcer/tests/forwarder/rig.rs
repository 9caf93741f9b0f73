//! Forwarders on the nodes of a [`Lan`], and servers in its pods that say who they are and whom they see.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::RangeInclusive,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use announcer::forward::{
    Applied, Counters, Forwarder, Labels, Mode, Options, Wanted, detach_all,
    wanted::{Node, Socket, Targets, Uplink},
};
use announcer::model::{Protocol, ServiceName};
use aya::{
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use forwarder_ebpf::{
    Flow, FlowStates,
    describe::Text,
    limits::{self, MIN_FLOWS},
    table::{State, WAYS},
};
use membership::NodeName;

use crate::lan::{Host, Lan};

pub(crate) const VIP4: &str = "10.77.0.100";
pub(crate) const VIP6: &str = "fd77::100";

pub(crate) fn vip4() -> IpAddr {
    VIP4.parse().unwrap()
}

pub(crate) fn vip6() -> IpAddr {
    VIP6.parse().unwrap()
}

pub(crate) fn name(n: usize) -> NodeName {
    format!("n{}", n + 1).parse().unwrap()
}

/// A node's forwarder.
pub(crate) struct Agent {
    pub(crate) forwarder: Forwarder,
    pub(crate) pins: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_in(host, Mode::Auto)
    }

    pub(crate) fn start_in(host: &Host, mode: Mode) -> Self {
        Self::start_with(host, mode, MIN_FLOWS)
    }

    pub(crate) fn start_with(host: &Host, mode: Mode, flows: u32) -> Self {
        let pins = tempfile::Builder::new().prefix("crpins").tempdir().unwrap();
        Self { forwarder: Self::open(host, pins.path().to_owned(), mode, flows), pins }
    }

    /// With XDP, and room for another number of tables' rows.
    pub(crate) fn start_with_rows(host: &Host, rows: u32) -> Self {
        let pins = tempfile::Builder::new().prefix("crpins").tempdir().unwrap();
        let options =
            Options { mode: Mode::Xdp, pin_dir: pins.path().to_owned(), flows: MIN_FLOWS, rows, nat_ports: None };
        Self { forwarder: host.run(|| Forwarder::start(options).unwrap()), pins }
    }

    fn open(host: &Host, pin_dir: PathBuf, mode: Mode, flows: u32) -> Forwarder {
        host.run(|| Forwarder::start(Options { mode, pin_dir, flows, rows: limits::ROWS, nat_ports: None }).unwrap())
    }

    /// With these ports alone for connections to translated backends.
    pub(crate) fn start_with_ports(host: &Host, ports: RangeInclusive<u16>) -> Self {
        let pins = tempfile::Builder::new().prefix("crpins").tempdir().unwrap();
        let pin_dir = pins.path().to_owned();
        let options =
            Options { mode: Mode::Auto, pin_dir, flows: MIN_FLOWS, rows: limits::ROWS, nat_ports: Some(ports) };
        Self { forwarder: host.run(|| Forwarder::start(options).unwrap()), pins }
    }

    /// As if the agent was killed and started again.
    pub(crate) fn restart(&mut self, host: &Host) {
        self.restart_in(host, Mode::Auto);
    }

    /// The same, with another mode from now on.
    pub(crate) fn restart_in(&mut self, host: &Host, mode: Mode) {
        self.forwarder = Self::open(host, self.pins.path().to_owned(), mode, MIN_FLOWS);
    }

    /// The same, with room for another number of flows.
    pub(crate) fn restart_with(&mut self, host: &Host, flows: u32) {
        self.forwarder = Self::open(host, self.pins.path().to_owned(), Mode::Auto, flows);
    }

    /// As if the agent was killed: its programs go on.
    pub(crate) fn kill(&mut self) {
        let off = Options {
            mode: Mode::Off,
            pin_dir: "/nonexistent/crier".into(),
            flows: MIN_FLOWS,
            rows: limits::ROWS,
            nat_ports: None,
        };
        self.forwarder = Forwarder::start(off).unwrap();
    }

    pub(crate) fn apply(&mut self, host: &Host, wanted: &Wanted) {
        self.try_apply(host, wanted);
    }

    /// The same; what it took, and what did not fit.
    pub(crate) fn try_apply(&mut self, host: &Host, wanted: &Wanted) -> Applied {
        host.run(|| self.forwarder.apply(wanted, Instant::now()).unwrap())
    }

    /// Applies what cannot be applied wholly; why not.
    pub(crate) fn fails_to_apply(&mut self, host: &Host, wanted: &Wanted) -> String {
        host.run(|| self.forwarder.apply(wanted, Instant::now()).unwrap_err().to_string())
    }

    /// The same, as if at another time.
    pub(crate) fn apply_at(&mut self, host: &Host, wanted: &Wanted, now: Instant) {
        host.run(|| self.forwarder.apply(wanted, now).unwrap());
    }

    pub(crate) fn counters(&self) -> Counters {
        self.forwarder.counters().unwrap()
    }

    /// The connections that the kernel program remembers.
    pub(crate) fn flows(&self) -> Vec<Entry> {
        let (flows, states) = (self.pinned::<Flow>("flows"), self.pinned::<FlowStates>("states"));
        let buckets = (0..states.len()).map(|bucket| states.get(&bucket, 0).unwrap());
        let words = buckets.flat_map(|bucket| bucket.states).zip(0..);
        let used = words.filter(|(word, _)| *word & State::FORWARD != 0);
        used.map(|(word, place)| Entry { flow: flows.get(&place, 0).unwrap(), state: State(word), place }).collect()
    }

    /// Changes every connection that the kernel program remembers.
    pub(crate) fn edit_flows(&self, edit: impl Fn(&mut Entry)) {
        let (mut flows, mut states) = (self.pinned::<Flow>("flows"), self.pinned::<FlowStates>("states"));
        for mut entry in self.flows() {
            edit(&mut entry);
            let mut bucket = states.get(&(entry.place / WAYS), 0).unwrap();
            bucket.states[(entry.place % WAYS) as usize] = entry.state.heard(entry.flow.seen).0;
            flows.set(entry.place, entry.flow, 0).unwrap();
            states.set(entry.place / WAYS, bucket, 0).unwrap();
        }
    }

    /// Puts flows of nobody's, heard now, into every free place.
    pub(crate) fn fill(&self, edit: impl Fn(State) -> State) {
        let now = self.flows().iter().map(|entry| entry.flow.seen).max().unwrap();
        let mut states = self.pinned::<FlowStates>("states");
        for place in 0..states.len() {
            let mut bucket = states.get(&place, 0).unwrap();
            for word in bucket.states.iter_mut().filter(|word| **word == 0) {
                *word = edit(State(State::REVERSE)).heard(now).0;
            }
            states.set(place, bucket, 0).unwrap();
        }
    }

    /// Enters so many flows like one that is there, of other clients, every other of them half-open.
    pub(crate) fn multiply(&self, count: u32) {
        let template = self.flows()[0];
        let (mut flows, mut states) = (self.pinned::<Flow>("flows"), self.pinned::<FlowStates>("states"));
        let mut entered = 0;
        for at in 0..states.len() {
            let mut bucket = states.get(&at, 0).unwrap();
            for (word, way) in bucket.states.iter_mut().zip(0..).filter(|(word, _)| **word == 0) {
                if entered == count {
                    break;
                }
                let mut flow = template.flow;
                flow.client[13..].copy_from_slice(&entered.to_be_bytes()[1..]);
                let half_open = if entered % 2 == 0 { 0 } else { State::HALF_OPEN };
                *word = template.state.with(half_open, State::HALF_OPEN).0;
                flows.set(at * WAYS + way, flow, 0).unwrap();
                entered += 1;
            }
            states.set(at, bucket, 0).unwrap();
        }
        assert_eq!(entered, count);
    }

    /// Makes what the maps look like a riddle to successors.
    pub(crate) fn spoil_description(&self) {
        self.pinned::<Text>("layout").set(0, [b'?'; _], 0).unwrap();
    }

    /// The pins of that kind: one, but while a successor takes over.
    pub(crate) fn pins_of(&self, kind: &str) -> Vec<PathBuf> {
        let pins = std::fs::read_dir(self.pins.path()).unwrap().map(|pin| pin.unwrap());
        let own = pins.filter(|pin| pin.file_name().to_string_lossy().starts_with(&format!("{kind}_")));
        own.map(|pin| pin.path()).collect()
    }

    fn pinned<V: aya::Pod>(&self, kind: &str) -> Array<MapData, V> {
        let pins = self.pins_of(kind);
        assert_eq!(pins.len(), 1, "{pins:?}");
        Array::try_from(Map::Array(MapData::from_pin(&pins[0]).unwrap())).unwrap()
    }
}

/// A connection as the kernel program remembers it.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) flow: Flow,
    pub(crate) state: State,
    place: u32,
}

impl Entry {
    /// Closed by the client, by the pod.
    pub(crate) fn closed(&self) -> [bool; 2] {
        [self.state.has(State::BY_CLIENT), self.state.has(State::BY_POD)]
    }

    /// As if the client had been silent for so many seconds more.
    pub(crate) fn age(&mut self, seconds: u32) {
        self.flow.seen = self.flow.seen.wrapping_sub(seconds);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = detach_all(self.pins.path())
            && !thread::panicking()
        {
            panic!("pins are left: {error}");
        }
    }
}

/// How many programs are attached to a node's uplink, inbound and outbound: by TCX, or by clsact on a kernel without.
pub(crate) fn attached(host: &Host) -> [usize; 2] {
    let filters = |direction| host.tc(&format!("filter show dev eth0 {direction}")).matches(" handle ").count();
    let count = |direction, name| match host.run(|| SchedClassifier::query_tcx("eth0", direction)) {
        Ok((_, programs)) => programs.len(),
        Err(_) => filters(name),
    };
    [count(TcAttachType::Ingress, "ingress"), count(TcAttachType::Egress, "egress")]
}

/// What node `me` wants: every node of the lan, and no service yet.
pub(crate) fn nodes(lan: &Lan, me: usize) -> Wanted {
    let uplink = lan.nodes[me].index("eth0");
    let node = |(n, host): (usize, &Host)| (name(n), Node { me: n == me, macs: [(uplink, host.mac("eth0"))].into() });
    Wanted {
        uplinks: [(uplink, Uplink { name: "eth0".into(), mac: lan.nodes[me].mac("eth0") })].into(),
        nodes: lan.nodes.iter().enumerate().map(node).collect(),
        ..Wanted::default()
    }
}

/// Adds a service served by `serving` nodes, with this node's pods.
pub(crate) fn serve(wanted: &mut Wanted, vip: IpAddr, protocol: Protocol, serving: &[usize], local: &[SocketAddr]) {
    serve_at(wanted, vip, 80, protocol, serving, local);
}

/// The same on another port.
pub(crate) fn serve_at(
    wanted: &mut Wanted,
    vip: IpAddr,
    port: u16,
    protocol: Protocol,
    serving: &[usize],
    local: &[SocketAddr],
) {
    let service = ServiceName { namespace: "default".into(), name: "web".into() };
    wanted.vips.insert(vip);
    wanted.services.insert(
        Socket { vip, port, protocol },
        Targets {
            labels: Labels { service, port, protocol },
            nodes: serving.iter().map(|n| (name(*n), 1)).collect(),
            standby: Default::default(),
            local: local.iter().map(|socket| ((socket.ip(), socket.port()), 1)).collect(),
            translated: Default::default(),
            affinity: 0,
            sources: Default::default(),
        },
    );
}

/// A TCP server: says who it is and whom it sees, then echoes.
pub(crate) fn tcp_server(host: &Host, address: SocketAddr, who: &'static str) {
    let listener = host.run(|| TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let peer = stream.peer_addr().unwrap();
                let _ = writeln!(stream, "{who} {}", peer.ip());
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A UDP server: answers each datagram with who it is and whom it sees.
pub(crate) fn udp_server(host: &Host, address: SocketAddr, who: &'static str) {
    let socket = host.run(|| UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{who} {}\n", peer.ip()).as_bytes(), peer);
        }
    });
}

/// A connection of the client's and the server's greeting.
pub(crate) fn connect(client: &Host, to: SocketAddr) -> (TcpStream, String) {
    let mut stream = client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let greeting = greeting(&mut stream);
    (stream, greeting)
}

/// Sends bytes and reads them back.
pub(crate) fn echo(stream: &mut TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent, "the bytes came back changed");
}

/// A datagram of the client's and the answer.
pub(crate) fn ask(from: &UdpSocket, to: SocketAddr) -> String {
    from.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    from.send_to(b"who?", to).unwrap();
    let mut buffer = [0; 256];
    let (read, source) = from.recv_from(&mut buffer).unwrap();
    assert_eq!(source, to, "the answer comes from the VIP");
    String::from_utf8_lossy(&buffer[..read]).trim().to_owned()
}

/// The line a server begins with.
pub(crate) fn greeting(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0] as char);
    }
    line
}
