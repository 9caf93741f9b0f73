//! The loop of the announcer's thread: waits, feeds the core, brings about what it says.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::IpAddr,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::{
    counters::{Event, Tally},
    multicast::Groups,
    packet::{LONGEST, Sockets},
};
use crate::{
    announce::{
        Announcement, Conflict, Inquiry, Kind,
        speaker::{Action, Port, Speaker, Verdict},
    },
    holdup::{HoldUp, TOLERANCE},
    link::Links,
    wire::MacAddr,
};

/// Until sockets that could not be opened, and groups that could not be joined, are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// An interface's sockets, or that they are missing, and for which port.
#[derive(Debug)]
struct Line {
    port: Port,
    sockets: Option<Sockets>,
    /// Sending failed and that was logged; cleared by a success.
    failing: bool,
}

/// What the loop waits for, besides frames and time.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) links: watch::Receiver<Arc<Links>>,
    pub(super) wished: watch::Receiver<BTreeMap<IpAddr, Announcement>>,
    pub(super) inquiry: watch::Receiver<Inquiry>,
    pub(super) again: mpsc::Receiver<IpAddr>,
}

/// What the loop was woken by.
enum Woken {
    Frame(String, io::Result<usize>),
    Wished,
    Inquiry,
    Links,
    Again(IpAddr),
    Time,
}

#[derive(Debug)]
pub(super) struct Driver {
    speaker: Speaker,
    lines: BTreeMap<String, Line>,
    groups: Groups,
    retry_at: Option<Instant>,
    /// Rotates which interface is heard first, so that a busy one does not starve the others.
    turn: usize,
    tally: Arc<Tally>,
    reports: mpsc::Sender<Conflict>,
}

impl Driver {
    pub(super) fn new(refresh: Duration, tally: Arc<Tally>, reports: mpsc::Sender<Conflict>) -> Self {
        Self {
            speaker: Speaker::new(refresh),
            lines: BTreeMap::new(),
            groups: Groups::default(),
            retry_at: None,
            turn: 0,
            tally,
            reports,
        }
    }

    /// Until the [`super::Announcer`] is dropped.
    pub(super) async fn run(mut self, inputs: Inputs) {
        let Inputs { mut links, mut wished, mut inquiry, mut again } = inputs;
        let mut buffer = vec![0; LONGEST];
        let mut links_known = true;
        let mut hold_up = HoldUp::new(Instant::now());
        links.mark_changed();
        loop {
            let tick = self.speaker.is_busy().then(|| hold_up.wake());
            let due = self.speaker.poll_timeout().into_iter().chain(self.retry_at).chain(tick).min();
            let woken = tokio::select! {
                (name, result) = self.next_frame(&mut buffer) => Woken::Frame(name, result),
                changed = wished.changed() => match changed {
                    Ok(()) => Woken::Wished,
                    Err(_) => return,
                },
                Ok(()) = inquiry.changed() => Woken::Inquiry,
                changed = links.changed(), if links_known => {
                    links_known = changed.is_ok();
                    Woken::Links
                }
                Some(vip) = again.recv() => Woken::Again(vip),
                () = sleep_until(due) => Woken::Time,
            };
            let now = Instant::now();
            let late = hold_up.woken(now).filter(|_| tick.is_some());
            if let Some(late) = late {
                tracing::warn!(?late, "the announcer was held up; asking whether the VIPs are still this node's");
                // What was wished and asked for before is as old.
                while again.try_recv().is_ok() {}
                self.speaker.handle_wishes(wished.borrow_and_update().clone(), now);
                self.speaker.handle_hold_up(now);
            }
            match woken {
                Woken::Again(_) | Woken::Wished if late.is_some() => {}
                Woken::Frame(name, result) => self.heard(&name, result, &buffer),
                Woken::Wished => self.speaker.handle_wishes(wished.borrow_and_update().clone(), now),
                Woken::Inquiry => self.speaker.handle_inquiry(inquiry.borrow_and_update().clone(), now),
                Woken::Links => {
                    let current = Arc::clone(&links.borrow_and_update());
                    self.speaker.handle_links(&current, now);
                }
                Woken::Again(vip) => self.speaker.handle_again(vip, now),
                Woken::Time => {}
            }
            self.turn();
            // From when it woke: it may be held up in the middle of a turn as well.
            hold_up.sleep(now);
        }
    }

    /// Brings about what the core wants by now: first what others wait for, then memberships.
    fn turn(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.groups.retry();
        }
        self.sync_lines(now);
        self.speaker.handle_timeout(now);
        while let Some(action) = self.speaker.poll_action() {
            match action {
                // Held up since this was decided: the next turn finds out whether it is still true.
                Action::Send { .. } if now.elapsed() > TOLERANCE => {}
                Action::Send { interface, kind, frame } => self.send(&interface, kind, &frame),
                Action::Report(conflict) => self.report(conflict),
            }
        }
        self.sync_groups(now);
    }

    /// Opens and closes sockets until there are some for exactly the speaker's ports.
    fn sync_lines(&mut self, now: Instant) {
        let ports = self.speaker.ports().clone();
        self.lines.retain(|name, line| ports.get(name) == Some(&line.port));
        let may_retry = self.retry_at.is_none();
        for (name, port) in ports {
            let (line, first) = match self.lines.entry(name.clone()) {
                Entry::Vacant(entry) => (entry.insert(Line { port, sockets: None, failing: false }), true),
                Entry::Occupied(entry) => (entry.into_mut(), false),
            };
            if line.sockets.is_some() || !(first || may_retry) {
                continue;
            }
            match Sockets::open(port.index) {
                Ok(sockets) => {
                    line.sockets = Some(sockets);
                    if !first {
                        tracing::info!(interface = %name, "packet sockets are open again");
                        self.speaker.handle_opened(&name, now);
                    }
                }
                Err(error) => {
                    tracing::warn!(interface = %name, %error, "cannot open packet sockets; trying again");
                    self.retry_at = Some(now + RETRY);
                }
            }
        }
    }

    fn sync_groups(&mut self, now: Instant) {
        let refused = self.groups.sync(&self.speaker.groups());
        for index in refused {
            self.tally.count(Event::GroupError);
            let line = self.lines.values_mut().find(|line| line.port.index == index);
            if let Some(Err(error)) =
                line.and_then(|line| line.sockets.as_mut()).map(|sockets| sockets.admit_all_multicast(index))
            {
                tracing::warn!(index, %error, "cannot let all multicast in; solicitations may not be heard");
            }
        }
        if self.groups.has_failed() && self.retry_at.is_none() {
            self.retry_at = Some(now + RETRY);
        }
    }

    fn send(&mut self, interface: &str, kind: Kind, frame: &[u8]) {
        let Some(line) = self.lines.get_mut(interface) else { return };
        let result = match &line.sockets {
            Some(sockets) => sockets.send(frame),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match result {
            Ok(()) => {
                line.failing = false;
                self.tally.count(Event::Sent(kind));
            }
            Err(error) => {
                self.tally.count(Event::SendError);
                if !std::mem::replace(&mut line.failing, true) {
                    tracing::warn!(%interface, ?kind, %error, "cannot send; announcements are repeated");
                }
            }
        }
    }

    fn report(&self, conflict: Conflict) {
        tracing::debug!(
            vip = %conflict.vip, interface = %conflict.interface, mac = %MacAddr::from(conflict.mac),
            "another machine has a VIP"
        );
        if self.reports.try_send(conflict).is_err() {
            self.tally.count(Event::ConflictUnreported);
        }
    }

    fn heard(&mut self, interface: &str, result: io::Result<usize>, buffer: &[u8]) {
        let frame = match result {
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) => {
                self.failed(interface, &error);
                return;
            }
        };
        match self.speaker.handle_frame(interface, frame, Instant::now()) {
            Verdict::Fine | Verdict::Foreign => {}
            Verdict::Conflict => self.tally.count(Event::Conflict),
            Verdict::Malformed(reason) => {
                self.tally.count(Event::Malformed);
                tracing::debug!(%interface, %reason, "ignored a malformed frame");
            }
        }
    }

    /// An interface that went down says so once, and its sockets live on; anything else gets new sockets.
    fn failed(&mut self, interface: &str, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ENETDOWN) {
            return;
        }
        tracing::warn!(%interface, %error, "cannot hear; opening new packet sockets");
        if let Some(line) = self.lines.get_mut(interface) {
            line.sockets = None;
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    /// The next frame of any interface.
    async fn next_frame(&mut self, buffer: &mut [u8]) -> (String, io::Result<usize>) {
        self.turn = self.turn.wrapping_add(1);
        let skip = self.turn % self.lines.len().max(1);
        std::future::poll_fn(|cx| {
            for (name, line) in self.lines.iter().cycle().skip(skip).take(self.lines.len()) {
                if let Some(sockets) = &line.sockets
                    && let Poll::Ready(result) = sockets.poll_recv(cx, buffer)
                {
                    return Poll::Ready((name.clone(), result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
