//! The thread that runs a [`Watcher`]: its own socket, a high priority, and nothing else to wait for.
//!
//! It is given its orders (plan, keys) as the newest value of a channel, with an eventfd to wake it, and gives back its
//! newest state likewise, so that neither side can hold up the other.
#![expect(clippy::disallowed_methods, reason = "edge: reads the clocks for the pure watcher")]

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
        time::{TimeSpec, TimeValLike as _},
    },
};
use socket2::Socket;
use tokio::sync::{mpsc, watch};

use super::{
    priority::prefer,
    udp::{canonical, sendable},
};
use crate::{
    KeyRing,
    header::WATCH_VERSION,
    stats::RejectReason,
    watch::{Plan, Returns, SIGNAL_DATAGRAM_MAX, Watcher},
};

/// Datagrams taken over from, or handed to, the gossip before they are dropped.
pub(super) const HANDED_OVER: usize = 256;
/// The longest sleep: as good as none.
const FAR: Duration = Duration::from_secs(3600);
/// How often the counters are shown.
const SHOW: Duration = Duration::from_millis(500);
/// Datagrams read before what is due is done.
const BATCH: usize = 256;

/// What the gossip wants of the watch.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    /// Whom to watch.
    pub(super) plan: Plan,
    /// What to seal with.
    pub(super) keys: KeyRing,
    /// When the gossip gave these, or said that they still hold.
    pub(super) at: Instant,
}

/// A datagram that came to the wrong socket.
pub(super) type Strayed = (Vec<u8>, SocketAddr);

/// The gossip's ends of the channels to the thread. Dropped: the thread ends.
#[derive(Debug)]
pub(super) struct Link {
    /// `None` while it is dropped.
    orders: Option<watch::Sender<Orders>>,
    strayed: std_mpsc::SyncSender<Strayed>,
    wake: Arc<EventFd>,
    /// What the thread sees.
    pub(super) returns: watch::Receiver<Returns>,
    /// Gossip that came to the watch's socket.
    pub(super) returned: mpsc::Receiver<Strayed>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Link {
    /// Replaces the orders, and wakes the thread.
    pub(super) fn order(&self, change: impl FnOnce(&mut Orders)) {
        if let Some(orders) = &self.orders {
            orders.send_modify(change);
        }
        self.wake();
    }

    /// Says that the gossip works. The thread sees it when it wakes next.
    pub(super) fn alive(&self, now: Instant) {
        if let Some(orders) = &self.orders {
            orders.send_modify(|orders| orders.at = now);
        }
    }

    /// Ends the thread, and waits until its socket is closed.
    pub(super) async fn finish(mut self) {
        let thread = self.thread.take();
        drop(self);
        let ended = tokio::task::spawn_blocking(|| thread.map(thread::JoinHandle::join)).await;
        if !matches!(ended, Ok(None | Some(Ok(())))) {
            tracing::error!("the watch's thread ended badly");
        }
    }

    /// Hands over a datagram; drops it if too many wait.
    pub(super) fn hand_over(&self, datagram: &[u8], from: SocketAddr) {
        if self.strayed.try_send((datagram.to_vec(), from)).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        // It fails only if the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // In this order: the thread ends when it wakes and finds the channel closed.
        self.orders = None;
        self.wake();
    }
}

/// Starts the thread.
///
/// # Errors
/// If the system gives no thread or no eventfd.
pub(super) fn start(watcher: Watcher, socket: Socket, bind: SocketAddr, orders: Orders) -> io::Result<Link> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let (orders, orders_in) = watch::channel(orders);
    let (strayed, strayed_in) = std_mpsc::sync_channel(HANDED_OVER);
    let (returns_out, returns) = watch::channel(Returns::default());
    let (returned_out, returned) = mpsc::channel(HANDED_OVER);
    let now = Instant::now();
    let keeper = Keeper {
        watcher,
        socket,
        bind,
        wake: Arc::clone(&wake),
        orders: orders_in,
        strayed: strayed_in,
        returns: returns_out,
        returned: returned_out,
        empty_at: now,
        shown: now,
        misrouted: 0,
        unread: Unread::default(),
    };
    let thread = thread::Builder::new().name("watch".into()).spawn(move || keeper.run())?;
    Ok(Link { orders: Some(orders), strayed, wake, returns, returned, thread: Some(thread) })
}

struct Keeper {
    watcher: Watcher,
    socket: Socket,
    bind: SocketAddr,
    wake: Arc<EventFd>,
    orders: watch::Receiver<Orders>,
    strayed: std_mpsc::Receiver<Strayed>,
    returns: watch::Sender<Returns>,
    returned: mpsc::Sender<Strayed>,
    /// When the socket was last found empty: nothing that is read now can be older.
    empty_at: Instant,
    shown: Instant,
    misrouted: u64,
    unread: Unread,
}

impl Keeper {
    fn run(mut self) {
        prefer();
        let mut buffer = vec![0; 2048];
        let mut control = nix::cmsg_space!(TimeSpec, u32);
        self.orders.mark_changed();
        while self.obey() {
            self.sleep();
            // What peers have said comes before what they have failed to say.
            self.receive(&mut buffer, &mut control);
            let now = Instant::now();
            if self.watcher.poll_timeout().is_some_and(|due| due <= now) {
                self.watcher.handle_timeout(now);
            }
            self.put_out(now);
        }
    }

    /// Takes over new orders; false if there will be no more.
    fn obey(&mut self) -> bool {
        match self.orders.has_changed() {
            Err(_) => return false,
            Ok(false) => return true,
            Ok(true) => {}
        }
        let orders = self.orders.borrow_and_update().clone();
        self.watcher.note_gossip(orders.at);
        self.watcher.set_keys(orders.keys);
        self.watcher.set_plan(orders.plan, Instant::now());
        true
    }

    fn sleep(&mut self) {
        let due = self.watcher.poll_timeout().map_or(FAR, |at| at.saturating_duration_since(Instant::now()));
        let nanoseconds = i64::try_from(due.min(FAR).as_nanos()).unwrap_or(i64::MAX);
        let mut both =
            [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut both, Some(TimeSpec::nanoseconds(nanoseconds)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => tracing::warn!(%error, "the watch cannot sleep"),
        }
        // Fails if it was not this that woke.
        let _ = self.wake.read();
    }

    fn receive(&mut self, buffer: &mut [u8], control: &mut [u8]) {
        for _ in 0..BATCH {
            match next_datagram(&self.socket, buffer, control) {
                Ok((length, from, stamp, dropped)) => {
                    self.unread.note(dropped);
                    let datagram = buffer.get(..length).unwrap_or_default();
                    self.take(datagram, from, stamp);
                }
                Err(Errno::EAGAIN) => {
                    self.empty_at = Instant::now();
                    break;
                }
                // An ICMP error about an earlier send, such as a peer whose agent is down.
                Err(error) => tracing::trace!(%error, "watch receive"),
            }
        }
        while let Ok((datagram, from)) = self.strayed.try_recv() {
            self.misrouted += 1;
            let now = Instant::now();
            self.watcher.handle_datagram(&datagram, canonical(from), now, now);
        }
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr, stamp: Option<SystemTime>) {
        if datagram.first() != Some(&WATCH_VERSION) {
            self.misrouted += 1;
            // The gossip is behind: as good as lost on the way.
            let _ = self.returned.try_send((datagram.to_vec(), from));
            return;
        }
        let now = Instant::now();
        // The stamp is by the clock on the wall, which may have been set since; but never has a datagram waited for longer
        // than since the socket was last found empty.
        let waited = stamp.and_then(|stamp| SystemTime::now().duration_since(stamp).ok()).unwrap_or_default();
        let waited = waited.min(now.saturating_duration_since(self.empty_at));
        let arrival = now.checked_sub(waited).unwrap_or(now);
        self.watcher.handle_datagram(datagram, canonical(from), arrival, now);
    }

    /// Sends what is to be sent, and shows what is to be seen.
    fn put_out(&mut self, now: Instant) {
        while let Some((to, datagram)) = self.watcher.poll_transmit() {
            // A datagram that cannot be sent is a lost one: the watch copes.
            if let Err(error) = self.socket.send_to(&datagram, &sendable(to, self.bind).into()) {
                tracing::trace!(%to, %error, "watch send");
            }
        }
        let report = self.watcher.poll_report();
        if report.is_none() && now.saturating_duration_since(self.shown) < SHOW {
            return;
        }
        self.shown = now;
        let mut stats = self.watcher.stats().clone();
        stats.misrouted = self.misrouted;
        if self.unread.all > 0 {
            stats.rejected.insert(RejectReason::Unread, self.unread.all);
        }
        self.returns.send_modify(|returns| {
            returns.stats = stats;
            if let Some(report) = report {
                returns.report = report;
                returns.version += 1;
            }
        });
    }
}

/// What the kernel dropped of what was sent to the socket. It counts in 32 bits, and tells with each datagram.
#[derive(Debug, Default)]
struct Unread {
    told: u32,
    all: u64,
}

impl Unread {
    fn note(&mut self, dropped: Option<u32>) {
        let Some(dropped) = dropped else { return };
        self.all += u64::from(dropped.wrapping_sub(self.told));
        self.told = dropped;
    }
}

/// Length, sender, the kernel's time of arrival, and how many datagrams it had dropped by then.
type Arrived = (usize, SocketAddr, Option<SystemTime>, Option<u32>);

fn next_datagram(socket: &Socket, buffer: &mut [u8], control: &mut [u8]) -> nix::Result<Arrived> {
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(control), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4(SocketAddrV4::from(*address)));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6(SocketAddrV6::from(*address))))
    });
    let (mut stamp, mut dropped) = (None, None);
    for message in message.cmsgs().ok().into_iter().flatten() {
        match message {
            ControlMessageOwned::ScmTimestampns(at) => stamp = UNIX_EPOCH.checked_add(Duration::from(at)),
            ControlMessageOwned::RxqOvfl(count) => dropped = Some(count),
            _ => {}
        }
    }
    Ok((message.bytes, from.ok_or(Errno::EPROTO)?, stamp, dropped))
}

/// Datagrams longer than this are not looked at by the watch, so the buffer need not hold more.
const _: () = assert!(SIGNAL_DATAGRAM_MAX < 2048);
