//! Connections that stay: each sends a record at its period and waits for its echo, until it is told to stop or breaks.
//!
//! One thread serves them all, so that hundreds cost little: a client's machine must not be what is measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::RangeInclusive,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::{netns::Netns, poll::readable, traffic::Answer};

/// From an echo to the next record: a millisecond for each connection, within these. So they send about a thousand
/// records a second together, 200 of them four thousand.
const PERIOD: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(50);
/// How often the thread looks at its connections.
const TICK: Duration = Duration::from_millis(2);
/// A connection without an echo for this long counts as hung: far beyond what retransmission after an outage takes.
const HUNG: Duration = Duration::from_secs(5);
/// How long an answer may be.
const MAX_LINE: usize = 1024;

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It works.
    Survived,
    /// It was reset or closed.
    Broken(String),
    /// Nobody answers on it, though nobody closed it.
    Hung,
}

/// The account of a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// The pod at its other end.
    pub pod: String,
    /// What became of it.
    pub fate: Fate,
    /// Records echoed.
    pub records: u64,
    /// The longest wait for an echo.
    pub longest_pause: Duration,
}

/// Open connections.
#[derive(Debug)]
pub struct LongLived {
    stop: Arc<AtomicBool>,
    patience: Arc<Mutex<Patience>>,
    pods: Vec<String>,
    records: Arc<Mutex<BTreeMap<String, u64>>>,
    thread: JoinHandle<Result<Vec<Ended>>>,
}

impl LongLived {
    /// Opens `count` connections from `ns`; each has had its first echo on return. Records go each 10 ms, more seldom
    /// on more than ten connections: each 50 ms on 50 and more.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(ns: &Netns, target: SocketAddr, count: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let patience = Arc::new(Mutex::new(Patience { most: HUNG, hopeless: BTreeSet::new() }));
        let records = Arc::new(Mutex::new(BTreeMap::new()));
        let (sender, opened) = channel();
        let (stopped, limit, counters) = (Arc::clone(&stop), Arc::clone(&patience), Arc::clone(&records));
        let thread = ns.thread("long-lived", move || run(target, count, &stopped, &limit, &counters, &sender))?;
        let pods = opened.recv().with_context(|| format!("no long-lived connection to {target}"))??;
        Ok(Self { stop, patience, pods, records, thread })
    }

    /// The pods at the other ends, in the order of the connections.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        self.pods.clone()
    }

    /// Records echoed until now on all connections to `pod`.
    #[must_use]
    pub fn records(&self, pod: &str) -> u64 {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(pod).copied().unwrap_or_default()
    }

    /// Whether all have ended by themselves.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends them and tells what became of each. One that waits for an echo is given until 5 s after its record.
    ///
    /// # Errors
    /// When their thread panicked.
    pub fn finish(self) -> Result<Vec<Ended>> {
        self.finish_but(HUNG, |_| false)
    }

    /// As [`LongLived::finish`], with another patience, and none at all with those to pods that `hopeless` names: one
    /// of these that waits for an echo counts as hung.
    ///
    /// # Errors
    /// When their thread panicked.
    pub fn finish_but(self, patience: Duration, hopeless: impl Fn(&str) -> bool) -> Result<Vec<Ended>> {
        let hopeless = self.pods.iter().filter(|pod| hopeless(pod)).cloned().collect();
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = Patience { most: patience, hopeless };
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("panicked"))?
    }
}

/// How long echoes are waited for in the end.
#[derive(Debug, Clone)]
struct Patience {
    most: Duration,
    /// Pods that are not waited for.
    hopeless: BTreeSet<String>,
}

impl Patience {
    fn with(&self, pod: &str) -> Duration {
        if self.hopeless.contains(pod) { Duration::ZERO } else { self.most }
    }
}

struct Talk {
    stream: TcpStream,
    received: Vec<u8>,
    sent: u64,
    /// When the record that waits for its echo was sent, or when the next is due.
    turn: Turn,
    ended: Ended,
}

#[derive(Clone, Copy)]
enum Turn {
    Due(Instant),
    Waits(Instant),
    Over,
}

impl Talk {
    /// Connects and exchanges the first record.
    fn open(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HUNG))?;
        let now = Instant::now();
        let ended = Ended { pod: String::new(), fate: Fate::Survived, records: 0, longest_pause: Duration::ZERO };
        let mut talk = Self { stream, received: Vec::new(), sent: 0, turn: Turn::Due(now), ended };
        talk.say(now);
        while matches!(talk.turn, Turn::Waits(_)) {
            talk.hear(Instant::now());
            ensure!(now.elapsed() < HUNG, "{target} accepted a connection and did not echo");
        }
        ensure!(talk.ended.fate == Fate::Survived, "{target}: {:?}", talk.ended.fate);
        talk.stream.set_nonblocking(true)?;
        Ok(talk)
    }

    fn end(&mut self, fate: Fate) {
        self.turn = Turn::Over;
        self.ended.fate = fate;
    }

    /// Sends the next record.
    fn say(&mut self, now: Instant) {
        self.sent += 1;
        self.turn = Turn::Waits(now);
        // A record is far smaller than a socket's buffer, and one at a time is under way: it is never cut.
        if let Err(error) = self.stream.write_all(format!("record {}\n", self.sent).as_bytes()) {
            self.end(Fate::Broken(error.to_string()));
        }
    }

    /// Reads what there is; tells whether the echo has come.
    fn hear(&mut self, now: Instant) -> bool {
        let mut buffer = [0_u8; 512];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end(Fate::Broken("closed by the other end".into())),
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                if self.received.last() == Some(&b'\n') {
                    return self.echo(now);
                }
                if self.received.len() > MAX_LINE {
                    self.end(Fate::Broken("an answer without an end".into()));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end(Fate::Broken(error.to_string())),
        }
        false
    }

    fn echo(&mut self, now: Instant) -> bool {
        let line = String::from_utf8_lossy(&self.received).into_owned();
        self.received.clear();
        let Turn::Waits(since) = self.turn else {
            self.end(Fate::Broken(format!("unasked {line:?}")));
            return false;
        };
        match Answer::parse(&line).filter(|answer| answer.text == format!("record {}", self.sent)) {
            Some(answer) if self.ended.pod.is_empty() || self.ended.pod == answer.pod => {
                self.ended.pod = answer.pod;
                self.ended.records += 1;
                self.ended.longest_pause = self.ended.longest_pause.max(now.saturating_duration_since(since));
                self.turn = Turn::Due(now);
                true
            }
            Some(answer) => {
                self.end(Fate::Broken(format!("{} answers", answer.pod)));
                false
            }
            None => {
                self.end(Fate::Broken(format!("wrong echo {line:?}")));
                false
            }
        }
    }
}

fn run(
    target: SocketAddr,
    count: usize,
    stop: &AtomicBool,
    patience: &Mutex<Patience>,
    records: &Mutex<BTreeMap<String, u64>>,
    opened: &Sender<Result<Vec<String>>>,
) -> Vec<Ended> {
    let mut talks = match (0..count).map(|_| Talk::open(target)).collect::<Result<Vec<_>>>() {
        Ok(talks) => talks,
        Err(error) => {
            let _ = opened.send(Err(error));
            return Vec::new();
        }
    };
    let period = Duration::from_millis(count as u64).clamp(*PERIOD.start(), *PERIOD.end());
    let start = Instant::now();
    for (talk, number) in talks.iter_mut().zip(0_u32..) {
        // Spread over the period, so that they do not speak all at once.
        talk.turn = Turn::Due(start + period * number / u32::try_from(count).unwrap_or(u32::MAX).max(1));
    }
    let _ = opened.send(Ok(talks.iter().map(|talk| talk.ended.pod.clone()).collect()));
    let fds: Vec<_> = talks.iter().map(|talk| talk.stream.as_raw_fd()).collect();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let patience = stopping.then(|| patience.lock().unwrap_or_else(PoisonError::into_inner).clone());
        std::thread::sleep(TICK);
        let ready = readable(&fds, Duration::ZERO);
        for (talk, ready) in talks.iter_mut().zip(ready) {
            let limit = patience.as_ref().map_or(HUNG, |patience| patience.with(&talk.ended.pod));
            step(talk, ready, stopping, period, limit, records);
        }
        let waiting = talks.iter().any(|talk| matches!(talk.turn, Turn::Waits(_)));
        let over = talks.iter().all(|talk| matches!(talk.turn, Turn::Over));
        if over || stopping && !waiting {
            return talks.into_iter().map(|talk| talk.ended).collect();
        }
    }
}

fn step(
    talk: &mut Talk,
    ready: bool,
    stopping: bool,
    period: Duration,
    limit: Duration,
    records: &Mutex<BTreeMap<String, u64>>,
) {
    if matches!(talk.turn, Turn::Over) {
        return;
    }
    let now = Instant::now();
    if ready && talk.hear(now) {
        talk.turn = Turn::Due(now + period);
        *records.lock().unwrap_or_else(PoisonError::into_inner).entry(talk.ended.pod.clone()).or_default() += 1;
    }
    match talk.turn {
        Turn::Due(due) if now >= due && !stopping => talk.say(now),
        Turn::Waits(since) if now.saturating_duration_since(since) >= limit => talk.end(Fate::Hung),
        _ => {}
    }
}

/// Fails unless every connection to a pod that `counts` survived.
///
/// # Errors
/// Names those that did not.
pub fn all_survived(ended: &[Ended], counts: impl Fn(&str) -> bool) -> Result<()> {
    let lost: Vec<_> = ended.iter().filter(|end| counts(&end.pod) && end.fate != Fate::Survived).collect();
    ensure!(lost.is_empty(), "{} of {} long-lived connections did not survive: {lost:#?}", lost.len(), ended.len());
    Ok(())
}
