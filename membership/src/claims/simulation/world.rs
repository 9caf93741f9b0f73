//! Nodes that exchange whole documents through a toy network in virtual time: lossy, delayed, partitioned at random.
//! It stands in for the membership layer with the plainest thing that has the same properties: newest document wins,
//! silence means down. A client beside each node believes whoever announced a VIP last on its side of the network, and
//! forgets a node that does not answer or cannot be reached.

use rand::{RngExt as _, SeedableRng, rngs::StdRng};

use super::super::*;
use crate::{Facts, Interface, Member, NodeDocument};

mod checks;
mod wire;

const TICK: Duration = Duration::from_millis(20);
/// How often a document is sent when nothing is new in it.
const RESEND: Duration = Duration::from_millis(60);
const DOWN_AFTER: Duration = Duration::from_millis(600);
/// From the first frame of an announcement to its last.
const BURST: Duration = Duration::from_millis(1100);
/// Between questions on the wire.
const ASK: Duration = Duration::from_millis(200);
const LEFT: u64 = u64::MAX;

/// A document as sent: who, which life, how new (`LEFT`: the last word), what.
#[derive(Clone)]
struct Letter {
    from: usize,
    generation: u64,
    version: u64,
    document: NodeDocument,
}

struct Peer {
    letter: Letter,
    heard: Instant,
}

pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) ownership: Option<Ownership>,
    generation: u64,
    version: u64,
    document: NodeDocument,
    has_uplink: bool,
    peers: BTreeMap<usize, Peer>,
    claimed: BTreeMap<IpAddr, u64>,
    quiet: BTreeSet<IpAddr>,
    /// The version sent last, and when it is due again.
    sent: u64,
    resend: Instant,
}

pub(super) struct World {
    now: Instant,
    started: Instant,
    pub(super) rng: StdRng,
    pub(super) nodes: Vec<Node>,
    /// Nodes that start take their share.
    pub(super) rebalance: bool,
    /// Which segment each node is on; nodes hear only those on their own.
    side: Vec<u8>,
    /// Which side of the gossip each node is on: a filter that ARP passes.
    gossip: Vec<u8>,
    /// When the announcers ask next.
    ask: Instant,
    loss: f64,
    max_delay: Duration,
    post: Vec<(Instant, usize, Letter)>,
    vips: Vec<IpAddr>,
    /// What the client beside each node believes.
    beliefs: Vec<BTreeMap<IpAddr, usize>>,
    /// The last frames of announcement bursts still to be sent.
    bursts: Vec<(Instant, usize, IpAddr)>,
    log: Vec<String>,
}

impl Node {
    fn facts(&self, listening: bool, draining: bool) -> Facts {
        let uplink = Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], prefixes: vec![] };
        let interfaces = if self.has_uplink { vec![uplink] } else { vec![] };
        Facts { interfaces, draining, listening, forwarding: true, ..Facts::default() }
    }
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, vips: u8) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can only be had from the clock; only differences count"
        )]
        let now = Instant::now();
        let mut world = Self {
            now,
            started: now,
            rng: StdRng::seed_from_u64(seed),
            nodes: Vec::new(),
            rebalance: false,
            side: vec![0; nodes],
            gossip: vec![0; nodes],
            ask: now,
            loss: 0.2,
            max_delay: Duration::from_millis(40),
            post: Vec::new(),
            vips: (1..=vips).map(|n| IpAddr::from([10, 0, 0, n])).collect(),
            beliefs: vec![BTreeMap::new(); nodes],
            bursts: Vec::new(),
            log: Vec::new(),
        };
        for n in 0..nodes {
            world.nodes.push(Node {
                name: format!("n{n}").parse().unwrap(),
                ownership: None,
                generation: 0,
                version: 0,
                document: NodeDocument::default(),
                has_uplink: true,
                peers: BTreeMap::new(),
                claimed: BTreeMap::new(),
                quiet: BTreeSet::new(),
                sent: 0,
                resend: now,
            });
        }
        world
    }

    fn say(&mut self, text: &str) {
        let at = self.now.duration_since(self.started).as_millis();
        self.log.push(format!("{at:>6} {text}"));
    }

    pub(super) fn start(&mut self, n: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.ownership.is_none() {
            let mut ownership = Ownership::new(node.name.clone(), Listen::default(), now);
            ownership.set_rebalance(self.rebalance);
            node.ownership = Some(ownership);
            node.generation += 1;
            node.version = 0;
            node.document = NodeDocument { facts: node.facts(true, false), ..NodeDocument::default() };
            node.peers.clear();
            node.claimed.clear();
            self.say(&format!("n{n} starts"));
        }
    }

    pub(super) fn crash(&mut self, n: usize) {
        self.nodes[n].ownership = None;
        self.forget(n, None);
        self.say(&format!("n{n} crashes"));
    }

    pub(super) fn drain(&mut self, n: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        if let Some(ownership) = &mut node.ownership {
            ownership.drain(now);
            node.document.facts.draining = true;
            node.version += 1;
            self.say(&format!("n{n} drains"));
        }
    }

    pub(super) fn uplink(&mut self, n: usize, up: bool) {
        let node = &mut self.nodes[n];
        node.has_uplink = up;
        if node.ownership.is_none() {
            return;
        }
        node.document.facts = node.facts(node.document.facts.listening, node.document.facts.draining);
        node.version += 1;
        self.say(&format!("n{n} uplink {up}"));
    }

    pub(super) fn leave(&mut self, n: usize) {
        if let Some(mut ownership) = self.nodes[n].ownership.take() {
            ownership.shutdown();
            let node = &mut self.nodes[n];
            node.version = LEFT;
            node.document.claims.clear();
            self.send(n);
            self.forget(n, None);
            self.say(&format!("n{n} leaves"));
        }
    }

    fn send(&mut self, from: usize) {
        let node = &self.nodes[from];
        let letter =
            Letter { from, generation: node.generation, version: node.version, document: node.document.clone() };
        for to in 0..self.nodes.len() {
            if to != from && !self.rng.random_bool(self.loss) {
                let delay = self.rng.random_range(Duration::ZERO..=self.max_delay);
                self.post.push((self.now + delay, to, letter.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let due: Vec<_> = self.post.extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, to, letter) in due {
            let reachable = self.hears(to, letter.from) && self.gossip[to] == self.gossip[letter.from];
            if self.nodes[to].ownership.is_none() || !reachable {
                continue;
            }
            let newness = |letter: &Letter| (letter.generation, letter.version);
            match self.nodes[to].peers.get_mut(&letter.from) {
                Some(peer) if newness(&peer.letter) > newness(&letter) => {}
                Some(peer) => *peer = Peer { letter, heard: now },
                None => drop(self.nodes[to].peers.insert(letter.from, Peer { letter, heard: now })),
            }
        }
    }

    fn view(&self, n: usize) -> View {
        let node = &self.nodes[n];
        let address = "127.0.0.1:1".parse().unwrap();
        let mut view = View { caught_up: !node.peers.is_empty(), ..View::default() };
        for (from, peer) in &node.peers {
            let silent = self.now.duration_since(peer.heard) >= DOWN_AFTER;
            let state = match peer.letter.version {
                LEFT => MemberState::Left,
                _ if silent => MemberState::Down,
                _ => MemberState::Alive,
            };
            let Letter { generation, document, .. } = peer.letter.clone();
            view.members.insert(self.nodes[*from].name.clone(), Member { address, generation, state, document });
        }
        let (generation, document) = (node.generation, node.document.clone());
        view.members.insert(node.name.clone(), Member { address, generation, state: MemberState::Alive, document });
        view
    }

    fn candidates(&self, view: &View) -> Candidates {
        let eligible = |member: &Member| {
            let facts = &member.document.facts;
            !facts.draining && !facts.listening && !facts.interfaces.is_empty()
        };
        let nodes: BTreeSet<_> =
            view.up().filter(|(_, member)| eligible(member)).map(|(name, _)| name.clone()).collect();
        let nodes = Arc::new(nodes);
        self.vips.iter().map(|vip| (*vip, Arc::clone(&nodes))).collect()
    }

    fn think(&mut self, n: usize) {
        let view = Arc::new(self.view(n));
        let vips = self.candidates(&view);
        let unix_ms = u64::try_from(self.now.duration_since(self.started).as_millis()).unwrap();
        let Some(ownership) = &mut self.nodes[n].ownership else { return };
        ownership.set_serving(self.vips.iter().copied().collect());
        ownership.handle_input(&view, &vips, self.now, unix_ms);
        let seen = |vip: &IpAddr| {
            let claims = view.members.values().filter_map(|member| member.document.claims.get(vip));
            claims.map(|claim| claim.epoch).max().unwrap_or(0)
        };
        assert!(ownership.poll_timeout().is_none_or(|at| at > self.now), "n{n} asks to be woken in the past");
        let isolated = ownership.standing() == Standing::Minority;
        if self.nodes[n].document.facts.isolated != isolated {
            self.nodes[n].document.facts.isolated = isolated;
            self.nodes[n].version += 1;
        }
        self.act(n, seen);
        self.speak_up(n);
    }

    /// Does what a node's machine asks for.
    fn act(&mut self, n: usize, seen: impl Fn(&IpAddr) -> u64) {
        let Some(ownership) = &mut self.nodes[n].ownership else { return };
        let actions: Vec<_> = std::iter::from_fn(|| ownership.poll_action()).collect();
        for action in actions {
            match &action {
                Action::Publish(claims) => self.nodes[n].document.claims.clone_from(claims),
                Action::Listening(listening) => self.nodes[n].document.facts.listening = *listening,
                Action::Announce { vip, epoch, .. } => {
                    let own = self.nodes[n].claimed.entry(*vip).or_default();
                    let before = (*own).max(seen(vip));
                    assert!(*epoch == 0 || *epoch > before, "n{n} claims {vip} with epoch {epoch} after {before}");
                    *own = (*own).max(*epoch);
                    self.announce(n, *vip);
                    self.bursts.push((self.now + BURST, n, *vip));
                }
                Action::Withdraw { vip, reason: Reason::Ineligible } => self.forget(n, Some(*vip)),
                Action::Reannounce { vip, .. } => self.announce(n, *vip),
                Action::Withdraw { .. } => {}
            }
            self.nodes[n].version += 1;
            self.say(&format!("n{n} {action:?}"));
        }
    }

    fn announce(&mut self, n: usize, vip: IpAddr) {
        for client in 0..self.nodes.len() {
            if self.side[client] == self.side[n] {
                self.beliefs[client].insert(vip, n);
            }
        }
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            if self.hears(other, n) {
                self.overhear(other, vip, n);
            }
        }
    }

    /// Clients find that a node does not answer any more.
    fn forget(&mut self, n: usize, vip: Option<IpAddr>) {
        for beliefs in &mut self.beliefs {
            beliefs.retain(|of, believed| *believed != n || vip.is_some_and(|vip| vip != *of));
        }
    }

    /// Moves every node, with the client beside it, to its segment.
    pub(super) fn partition(&mut self, sides: Vec<u8>) {
        self.say(&format!("partition {sides:?}"));
        self.side = sides;
        for (client, beliefs) in self.beliefs.iter_mut().enumerate() {
            beliefs.retain(|_, believed| self.side[*believed] == self.side[client]);
        }
    }

    pub(super) fn heal(&mut self) {
        self.partition(vec![0; self.nodes.len()]);
    }

    fn end_bursts(&mut self) {
        let now = self.now;
        for (_, n, vip) in self.bursts.extract_if(.., |(at, _, _)| *at <= now).collect::<Vec<_>>() {
            if self.holders(vip, self.side[n]).contains(&n) {
                self.announce(n, vip);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        self.now += TICK;
        self.end_bursts();
        if self.now >= self.ask {
            self.ask = self.now + ASK;
            self.ask();
        }
        self.deliver();
        for n in 0..self.nodes.len() {
            self.think(n);
            let node = &mut self.nodes[n];
            if node.ownership.is_some() && (node.sent != node.version || self.now >= node.resend) {
                (node.sent, node.resend) = (node.version, self.now + RESEND);
                self.send(n);
            }
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(60);
            eprintln!("the last events, by virtual milliseconds:\n{}", self.log[from..].join("\n"));
        }
    }
}
