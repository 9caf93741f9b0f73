//! A slow line: each frame from and to a host arrives later, unharmed and in order.
//!
//! Kernels without `sch_netem` have no delay to offer, so a thread in the switch stands between the host's port and the
//! bridge and passes frames on by packet sockets:
//!
//! ```text
//!   host eth0 ==== <host>  (packet socket)  thread  (packet socket)  <host>d ==== <host>b -- br0
//! ```
//! The sockets carry virtio-net headers (packet(7), PACKET_VNET_HDR): without them frames whose checksum or
//! segmentation is left to the hardware, as veths leave them, would arrive broken.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::Socket;

use crate::{poll::readable, sniffer, topology::Lan};

/// The largest frame with its header: 64 KiB of segmented payload.
const LARGEST: usize = 68 * 1024;
/// Frames under way in one direction; more are dropped, as in a real line.
const CAPACITY: usize = 20_000;
/// How often the thread looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// A line in place; [`Lan::fast_again`] takes it out.
#[derive(Debug)]
pub struct Line {
    host: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Lan {
    /// Each frame from the host, and each to it, arrives `delay` later. The host's port must have no other fault.
    ///
    /// # Errors
    /// When there is no such host, or packet sockets cannot be had.
    pub fn delay(&self, host: &str, delay: Duration) -> Result<Line> {
        self.host(host)?;
        self.switch.ip(&[
            format!("link add {host}d type veth peer name {host}b"),
            format!("link set {host}d up"),
            format!("link set {host}b up"),
        ])?;
        let (stop, live) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, lives, port, far) = (Arc::clone(&stop), Arc::clone(&live), host.to_owned(), format!("{host}d"));
        let (sender, started) = channel();
        let thread =
            self.switch.thread("line", move || match open(&port).and_then(|near| Ok((near, open(&far)?))) {
                Ok((near, far)) => {
                    let _ = sender.send(Ok(()));
                    relay(near, far, delay, &stopped, &lives);
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            })?;
        started.recv().context("the line ended at once")??;
        self.switch.ip(&[format!("link set {host} nomaster"), format!("link set {host}b master br0")])?;
        // What the thread has read before, the bridge has passed on: it must not arrive twice.
        live.store(true, Ordering::Relaxed);
        Ok(Line { host: host.to_owned(), stop, thread: Some(thread) })
    }

    /// Takes the line out. What is on it is lost.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn fast_again(&self, line: Line) -> Result<()> {
        let host = &line.host;
        self.switch.ip(&[format!("link del {host}d"), format!("link set {host} master br0")])?;
        drop(line);
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet socket that receives what arrives at the interface, not what this thread sends there, with headers.
fn open(interface: &str) -> Result<Socket> {
    let socket = sniffer::open(interface)?;
    socket.set_nonblocking(true)?;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int that lives until the call returns, and its size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                libc::socklen_t::try_from(size_of::<libc::c_int>())?,
            )
        };
        if set != 0 {
            bail!("packet socket option {option}: {}", std::io::Error::last_os_error());
        }
    }
    Ok(socket)
}

fn relay(near: Socket, far: Socket, delay: Duration, stop: &AtomicBool, live: &AtomicBool) {
    let fds = [near.as_raw_fd(), far.as_raw_fd()];
    let mut sockets = [near, far];
    // By where the frames came from; they leave by the other.
    let mut under_way: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut buffer = vec![0_u8; LARGEST];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next = under_way.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min();
        readable(&fds, next.map_or(TICK, |due| due.saturating_duration_since(now)).min(TICK));
        for (from, queue) in under_way.iter_mut().enumerate() {
            while let Ok(length) = sockets[from].read(&mut buffer) {
                if queue.len() < CAPACITY && live.load(Ordering::Relaxed) {
                    queue.push_back((Instant::now() + delay, buffer[..length].to_vec()));
                }
            }
            let now = Instant::now();
            while queue.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, frame)) = queue.pop_front() else { break };
                // An interface that is going away takes nothing; the frame is lost.
                let _ = sockets[1 - from].write(&frame);
            }
        }
    }
}
