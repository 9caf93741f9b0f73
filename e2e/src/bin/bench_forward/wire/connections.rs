//! TCP: a server that answers a byte by a byte, connections begun one after another by many tasks, and round trips.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    chaos::stats::Summary,
    netns::Netns,
    pods::{TCP_PORT, UDP_PORT},
};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::side::PATIENCE;
use crate::bed::{stay_on, stay_on_one_cpu};

/// The server is to answer once, and close.
const ONCE: u8 = b'c';
/// It is to answer for as long as it is asked.
const AGAIN: u8 = b'k';
/// Connections that are begun at the same time.
const TASKS: usize = 64;
/// Round trips that are measured.
const TRIPS: usize = 2_000;
/// How often a server looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// A server on a node's own address, and a UDP socket that nobody reads; both end on Drop.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Server {
    pub(super) fn start(ns: &Netns) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, started) = channel();
        let inner = Arc::clone(&stop);
        let thread = ns.thread("server", move || {
            let opened = stay_on_one_cpu().and_then(|()| open());
            let (listener, _udp) = match opened {
                Ok(sockets) => sockets,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            while !inner.load(Ordering::Relaxed) {
                // A client that is gone is nobody's matter.
                let _ = serve(&listener);
            }
        })?;
        started.recv().context("the server ended at once")??;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> Result<(TcpListener, UdpSocket)> {
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UDP_PORT)).context("UDP port")?;
    socket2::SockRef::from(&udp).set_recv_buffer_size(0)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, TCP_PORT)).into()).context("TCP port")?;
    socket.listen(1024)?;
    let listener: TcpListener = socket.into();
    nix::sys::socket::setsockopt(
        &listener,
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(0, i64::try_from(TICK.as_micros())?),
    )?;
    Ok((listener, udp))
}

/// One connection, to its end.
fn serve(listener: &TcpListener) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        stream.write_all(&byte)?;
        if byte[0] == ONCE {
            return Ok(());
        }
    }
}

/// One connection, begun, answered and closed.
pub(super) fn one(ns: &Netns, target: SocketAddr) -> Result<()> {
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| target.to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[ONCE])?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer == [ONCE], "{target} answered {answer:?}");
        Ok(())
    })
}

/// Connections a second: begun, answered by a byte, closed by the server.
pub(super) fn many(ns: &Netns, targets: &[SocketAddr], seconds: f64) -> Result<f64> {
    let (rate, failed) = many_that_may_fail(ns, targets, seconds)?;
    ensure!(failed == 0, "{failed} connections failed");
    Ok(rate)
}

/// The same; and how many failed.
pub(super) fn many_that_may_fail(ns: &Netns, targets: &[SocketAddr], seconds: f64) -> Result<(f64, u32)> {
    ns.run(|| {
        stay_on(0)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let start = Instant::now();
            let end = start + Duration::from_secs_f64(seconds);
            let tasks: Vec<_> =
                (0..TASKS).map(|task| tokio::spawn(begin(targets[task % targets.len()], end))).collect();
            let (mut count, mut failed) = (0, 0);
            for task in tasks {
                let (done, lost) = task.await?;
                (count, failed) = (count + done, failed + lost);
            }
            Ok((f64::from(count) / start.elapsed().as_secs_f64(), failed))
        })
    })
}

/// How many connections were answered, and how many were not in time, or with an error.
async fn begin(target: SocketAddr, end: Instant) -> (u32, u32) {
    let (mut count, mut failed) = (0, 0);
    while Instant::now() < end {
        let once = async {
            let mut stream = tokio::net::TcpStream::connect(target).await?;
            stream.write_all(&[ONCE]).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            if answer == [ONCE] { Ok(()) } else { Err(std::io::Error::from(ErrorKind::InvalidData)) }
        };
        match tokio::time::timeout(PATIENCE, once).await {
            Ok(Ok(())) => count += 1,
            _ => failed += 1,
        }
    }
    (count, failed)
}

/// The median of round trips on one connection, in microseconds.
pub(super) fn round_trip(ns: &Netns, target: SocketAddr) -> Result<f64> {
    Ok(Summary::of(round_trips(ns, target)?).median)
}

/// All of them.
pub(super) fn round_trips(ns: &Netns, target: SocketAddr) -> Result<Vec<f64>> {
    ns.run(|| {
        stay_on(0)?;
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut trips = Vec::with_capacity(TRIPS);
        for _ in 0..TRIPS {
            let start = Instant::now();
            stream.write_all(&[AGAIN])?;
            stream.read_exact(&mut [0])?;
            trips.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(trips)
    })
}
