//! Pods: tiny servers that say who they are and whom they saw.
//!
//! One TCP port speaks two protocols: a connection whose first line begins with `GET ` is HTTP (`/healthz` and any
//! other path answer 200, or 503 after [`Pod::fail_health`]); any other line is answered with
//! `<pod> <client address:port> <line>`, for as long as the connection lasts. UDP answers likewise, a datagram each; to
//! a load's numbered requests it adds how many microseconds they lay unread.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::{poll::readable, stamps::Stamped, topology::Host, traffic::Number};

/// The port on which pods serve TCP and HTTP.
pub const TCP_PORT: u16 = 8080;
/// The port on which pods serve UDP.
pub const UDP_PORT: u16 = 5353;

/// How long a line may be; longer ones end the connection.
const MAX_LINE: usize = 16 * 1024;
/// How often a server looks at its switches.
const TICK: Duration = Duration::from_millis(20);

/// Loads whose numbers a pod keeps; those of the oldest are forgotten.
const MAX_RUNS: usize = 32;
/// Texts without a number that a pod remembers.
const MAX_TEXTS: usize = 100_000;

/// Requests of a load that a pod counts: an hour of a thousand a second.
const MAX_REQUESTS: usize = 4_000_000;

/// How often a pod received each request of a load, by the request's number.
type Tally = Vec<u8>;

/// What a pod has seen.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Accepted TCP connections, probes included.
    pub connections: u64,
    /// Lines received on TCP connections.
    pub lines: u64,
    /// Datagrams received.
    pub datagrams: u64,
    /// HTTP requests.
    pub http: u64,
    /// Lines and datagrams whose text had come before.
    pub duplicates: u64,
    /// Who asked by a line or a datagram (not by HTTP).
    pub clients: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    paused: AtomicBool,
    deaf: AtomicBool,
    unhealthy: AtomicBool,
    counts: Mutex<Counts>,
    tallies: Mutex<BTreeMap<u64, Tally>>,
}

/// What pods received of a load, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Requests that came at least once.
    pub requests: u64,
    /// How often a request came that had come before, to the same pod or to another.
    pub duplicates: u64,
}

/// What `pods` received of load number `run` ([`crate::traffic::Report::run`]).
#[must_use]
pub fn received(pods: &[Pod], run: u64) -> Received {
    let mut all: Vec<u64> = Vec::new();
    for pod in pods {
        let tallies = pod.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tally) = tallies.get(&run) else { continue };
        all.resize(all.len().max(tally.len()), 0);
        all.iter_mut().zip(tally).for_each(|(sum, times)| *sum += u64::from(*times));
    }
    let requests = all.iter().filter(|times| **times > 0).count() as u64;
    Received { requests, duplicates: all.iter().sum::<u64>() - requests }
}

/// A running pod; it ends on Drop.
#[derive(Debug)]
pub struct Pod {
    /// Its name, which its answers begin with.
    pub name: String,
    /// The node behind which it runs.
    pub node: String,
    /// Where it listens: IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Pod {
    /// Starts a pod in `host`: a pod's own namespace, or a node's (as hostNetwork pods are). It listens on return.
    ///
    /// # Errors
    /// When its ports are taken.
    pub fn start(name: &str, node: &str, host: &Host) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (ready, started) = channel();
        let (inner, own_name) = (Arc::clone(&shared), name.to_owned());
        let thread = host.ns.thread(name, move || serve(own_name, inner, &ready))?;
        started.recv().with_context(|| format!("pod {name} ended at once"))??;
        Ok(Self {
            name: name.to_owned(),
            node: node.to_owned(),
            addresses: host.addresses(),
            shared,
            thread: Some(thread),
        })
    }

    /// Stops (or resumes) answering anything: the kernel still accepts connections, nobody speaks on them.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Ordering::Relaxed);
    }

    /// Refuses (or takes) new TCP connections; those it has continue.
    pub fn refuse_connections(&self, refuse: bool) {
        self.shared.deaf.store(refuse, Ordering::Relaxed);
    }

    /// HTTP requests are answered with 503 (or 200); everything else goes on.
    pub fn fail_health(&self, fail: bool) {
        self.shared.unhealthy.store(fail, Ordering::Relaxed);
    }

    /// What it has seen until now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    received: Vec<u8>,
}

struct Server {
    name: String,
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    udp: Stamped,
    connections: Vec<Connection>,
    seen: HashSet<Vec<u8>>,
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, TCP_PORT)).into())?;
    socket.listen(256)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn serve(name: String, shared: Arc<Shared>, ready: &Sender<Result<()>>) {
    let opened = || -> Result<(TcpListener, Stamped)> {
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, UDP_PORT)).context("UDP port")?;
        Ok((listen().context("TCP port")?, Stamped::new(udp)?))
    };
    let (listener, udp) = match opened() {
        Ok(sockets) => sockets,
        Err(error) => {
            let _ = ready.send(Err(error.context(format!("pod {name} cannot listen"))));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    let mut server =
        Server { name, shared, listener: Some(listener), udp, connections: Vec::new(), seen: HashSet::new() };
    while !server.shared.stop.load(Ordering::Relaxed) {
        server.step();
    }
}

impl Server {
    fn step(&mut self) {
        let deaf = self.shared.deaf.load(Ordering::Relaxed);
        if deaf {
            self.listener = None;
        } else if self.listener.is_none() {
            self.listener = listen().ok();
        }
        if self.shared.paused.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            return;
        }
        let listener = self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let mut fds = vec![listener, self.udp.socket().as_raw_fd()];
        fds.extend(self.connections.iter().map(|connection| connection.stream.as_raw_fd()));
        let ready = readable(&fds, TICK);
        let mut kept = Vec::with_capacity(self.connections.len());
        for (mut connection, ready) in std::mem::take(&mut self.connections).into_iter().zip(&ready[2..]) {
            if !ready || self.talk(&mut connection).is_ok() {
                kept.push(connection);
            }
        }
        self.connections = kept;
        if ready[0] {
            self.accept();
        }
        if ready[1] {
            self.datagrams();
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, peer))) = self.listener.as_ref().map(TcpListener::accept) {
            if stream.set_nonblocking(true).is_ok() {
                let _ = stream.set_nodelay(true);
                self.count(|counts| counts.connections += 1);
                self.connections.push(Connection { stream, peer: canonical(peer), received: Vec::new() });
            }
        }
    }

    /// Serves what a connection has sent; an error means it is over.
    fn talk(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let mut buffer = [0_u8; 4096];
        match connection.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => connection.received.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        if connection.received.starts_with(b"GET ") {
            return if connection.received.windows(4).any(|end| end == b"\r\n\r\n") {
                self.http(connection)
            } else {
                Ok(())
            };
        }
        while let Some(end) = connection.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = connection.received.drain(..=end).collect();
            self.note(&line, connection.peer, |counts| counts.lines += 1);
            connection.stream.write_all(&self.answer(connection.peer, &line))?;
        }
        if connection.received.len() > MAX_LINE { Err(ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// One request a connection.
    fn http(&self, connection: &mut Connection) -> std::io::Result<()> {
        self.count(|counts| counts.http += 1);
        let status = if self.shared.unhealthy.load(Ordering::Relaxed) { "503 Service Unavailable" } else { "200 OK" };
        let body = format!("{} {}\n", self.name, connection.peer);
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        connection.stream.write_all(answer.as_bytes())?;
        Err(ErrorKind::ConnectionAborted.into())
    }

    fn datagrams(&mut self) {
        let mut buffer = [0_u8; 2048];
        while let Ok(datagram) = self.udp.receive(&mut buffer) {
            let (text, peer) = (&buffer[..datagram.length], canonical(datagram.peer));
            let numbered = self.note(text, peer, |counts| counts.datagrams += 1);
            let mut answer = self.answer(peer, text);
            if numbered {
                let held = Instant::now().saturating_duration_since(datagram.arrived);
                answer.extend_from_slice(format!(" {}", held.as_micros()).as_bytes());
            }
            let _ = self.udp.socket().send_to(&answer, datagram.peer);
        }
    }

    fn answer(&self, peer: SocketAddr, text: &[u8]) -> Vec<u8> {
        let mut answer = format!("{} {peer} ", self.name).into_bytes();
        answer.extend_from_slice(text);
        answer
    }

    /// Enters a line or datagram; tells whether it has a load's number.
    fn note(&mut self, text: &[u8], peer: SocketAddr, what: impl FnOnce(&mut Counts)) -> bool {
        let number = std::str::from_utf8(text).ok().and_then(Number::parse).map(|(number, _)| number);
        let duplicate = if let Some(number) = number {
            self.tally(number)
        } else {
            if self.seen.len() >= MAX_TEXTS {
                self.seen.clear();
            }
            !self.seen.insert(text.to_vec())
        };
        self.count(|counts| {
            what(counts);
            counts.duplicates += u64::from(duplicate);
            counts.clients.insert(peer.ip());
        });
        number.is_some()
    }

    /// Counts a numbered request; tells whether it came before.
    fn tally(&self, number: Number) -> bool {
        let mut tallies = self.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(number.run).or_default();
        let id = (number.id as usize).min(MAX_REQUESTS);
        if tally.len() <= id {
            tally.resize(id + 1, 0);
        }
        let before = tally[id];
        tally[id] = before.saturating_add(1);
        if tallies.len() > MAX_RUNS {
            tallies.pop_first();
        }
        before > 0
    }

    fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
