//! Clients that account for every request: what was sent, answered, lost, answered twice, by whom, and the longest gap.
//!
//! The times are the kernel's, the prober sends from a thread of its own with real-time priority where that is allowed,
//! and where it ran late all the same it says so and takes that off (`ledger`). Every request has a number of its own,
//! by which the pods count what they were given twice ([`crate::pods::received`]).

mod flood;
mod ledger;
mod parts;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    netns::Netns,
    observe::eventually,
    poll::{readable, real_time},
    stamps::Stamped,
};
pub use flood::flood;
use ledger::Served;
pub use ledger::{Gap, Number, Report};
pub use parts::{Part, Parts};

/// A prober that is late by up to this makes up for it at once, so that the rate holds; what it missed beyond is left out.
const MAKE_UP: Duration = Duration::from_millis(20);
/// How often answers are read. Their times are the kernel's.
const READ: Duration = Duration::from_millis(5);
/// How long answers are waited for after the last request.
const DRAIN: Duration = Duration::from_millis(300);
/// How long [`Meter::more_answers`] waits: far beyond any outage that is to be measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a pod answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The pod's name.
    pub pod: String,
    /// The client as the pod saw it.
    pub seen: SocketAddr,
    /// What it was asked.
    pub text: String,
}

impl Answer {
    /// Reads `<pod> <client> <text>`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end().splitn(3, ' ');
        let (pod, seen, text) = (words.next()?, words.next()?, words.next()?);
        Some(Self { pod: pod.to_owned(), seen: seen.parse().ok()?, text: text.to_owned() })
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A new connection for each request.
    Tcp,
    /// A datagram for each request.
    Udp,
}

/// Asks once, from a new source port, in the calling thread's namespace.
///
/// # Errors
/// When no answer comes within `timeout`.
pub fn ask(transport: Transport, target: SocketAddr, text: &str, timeout: Duration) -> Result<Answer> {
    let line = match transport {
        Transport::Tcp => {
            let mut stream = TcpStream::connect_timeout(&target, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.write_all(format!("{text}\n").as_bytes())?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            line
        }
        Transport::Udp => {
            let socket = udp_to(target)?;
            socket.set_read_timeout(Some(timeout))?;
            socket.send(text.as_bytes())?;
            let mut buffer = [0_u8; 2048];
            let length = socket.recv(&mut buffer)?;
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        }
    };
    Answer::parse(&line).with_context(|| format!("{target} answered {line:?}"))
}

fn udp_to(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// A load to start.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    transport: Transport,
    target: SocketAddr,
    interval: Duration,
    sources: usize,
    timeout: Duration,
}

impl Load {
    /// Requests to `target`, by default 100 each second; UDP from 8 source ports, TCP from a new one each.
    #[must_use]
    pub fn new(transport: Transport, target: SocketAddr) -> Self {
        Self { transport, target, interval: Duration::from_millis(10), sources: 8, timeout: Duration::from_secs(5) }
    }

    /// So many requests each second, 1 to 10,000.
    #[must_use]
    pub fn per_second(mut self, rate: u32) -> Self {
        self.interval = Duration::from_secs(1) / rate.clamp(1, 10_000);
        self
    }

    /// From so many source ports in turn (UDP).
    #[must_use]
    pub fn sources(mut self, count: usize) -> Self {
        self.sources = count.clamp(1, 512);
        self
    }

    /// A TCP request without an answer after this time is lost.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts it in `ns`, in the background.
    ///
    /// # Errors
    /// When sockets cannot be made.
    pub fn start(self, ns: &Netns) -> Result<Meter> {
        self.start_on(ns, &[self.target])
    }

    /// As [`Load::start`], to several targets in turn (UDP; TCP goes to the first). There are at least as many sources
    /// as targets, and source number i speaks to target number i.
    ///
    /// # Errors
    /// When sockets cannot be made.
    pub fn start_on(self, ns: &Netns, targets: &[SocketAddr]) -> Result<Meter> {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let (answered, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mark = Arc::new(Mutex::new(Mark { since: Instant::now(), pods: None }));
        let (stopped, progress, marked) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&mark));
        let asked = Arc::clone(&sent);
        let several = targets.len() > 1;
        let targets: Vec<_> = targets.iter().copied().cycle().take(self.sources.max(targets.len())).collect();
        let thread = ns.thread("load", move || match self.transport {
            Transport::Udp => self.udp(run, &targets, &stopped, &asked, &progress).map(|(sent, inbox)| {
                let Mark { since, pods } = marked.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let Inbox { report, answers, pods: answering } = inbox;
                let gaps = || ledger::by_source(targets.len(), self.interval, &sent, &answers, since);
                let by_source = if several { gaps() } else { Vec::new() };
                let parts = pods.map(|pods| {
                    let named = |pod: u16| answering.get(usize::from(pod)).is_some_and(|pod| pods.contains(pod));
                    parts::parts(targets.len(), self.interval, &sent, &answers, since, named)
                });
                let report = ledger::close(report, self.interval, false, &sent, &answers);
                Report { by_source, parts, ..report }
            }),
            Transport::Tcp => self.tcp(run, &stopped, &progress),
        })?;
        Ok(Meter { run, stop, mark, answered, sent, thread })
    }

    fn udp(
        self,
        run: u64,
        targets: &[SocketAddr],
        stop: &AtomicBool,
        asked: &AtomicU64,
        progress: &AtomicU64,
    ) -> Result<(Vec<Instant>, Inbox)> {
        let sockets = targets.iter().map(|target| udp_to(*target)).collect::<Result<Vec<_>, _>>()?;
        let senders = sockets.iter().map(UdpSocket::try_clone).collect::<Result<Vec<_>, _>>()?;
        let readers = sockets.into_iter().map(Stamped::new).collect::<Result<Vec<_>, _>>()?;
        let sent_all = AtomicBool::new(false);
        let mut inbox = Inbox::new(run);
        let sent = std::thread::scope(|scope| {
            let prober = scope.spawn(|| {
                let sent = self.probe(run, &senders, stop, asked);
                sent_all.store(true, Ordering::Release);
                sent
            });
            inbox.read(readers, &sent_all, progress);
            prober.join()
        });
        let sent = sent.map_err(|_| anyhow!("the prober panicked"))?;
        Ok((sent, inbox))
    }

    /// Sends a request each interval, from the sources in turn, until it is stopped: when each was sent.
    fn probe(self, run: u64, sockets: &[UdpSocket], stop: &AtomicBool, asked: &AtomicU64) -> Vec<Instant> {
        real_time();
        let mut sent = Vec::with_capacity(1 << 16);
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            readable(&[], due.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            let id = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            sent.push(now);
            // A refused or unreachable destination shows as a lost request.
            let _ = sockets[id as usize % sockets.len()].send(Number { run, id }.to_string().as_bytes());
            asked.store(sent.len() as u64, Ordering::Relaxed);
            due = next_due(due, now, self.interval);
        }
        sent
    }

    fn tcp(self, run: u64, stop: &AtomicBool, progress: &Arc<AtomicU64>) -> Result<Report> {
        let inbox = Arc::new(Mutex::new(Inbox::new(run)));
        let mut sent = Vec::new();
        let mut due = Instant::now();
        let mut requests = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            let id = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            sent.push(now);
            due = next_due(due, now, self.interval);
            let (inbox, progress) = (Arc::clone(&inbox), Arc::clone(progress));
            requests.push(std::thread::spawn(move || {
                if let Ok(answer) = ask(Transport::Tcp, self.target, &Number { run, id }.to_string(), self.timeout) {
                    lock(&inbox).take(&answer, Instant::now());
                    progress.fetch_add(1, Ordering::Relaxed);
                }
            }));
            requests.retain(|request| !request.is_finished());
        }
        for request in requests {
            let _ = request.join();
        }
        let inbox = lock(&inbox);
        Ok(ledger::close(inbox.report.clone(), self.interval, true, &sent, &inbox.answers))
    }
}

/// Answers as they come.
#[derive(Debug)]
struct Inbox {
    report: Report,
    answers: Vec<Served>,
    /// Who answered; a [`Served::pod`] is a place in it.
    pods: Vec<String>,
}

impl Inbox {
    fn new(run: u64) -> Self {
        Self { report: Report { run, ..Report::default() }, answers: Vec::new(), pods: Vec::new() }
    }

    /// Enters an answer; others' and what is none are ignored.
    fn take(&mut self, answer: &Answer, arrived: Instant) {
        let Some((number, held)) = Number::parse(&answer.text).filter(|(number, _)| number.run == self.report.run)
        else {
            return;
        };
        let pod = self.pods.iter().position(|pod| *pod == answer.pod).unwrap_or_else(|| {
            self.pods.push(answer.pod.clone());
            self.pods.len() - 1
        });
        let pod = u16::try_from(pod).unwrap_or(u16::MAX);
        self.answers.push(Served { id: number.id, arrived, held, pod });
        match self.report.by_pod.get_mut(&answer.pod) {
            Some(count) => *count += 1,
            None => drop(self.report.by_pod.insert(answer.pod.clone(), 1)),
        }
        self.report.seen_as.insert(answer.seen.ip());
    }

    /// Reads answers until a while after all was sent.
    fn read(&mut self, mut sockets: Vec<Stamped>, sent_all: &AtomicBool, progress: &AtomicU64) {
        let fds: Vec<_> = sockets.iter().map(|socket| socket.socket().as_raw_fd()).collect();
        let mut end = None;
        let mut buffer = [0_u8; 2048];
        while end.is_none_or(|end| Instant::now() < end) {
            if end.is_none() && sent_all.load(Ordering::Acquire) {
                end = Some(Instant::now() + DRAIN);
            }
            std::thread::sleep(READ);
            let ready = readable(&fds, Duration::ZERO);
            for (socket, _) in sockets.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                // An error that is not "nothing there" is about one datagram (refused): the next call clears it.
                while let Ok(datagram) = socket.receive(&mut buffer) {
                    let text = std::str::from_utf8(&buffer[..datagram.length]).ok();
                    if let Some(answer) = text.and_then(Answer::parse) {
                        self.take(&answer, datagram.arrived);
                    }
                }
            }
            progress.store(self.answers.len() as u64, Ordering::Relaxed);
        }
    }
}

fn lock(inbox: &Mutex<Inbox>) -> std::sync::MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next time to send.
fn next_due(due: Instant, now: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    if now.saturating_duration_since(next) > MAKE_UP { now } else { next }
}

/// What of a load is to be looked at more closely.
#[derive(Debug, Clone)]
struct Mark {
    since: Instant,
    /// Whose requests have books of their own.
    pods: Option<BTreeSet<String>>,
}

/// A running load.
#[derive(Debug)]
pub struct Meter {
    run: u64,
    stop: Arc<AtomicBool>,
    mark: Arc<Mutex<Mark>>,
    answered: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<Result<Report>>>,
}

impl Meter {
    /// Its number, for [`crate::pods::received`].
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// From now on the gaps of [`Report::by_source`] count.
    pub fn mark(&self) {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).since = Instant::now();
    }

    /// From now on requests that would go to one of `pods` have books of their own: [`Report::parts`].
    pub fn mark_pods(&self, pods: BTreeSet<String>) {
        let mark = Mark { since: Instant::now(), pods: Some(pods) };
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
    }

    /// Answers until now.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// UDP requests sent until now.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn more_answers(&self, count: u64) -> Result<()> {
        let goal = self.answered() + count;
        eventually(PATIENCE, "the load is answered", || {
            let answered = self.answered();
            ensure!(answered >= goal, "{answered} answers, not {goal}");
            Ok(())
        })
    }

    /// Ends the load, waits for late answers and gives the account.
    ///
    /// # Errors
    /// When the load could not run.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))??
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_not_answers_are_ignored() {
        assert_eq!(Answer::parse("n1-p1 10.77.0.9:77 12\n").map(|a| a.text).as_deref(), Some("12"));
        for wrong in ["", "n1-p1", "n1-p1 nowhere 12", "n1-p1 10.77.0.9:77"] {
            assert_eq!(Answer::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_to_another_load_is_not_counted() {
        let mut inbox = Inbox::new(2);
        for text in ["#2.0 15", "#1.0", "hello", "#2.1"] {
            let line = format!("n1-p1 10.77.0.9:77 {text}");
            inbox.take(&Answer::parse(&line).expect("an answer"), Instant::now());
        }
        assert_eq!(inbox.answers.iter().map(|served| served.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(inbox.answers[0].held, Duration::from_micros(15));
    }

    #[test]
    fn a_late_prober_makes_up_for_little_and_leaves_out_much() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        assert_eq!(next_due(start, start + ms(15), ms(1)), start + ms(1));
        assert_eq!(next_due(start, start + ms(150), ms(1)), start + ms(150));
    }
}
