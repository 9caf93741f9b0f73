//! Clients that account for every request: what was sent, answered, lost, answered twice, by whom, and the longest gap.
//!
//! An outage is the longest run of requests in a row that were never answered, by the times at which they were sent:
//! so a busy machine, on which the prober itself runs late, is not blamed on the network. What was answered late, not
//! lost, shows in `slowest`.

use std::{
    collections::{BTreeMap, BTreeSet},
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

use anyhow::{Context, Result, anyhow};

use crate::{netns::Netns, poll::readable};

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

/// What became of a load.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests never answered.
    pub lost: u64,
    /// Answers to a request that had been answered before.
    pub duplicates: u64,
    /// The longest time in which every request was lost (module documentation); zero if none was.
    pub outage: Duration,
    /// All such times: from when, and how long.
    pub gaps: Vec<(Instant, Duration)>,
    /// The longest time from a request to its answer.
    pub slowest: Duration,
    /// Answers by pod.
    pub by_pod: BTreeMap<String, u64>,
    /// The client's addresses as the pods saw them.
    pub seen_as: BTreeSet<IpAddr>,
}

/// The books of a load: a plain function of what happened when.
#[derive(Debug, Default)]
struct Ledger {
    interval: Duration,
    sent: Vec<(Instant, bool)>,
    report: Report,
}

impl Ledger {
    fn new(interval: Duration) -> Self {
        Self { interval, ..Self::default() }
    }

    /// A request goes out; its number.
    fn send(&mut self, now: Instant) -> usize {
        self.sent.push((now, false));
        self.sent.len() - 1
    }

    fn answer(&mut self, answer: &Answer, now: Instant) {
        let Some(entry) = answer.text.parse().ok().and_then(|id: usize| self.sent.get_mut(id)) else { return };
        if std::mem::replace(&mut entry.1, true) {
            self.report.duplicates += 1;
            return;
        }
        let slow = now.saturating_duration_since(entry.0);
        self.report.slowest = self.report.slowest.max(slow);
        self.report.answered += 1;
        *self.report.by_pod.entry(answer.pod.clone()).or_default() += 1;
        self.report.seen_as.insert(answer.seen.ip());
    }

    fn finish(mut self) -> Report {
        for run in self.sent.chunk_by(|one, next| one.1 == next.1) {
            if let [(first, false), ..] = run
                && let Some((last, _)) = run.last()
            {
                let span = last.saturating_duration_since(*first) + self.interval;
                self.report.outage = self.report.outage.max(span);
                self.report.gaps.push((*first, span));
            }
        }
        self.report.sent = self.sent.len() as u64;
        self.report.lost = self.report.sent - self.report.answered;
        self.report
    }
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

    /// So many requests each second, 1 to 2,000.
    #[must_use]
    pub fn per_second(mut self, rate: u32) -> Self {
        self.interval = Duration::from_secs(1) / rate.clamp(1, 2000);
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
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, progress) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = ns.thread("load", move || match self.transport {
            Transport::Udp => self.udp(&stopped, &progress),
            Transport::Tcp => self.tcp(&stopped, &progress),
        })?;
        Ok(Meter { stop, answered, thread })
    }

    fn udp(self, stop: &AtomicBool, progress: &AtomicU64) -> Result<Report> {
        let sockets = (0..self.sources).map(|_| udp_to(self.target)).collect::<Result<Vec<_>, _>>()?;
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let mut ledger = Ledger::new(self.interval);
        let mut due = Instant::now();
        let mut draining = None;
        let mut buffer = [0_u8; 2048];
        loop {
            let now = Instant::now();
            match draining {
                None if stop.load(Ordering::Relaxed) => draining = Some(now + Duration::from_millis(300)),
                None if now >= due => {
                    let id = ledger.send(now);
                    // A refused or unreachable destination shows as a lost request.
                    let _ = sockets[id % sockets.len()].send(id.to_string().as_bytes());
                    due = next_due(due, now, self.interval);
                }
                Some(end) if now >= end => break,
                _ => {}
            }
            let wake = draining.unwrap_or(due);
            let ready = readable(&fds, wake.saturating_duration_since(Instant::now()));
            for (socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
                while let Ok(length) = socket.recv(&mut buffer) {
                    let answer = std::str::from_utf8(&buffer[..length]).ok().and_then(Answer::parse);
                    if let Some(answer) = answer {
                        ledger.answer(&answer, Instant::now());
                    }
                }
            }
            progress.store(ledger.report.answered, Ordering::Relaxed);
        }
        Ok(ledger.finish())
    }

    fn tcp(self, stop: &AtomicBool, progress: &Arc<AtomicU64>) -> Result<Report> {
        let ledger = Arc::new(Mutex::new(Ledger::new(self.interval)));
        let mut due = Instant::now();
        let mut requests = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let now = Instant::now();
            let id = {
                let mut books = lock(&ledger);
                due = next_due(due, now, self.interval);
                books.send(now)
            };
            let (ledger, progress) = (Arc::clone(&ledger), Arc::clone(progress));
            requests.push(std::thread::spawn(move || {
                if let Ok(answer) = ask(Transport::Tcp, self.target, &id.to_string(), self.timeout) {
                    let mut books = lock(&ledger);
                    books.answer(&answer, Instant::now());
                    progress.store(books.report.answered, Ordering::Relaxed);
                }
            }));
            requests.retain(|request| !request.is_finished());
        }
        for request in requests {
            let _ = request.join();
        }
        let books = std::mem::take(&mut *lock(&ledger));
        Ok(books.finish())
    }
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next time to send. Missed times are not made up for.
fn next_due(due: Instant, now: Instant, interval: Duration) -> Instant {
    (due + interval).max(now)
}

/// A running load.
#[derive(Debug)]
pub struct Meter {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Result<Result<Report>>>,
}

impl Meter {
    /// Answers until now.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
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

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn from_pod(text: &str) -> Answer {
        Answer { pod: "n1-p1".into(), seen: "10.77.0.9:1".parse().expect("an address"), text: text.into() }
    }

    #[test]
    fn the_outage_is_the_longest_run_of_lost_requests() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(ms(10)));
        for at in [0, 10, 20, 30, 120, 130, 140] {
            ledger.send(start + ms(at));
        }
        for (id, at) in [("0", 1), ("2", 95), ("5", 131), ("5", 132)] {
            ledger.answer(&from_pod(id), start + ms(at));
        }
        let report = ledger.finish();
        assert_eq!(report.outage, ms(100), "requests 3 and 4, sent at 30 and 120 ms, and the interval");
        assert_eq!(report.slowest, ms(75), "request 2 was late, not lost");
        assert_eq!((report.sent, report.answered, report.lost, report.duplicates), (7, 3, 4, 1));
    }

    #[test]
    fn without_a_lost_request_there_was_no_outage_however_late_the_prober_ran() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(ms(1)));
        for (id, at) in [("0", 0), ("1", 500)] {
            ledger.send(start + ms(at));
            ledger.answer(&from_pod(id), start + ms(at + 1));
        }
        assert_eq!(ledger.finish().outage, Duration::ZERO);
    }

    #[test]
    fn answers_that_are_not_answers_are_ignored() {
        assert_eq!(Answer::parse("n1-p1 10.77.0.9:77 12\n").map(|a| a.text).as_deref(), Some("12"));
        for wrong in ["", "n1-p1", "n1-p1 nowhere 12", "n1-p1 10.77.0.9:77"] {
            assert_eq!(Answer::parse(wrong), None, "{wrong}");
        }
    }
}
