//! Connections that stay: each sends a record every 10 ms and waits for its echo, until it is told to stop or breaks.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{netns::Netns, traffic::Answer};

/// From an echo to the next record.
const PERIOD: Duration = Duration::from_millis(10);
/// A connection without an echo for this long counts as hung: far beyond what retransmission after an outage takes.
const HUNG: Duration = Duration::from_secs(5);

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    Survived,
    /// It was reset or closed.
    Broken(String),
    /// Nobody answers on it, though nobody closed it.
    Hung,
}

/// The account of a connection.
#[derive(Debug, Clone)]
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

#[derive(Debug)]
struct Open {
    pod: String,
    records: Arc<AtomicU64>,
    thread: JoinHandle<Result<Ended>>,
}

/// Open connections.
#[derive(Debug)]
pub struct LongLived {
    stop: Arc<AtomicBool>,
    connections: Vec<Open>,
}

impl LongLived {
    /// Opens `count` connections from `ns`; each has had its first echo on return.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(ns: &Netns, target: SocketAddr, count: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut connections = Vec::new();
        for _ in 0..count {
            let (sender, first) = channel();
            let (stopped, records) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            let counter = Arc::clone(&records);
            let thread = ns.thread("long-lived", move || run(target, &stopped, &counter, &sender))?;
            let pod = first.recv().with_context(|| format!("no long-lived connection to {target}"))??;
            connections.push(Open { pod, records, thread });
        }
        Ok(Self { stop, connections })
    }

    /// The pods at the other ends, in the order of the connections.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        self.connections.iter().map(|open| open.pod.clone()).collect()
    }

    /// Records echoed until now on all connections to `pod`.
    #[must_use]
    pub fn records(&self, pod: &str) -> u64 {
        self.connections.iter().filter(|open| open.pod == pod).map(|open| open.records.load(Ordering::Relaxed)).sum()
    }

    /// Ends them and tells what became of each.
    ///
    /// # Errors
    /// When a connection's thread panicked.
    pub fn finish(self) -> Result<Vec<Ended>> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.connections.into_iter().map(|open| open.thread.join().map_err(|_| anyhow!("panicked"))?);
        ends.collect()
    }
}

struct Talk {
    stream: BufReader<TcpStream>,
    line: String,
    sent: u64,
}

enum Wait {
    Echo(Answer),
    Over(Fate),
}

impl Talk {
    /// Sends the next record.
    fn say(&mut self) -> std::io::Result<()> {
        self.sent += 1;
        self.line.clear();
        let record = format!("record {}\n", self.sent);
        self.stream.get_mut().write_all(record.as_bytes())
    }

    /// Waits for its echo.
    fn hear(&mut self) -> Wait {
        match self.stream.read_line(&mut self.line) {
            Ok(0) => Wait::Over(Fate::Broken("closed by the other end".into())),
            Ok(_) => {
                let echo = Answer::parse(&self.line).filter(|answer| answer.text == format!("record {}", self.sent));
                echo.map_or_else(|| Wait::Over(Fate::Broken(format!("wrong echo {:?}", self.line))), Wait::Echo)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Wait::Over(Fate::Hung),
            Err(error) => Wait::Over(Fate::Broken(error.to_string())),
        }
    }
}

fn open(target: SocketAddr) -> Result<(Talk, Answer)> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HUNG))?;
    let mut talk = Talk { stream: BufReader::new(stream), line: String::new(), sent: 0 };
    talk.say()?;
    let first = talk.hear();
    let Wait::Echo(answer) = first else { return Err(anyhow!("{target} accepted a connection and did not echo")) };
    Ok((talk, answer))
}

fn run(target: SocketAddr, stop: &AtomicBool, records: &AtomicU64, first: &Sender<Result<String>>) -> Ended {
    let mut ended = Ended { pod: String::new(), fate: Fate::Survived, records: 0, longest_pause: Duration::ZERO };
    let mut talk = match open(target) {
        Ok((talk, answer)) => {
            ended.pod.clone_from(&answer.pod);
            let _ = first.send(Ok(answer.pod));
            talk
        }
        Err(error) => {
            let _ = first.send(Err(error));
            return ended;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(PERIOD);
        let start = Instant::now();
        let outcome = talk.say().map_or_else(|error| Wait::Over(Fate::Broken(error.to_string())), |()| talk.hear());
        match outcome {
            Wait::Echo(answer) if answer.pod == ended.pod => {
                ended.records += 1;
                records.fetch_add(1, Ordering::Relaxed);
                ended.longest_pause = ended.longest_pause.max(start.elapsed());
            }
            Wait::Echo(answer) => ended.fate = Fate::Broken(format!("{} answers", answer.pod)),
            Wait::Over(fate) => ended.fate = fate,
        }
        if ended.fate != Fate::Survived {
            break;
        }
    }
    ended
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
