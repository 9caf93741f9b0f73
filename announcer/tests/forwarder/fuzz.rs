//! Packets of every kind that nobody should send, run through the programs by the kernel itself: those of the corpus, and what
//! chance makes of them. Whatever they are, no packet is rewritten wrongly; see [`judge`].
//!
//! A file of `corpus/` is a frame in hexadecimal, with lines that begin with `#`: what it is, which program it comes to, and what
//! must become of it. A failure prints the seed by which chance made the packet: `CRIER_FUZZ_SEED=N` plays it again,
//! `CRIER_FUZZ_PACKETS=N` says how many packets are made.

/// Refuses a fate.
macro_rules! need {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

mod anatomy;
mod discovery;
mod judge;
pub(crate) mod kernel;
mod ledger;
mod messages;
mod mutate;
mod parts;
pub(crate) mod scene;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use announcer::forward::Mode;
use forwarder_ebpf::DropReason;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::{
    anatomy::{Anatomy, Body, SCTP, TCP},
    judge::{Case, Fate, Judge},
    kernel::{Kernel, Ran, Way},
    ledger::Ends,
    mutate::mutate,
    scene::{OWN, ROUTER, Scene, address},
};
use crate::{frames, lan::Lan, lease::Hooks, rig::Agent};

/// Packets that chance makes.
const PACKETS: u64 = 10_000;
/// Room for flows: more than there are, so that none is pushed out.
const FLOWS: u32 = 65_536;
/// After so many packets what was heard of others' VIPs is forgotten.
const OWNED: u64 = 16;
/// Pods' answers that are kept to be mutated.
const ANSWERS: usize = 64;

/// A file of the corpus.
struct Sample {
    name: String,
    way: Way,
    /// As the file says it.
    fate: String,
    frame: Vec<u8>,
}

fn corpus() -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forwarder/corpus");
    let mut paths: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths.iter().map(|path| sample(path)).collect()
}

fn sample(path: &Path) -> Sample {
    let text = std::fs::read_to_string(path).unwrap();
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let said = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{name} has no line {key}")).trim().to_owned()
    };
    let way = match said("# way:").as_str() {
        "ingress" => Way::Ingress,
        "egress" => Way::Egress,
        other => panic!("{name}: no way is called {other}"),
    };
    let bytes = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let frame = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Sample { fate: said("# fate:"), way, frame, name }
}

/// A node that nobody sends anything to, and the judge of its programs.
struct Bench<'a> {
    lan: &'a Lan,
    agent: Agent,
    kernel: Kernel,
    hooks: Hooks,
    scene: &'a Scene,
    judge: Judge<'a>,
    drops: BTreeMap<DropReason, u64>,
    /// How often what became of packets.
    fates: BTreeMap<String, u64>,
}

impl<'a> Bench<'a> {
    fn new(lan: &'a Lan, scene: &'a Scene) -> Self {
        let host = &lan.nodes[0];
        let mut agent = Agent::start_with(host, Mode::Xdp, FLOWS);
        agent.apply(host, &scene.wanted(host.index("eth0")));
        let kernel = Kernel::of(host, agent.pins.path());
        let drops = agent.counters().drops;
        let mut hooks = Hooks::of(&kernel);
        hooks.lease(Duration::ZERO, Duration::from_secs(3600));
        Self { lan, agent, kernel, hooks, scene, judge: Judge::new(scene), drops, fates: BTreeMap::new() }
    }

    /// Does something in the node's namespace, where its programs can be run.
    fn inside<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let lan = self.lan;
        lan.nodes[0].run(|| work(self))
    }

    /// The node has its VIPs again, whatever was heard of others.
    fn own(&mut self) {
        self.scene.owned.iter().for_each(|vip| self.hooks.own(*vip));
        self.judge.forget_claims();
    }

    /// Runs a program on a packet; `None` if the kernel refuses to. Panics if the judge does not like what became of it.
    fn run(&mut self, way: Way, came: &[u8], what: &str) -> Option<(Fate, Ran)> {
        let Some(ran) = self.kernel.run(way, came) else {
            *self.fates.entry(format!("{way:?} not run")).or_default() += 1;
            return None;
        };
        let drops = self.new_drops();
        match self.judge.judge(&Case { way, came, ran: &ran, drops: &drops }) {
            Ok(fate) => {
                *self.fates.entry(format!("{way:?} {fate:?}")).or_default() += 1;
                Some((fate, ran))
            }
            Err(wrong) => panic!(
                "{what}: {way:?}: {wrong}\n  verdict {}, drops {drops:?}\n  came {}\n  left {}",
                ran.verdict,
                hex(came),
                hex(&ran.frame)
            ),
        }
    }

    /// The reasons for which drops were counted since the last look.
    fn new_drops(&mut self) -> Vec<&'static str> {
        let now = self.agent.counters().drops;
        let new = |(reason, count): (&DropReason, &u64)| {
            std::iter::repeat_n(reason.as_str(), (count - self.drops[reason]) as usize)
        };
        let drops = now.iter().flat_map(new).collect();
        self.drops = now;
        drops
    }

    /// What a pod answers to a packet that was delivered must reach the client as if from the VIP; and what a router on the way says
    /// of that, the pod. The answer as the pod sent it, and what the router says.
    fn answer(&mut self, came: &[u8], delivered: &[u8], what: &str) -> Option<[Vec<u8>; 2]> {
        let answer = turned(delivered)?;
        let must = self.judge.ledger.must_reply(&Ends::of(came)?, &Ends::of(delivered)?);
        let (fate, ran) = self.run(Way::Egress, &answer, what)?;
        let back = Ends::of(&ran.frame)?.answers();
        let right = fate == Fate::Replied && back == Ends::of(came)?.asks();
        assert!(right || !must, "{what}: the answer is {fate:?}: {}", hex(&ran.frame));
        let complaint = complaint(&ran.frame)?;
        let (told, _) = self.run(Way::Ingress, &complaint, what)?;
        assert!(told == Fate::Told || !must, "{what}: the error is {told:?}: {}", hex(&complaint));
        *self.fates.entry(format!("Must be Replied, errors Told: {must}")).or_default() += 1;
        Some([answer, complaint])
    }
}

/// The packet the other way round, as an answer to it; `None` for one that is not answered.
fn turned(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = Anatomy::of(frame)?;
    let Body::Segment { protocol, at } = packet.body else { return None };
    let mut turned = [&ROUTER[..], &OWN, &frame[12..]].concat();
    let [(source, length), (destination, _)] = packet.addresses();
    let (there, back) = (destination..destination + length, source..source + length);
    turned[back].copy_from_slice(&frame[there.clone()]);
    turned[there].copy_from_slice(&frame[source..source + length]);
    turned[at..at + 2].copy_from_slice(&frame[at + 2..at + 4]);
    turned[at + 2..at + 4].copy_from_slice(&frame[at..at + 2]);
    if protocol == TCP {
        if frame[at + 13] & 0x04 != 0 {
            return None;
        }
        turned[at + 13] |= 0x10;
    }
    if protocol == SCTP {
        match frame[at + 12] {
            6 | 14 => return None,
            1 => turned[at + 12] = 2,
            _ => {}
        }
    }
    Some(turned)
}

/// What a router says of a packet on its way to a client; `None` if it would say it of another than a plain packet.
fn complaint(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = Anatomy::of(frame)?;
    let quoted = frame.get(14..)?;
    let plain = match packet.source.is_ipv4() {
        true => quoted[0] >> 4 == 4,
        false => matches!(packet.body, Body::Segment { at, .. } if at == 54 || at == 62 && packet.part.is_some()),
    };
    let message =
        frames::icmp_error(address(packet.source.is_ipv6(), 9), packet.source, &quoted[..quoted.len().min(90)]);
    plain.then(|| frames::packet(OWN, packet.source, &message))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether that is the fate which a file of the corpus names.
fn is_fate(said: &str, fate: Fate) -> bool {
    match (said, fate) {
        ("any", _)
        | ("pass", Fate::Passed)
        | ("swallow", Fate::Swallowed)
        | ("hand on", Fate::HandedOn)
        | ("deliver", Fate::Delivered)
        | ("answer", Fate::Answered)
        | ("resolve", Fate::Resolved)
        | ("refuse", Fate::Refused)
        | ("tell", Fate::Told)
        | ("carry", Fate::HandedOn | Fate::Delivered) => true,
        (said, Fate::Dropped(reason)) => said.strip_prefix("drop ") == Some(reason),
        _ => false,
    }
}

#[test]
fn each_packet_of_the_corpus_meets_its_fate() {
    let (lan, scene) = (Lan::new(1), Scene::new());
    let mut bench = Bench::new(&lan, &scene);
    bench.inside(|bench| {
        for Sample { name, way, fate: said, frame } in &corpus() {
            bench.own();
            let Some((fate, ran)) = bench.run(*way, frame, name) else { continue };
            assert!(is_fate(said, fate), "{name}: not {said:?}, but {fate:?}");
            if *way == Way::Egress {
                continue;
            }
            bench.run(Way::Xdp, frame, name);
            if fate == Fate::Delivered {
                bench.answer(frame, &ran.frame, name);
            }
        }
    });
    println!("{:#?}", bench.fates);
}

#[test]
fn whatever_a_packet_is_it_is_not_rewritten_wrongly() {
    let given = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Where a change is judged it is judged by the same packets each time; elsewhere others are tried.
    let usual = if std::env::var_os("CI").is_some() { 1 } else { u64::from(now.subsec_nanos()) };
    let seed = given("CRIER_FUZZ_SEED").unwrap_or(usual);
    let packets = given("CRIER_FUZZ_PACKETS").unwrap_or(PACKETS);
    println!("CRIER_FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (lan, scene, corpus) = (Lan::new(1), Scene::new(), corpus());
    let mut bench = Bench::new(&lan, &scene);
    let mut answers = VecDeque::new();
    bench.inside(|bench| {
        for number in 0..packets {
            let what = format!("CRIER_FUZZ_SEED={seed}, packet {number}");
            if number % OWNED == 0 {
                bench.own();
            }
            let sample = corpus.choose(&mut rng).unwrap();
            let frame = mutate(&sample.frame, &mut rng);
            let way = if sample.way == Way::Ingress && rng.random_range(0..4) == 0 { Way::Xdp } else { sample.way };
            if let Some((Fate::Delivered, ran)) = bench.run(way, &frame, &what) {
                answers.extend(bench.answer(&frame, &ran.frame, &what).into_iter().flatten());
                answers.drain(..answers.len().saturating_sub(ANSWERS));
            }
            if number % 4 == 0
                && let Some(answer) = answers.get(rng.random_range(0..ANSWERS))
            {
                let way = if answer.starts_with(&OWN) { Way::Ingress } else { Way::Egress };
                bench.run(way, &mutate(answer, &mut rng), &what);
            }
        }
    });
    println!("{:#?}", bench.fates);
    let often = |fate: &str| bench.fates.iter().filter(|(name, _)| name.starts_with(fate)).map(|(_, n)| n).sum::<u64>();
    for fate in [
        "Ingress Delivered",
        "Ingress HandedOn",
        "Ingress Dropped",
        "Xdp HandedOn",
        "Must be Replied, errors Told: true",
        "Ingress Refused",
    ] {
        assert!(
            often(fate) > packets / 200,
            "{fate} only {} times: chance makes too little that is near the mark",
            often(fate)
        );
    }
    assert!(often("Ingress Resolved") > packets / 1000, "questions only {} times", often("Ingress Resolved"));
}
