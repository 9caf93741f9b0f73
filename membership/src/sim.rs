//! A simulated cluster: many nodes, one virtual clock, a network that misbehaves by a seed.
//!
//! Every datagram goes through the real channel, sealed. All randomness comes from the seed given, so a run can be
//! repeated; the trace hash tells whether it was. Links are directed: a partition may be one-way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    Cluster, Command, Config, Facts, Identity, KeyRing, Member, NodeName, Nonces, View, Watch, header::WATCH_VERSION,
    watch::Watcher,
};

pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(crate) const OTHER_KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

/// An arbitrary origin of time: only differences matter.
pub(crate) fn origin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "tests need an arbitrary origin of time")]
    Instant::now()
}

/// What a node is configured with.
pub(crate) fn config(index: usize, generation: u64) -> Config {
    Config {
        identity: Identity { name: name(index), address: address(index), generation, renewal: 0 },
        keys: KeyRing::parse(KEY).unwrap(),
        seeds: vec![address(0)],
        remembered: Vec::new(),
        watch: Watch::default(),
    }
}

pub(crate) fn name(index: usize) -> NodeName {
    format!("n{index}").parse().unwrap()
}

pub(crate) fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 9651))
}

fn index(address: SocketAddr) -> usize {
    let std::net::IpAddr::V4(ip) = address.ip() else { unreachable!("simulated addresses are IPv4") };
    usize::from(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]))
}

/// How the network misbehaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Probability that a datagram is lost.
    pub(crate) loss: f64,
    /// Probability that it comes twice.
    pub(crate) duplication: f64,
    /// It takes between these two, at random, so datagrams overtake each other.
    pub(crate) delay: (Duration, Duration),
}

pub(crate) const FAIR: Weather =
    Weather { loss: 0.0, duplication: 0.0, delay: (Duration::from_micros(100), Duration::from_micros(500)) };
pub(crate) const FOUL: Weather =
    Weather { loss: 0.05, duplication: 0.05, delay: (Duration::from_micros(100), Duration::from_millis(12)) };

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A datagram for a node.
    Arrival { to: usize, from: usize, bytes: Vec<u8> },
    /// A node's deadline, if it is still its next.
    Wake(usize),
    /// A frozen node goes on, if it was not frozen for longer since.
    Thaw(usize),
}

/// One agent: its gossip and its watch.
struct Agent {
    cluster: Cluster,
    watcher: Watcher,
    /// Until then it stands still; what comes meanwhile waits, with the time of its arrival.
    frozen: Option<Instant>,
    backlog: Vec<(Instant, usize, Vec<u8>)>,
}

/// Bytes of the headers of Ethernet, IPv4 and UDP.
pub(crate) const WIRE_OVERHEAD: usize = 14 + 20 + 8;

/// See the module's documentation.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    pub(crate) weather: Weather,
    pub(crate) start: Instant,
    nodes: BTreeMap<usize, Agent>,
    views: BTreeMap<usize, Arc<View>>,
    queue: BTreeMap<(Instant, u64), Event>,
    wakes: BTreeMap<usize, Instant>,
    sent: u64,
    cut: BTreeSet<(usize, usize)>,
    rng: StdRng,
    trace: Xxh3,
    /// Bytes on the wire by sender, of gossip and of watch.
    pub(crate) wire: BTreeMap<usize, [usize; 2]>,
    /// Every datagram that was sent, if a test records.
    pub(crate) recording: Option<Vec<(usize, usize, Vec<u8>)>>,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let start = origin();
        Self {
            now: start,
            weather: FAIR,
            start,
            nodes: BTreeMap::new(),
            views: BTreeMap::new(),
            queue: BTreeMap::new(),
            wakes: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            trace: Xxh3::new(),
            wire: BTreeMap::new(),
            recording: None,
        }
    }

    /// A cluster of `size` nodes that have just been started.
    pub(crate) fn started(seed: u64, size: usize) -> Self {
        let mut sim = Self::new(seed);
        for index in 0..size {
            sim.boot(index, config(index, 1000));
        }
        sim
    }

    pub(crate) fn boot(&mut self, index: usize, config: Config) {
        let watch = config.watch.clamped();
        let phase = self.rng.random_range(Duration::ZERO..watch.interval);
        let watcher = Watcher::new(watch.into(), config.keys.clone(), self.nonces(), phase, self.now);
        let mut cluster = Cluster::new(config, self.rng.random(), self.nonces(), self.now);
        // As agents do; until this is here, others show what the node's earlier life said of the machine.
        cluster.handle_command(Command::SetFacts(Facts::default()), self.now);
        self.nodes.insert(index, Agent { cluster, watcher, frozen: None, backlog: Vec::new() });
        self.views.remove(&index);
        self.flush(index);
    }

    fn nonces(&mut self) -> Nonces {
        Nonces::seeded(StdRng::from_seed(self.rng.random()))
    }

    /// The node stands still for a while, as on SIGSTOP: datagrams wait in its sockets.
    pub(crate) fn freeze(&mut self, index: usize, time: Duration) {
        let until = self.now + time;
        if let Some(node) = self.nodes.get_mut(&index) {
            node.frozen = Some(until);
            self.schedule(until, Event::Thaw(index));
        }
    }

    fn thaw(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(&index).filter(|node| node.frozen == Some(self.now)) else { return };
        node.frozen = None;
        for (arrival, from, bytes) in std::mem::take(&mut node.backlog) {
            self.deliver(index, from, &bytes, arrival);
        }
        self.wake(index);
    }

    /// The node is gone without a word; what is under way to it falls on deaf ears.
    pub(crate) fn crash(&mut self, index: usize) {
        self.nodes.remove(&index);
        self.wakes.remove(&index);
    }

    pub(crate) fn command(&mut self, index: usize, command: Command) {
        if let Some(node) = self.nodes.get_mut(&index) {
            if let Command::SetKeys(keys) = &command {
                node.watcher.set_keys(keys.clone());
            }
            node.cluster.handle_command(command, self.now);
        }
        self.flush(index);
    }

    pub(crate) fn node(&self, index: usize) -> &Cluster {
        &self.nodes[&index].cluster
    }

    /// Datagrams that a node refused, by gossip or watch.
    pub(crate) fn refused(&self, index: usize) -> u64 {
        let node = &self.nodes[&index];
        let both = [&node.cluster.stats().rejected, &node.watcher.stats().rejected];
        both.into_iter().flat_map(BTreeMap::values).sum()
    }

    pub(crate) fn watcher(&self, index: usize) -> &Watcher {
        &self.nodes[&index].watcher
    }

    pub(crate) fn living(&self) -> Vec<usize> {
        self.nodes.keys().copied().collect()
    }

    /// Hands a datagram to a node, past the network.
    pub(crate) fn inject(&mut self, to: usize, from: usize, bytes: &[u8]) {
        self.deliver(to, from, bytes, self.now);
    }

    fn deliver(&mut self, to: usize, from: usize, bytes: &[u8], arrival: Instant) {
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if node.frozen.is_some() {
            node.backlog.push((arrival, from, bytes.to_vec()));
            return;
        }
        if bytes.first() == Some(&WATCH_VERSION) {
            node.watcher.handle_datagram(bytes, address(from), arrival, self.now);
        } else {
            node.cluster.handle_datagram(bytes, address(from), self.now);
        }
        self.flush(to);
    }

    fn wake(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(&index).filter(|node| node.frozen.is_none()) else { return };
        if node.cluster.poll_timeout().is_some_and(|due| due <= self.now) {
            node.cluster.handle_timeout(self.now);
        }
        node.watcher.note_gossip(self.now);
        if node.watcher.poll_timeout().is_some_and(|due| due <= self.now) {
            node.watcher.handle_timeout(self.now);
        }
        self.flush(index);
    }

    /// Nothing passes from one to the other.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Nothing passes between the two sides.
    pub(crate) fn partition(&mut self, left: &[usize], right: &[usize]) {
        for &a in left {
            for &b in right {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((&key, _)) = self.queue.first_key_value().filter(|((at, _), _)| *at <= end) {
            let Some(event) = self.queue.remove(&key) else { break };
            self.now = key.0;
            match event {
                Event::Arrival { to, from, bytes } => self.inject(to, from, &bytes),
                Event::Wake(index) if self.wakes.get(&index) == Some(&key.0) => {
                    self.wakes.remove(&index);
                    self.wake(index);
                }
                Event::Wake(_) => {}
                Event::Thaw(index) => self.thaw(index),
            }
        }
        self.now = end;
    }

    /// Lets time pass until `reached`, looking every 10 ms. Returns how long that took; panics after `limit`.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        let began = self.now;
        while !reached(self) {
            assert!(self.now - began < limit, "not within {limit:?}: {what}");
            self.run(Duration::from_millis(10));
        }
        self.now - began
    }

    /// A number that depends on every datagram and its time.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.digest()
    }

    fn flush(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(&index) else { return };
        let mut out = Vec::new();
        if let Some(report) = node.watcher.poll_report() {
            node.cluster.handle_report(report, self.now);
        }
        if let Some(plan) = node.cluster.poll_plan() {
            node.watcher.set_plan(plan, self.now);
            if let Some(report) = node.watcher.poll_report() {
                node.cluster.handle_report(report, self.now);
            }
        }
        while let Some(transmit) = node.cluster.poll_transmit().or_else(|| node.watcher.poll_transmit()) {
            out.push(transmit);
        }
        let due = [node.cluster.poll_timeout(), node.watcher.poll_timeout()];
        if let Some(due) = due.into_iter().flatten().min() {
            let due = due.max(self.now);
            if self.wakes.get(&index).is_none_or(|wake| *wake != due) {
                self.wakes.insert(index, due);
                self.schedule(due, Event::Wake(index));
            }
        }
        for (to, bytes) in out {
            self.transmit(index, self::index(to), bytes);
        }
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let elapsed = self.now - self.start;
        self.trace.update(&elapsed.as_nanos().to_be_bytes());
        self.trace.update(&bytes);
        let kind = usize::from(bytes.first() == Some(&WATCH_VERSION));
        self.wire.entry(from).or_default()[kind] += bytes.len() + WIRE_OVERHEAD;
        if let Some(recording) = &mut self.recording {
            recording.push((from, to, bytes.clone()));
        }
        if self.cut.contains(&(from, to)) || self.rng.random_bool(self.weather.loss) {
            return;
        }
        if self.rng.random_bool(self.weather.duplication) {
            let at = self.now + self.delay();
            self.schedule(at, Event::Arrival { to, from, bytes: bytes.clone() });
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Arrival { to, from, bytes });
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.weather.delay;
        self.rng.random_range(least..=most)
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.queue.insert((at, self.sent), event);
        self.sent += 1;
    }
}

mod agreement;
mod chaos;
mod namesakes;
mod restarts;
mod tests;
