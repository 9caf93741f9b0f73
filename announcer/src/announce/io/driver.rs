//! The loop of the announcer's thread: waits, feeds the core, brings about what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::{
    Order,
    counters::{Event, Tally},
    hooks::Hooks,
    multicast::Groups,
};
use crate::{
    announce::{
        Announcement, Conflict, Inquiry, Kind,
        speaker::{Action, Speaker, Verdict},
    },
    holdup::{HoldUp, TOLERANCE},
    io::{
        lines::Lines,
        resolution::{LONGEST, Resolution},
        sleep_until,
    },
    link::Links,
    wire::MacAddr,
};

/// Until groups that could not be joined are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the loop waits for, besides frames and time.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) links: watch::Receiver<Arc<Links>>,
    pub(super) wished: watch::Receiver<BTreeMap<IpAddr, Announcement>>,
    pub(super) inquiry: watch::Receiver<Inquiry>,
    pub(super) again: mpsc::Receiver<IpAddr>,
    pub(super) orders: mpsc::Receiver<Order>,
}

/// What the loop was woken by.
enum Woken<'a> {
    /// On the interface of that name.
    Frame(String, &'a [u8]),
    /// A line has failed.
    Lost,
    Wished,
    Inquiry,
    Links,
    Again(IpAddr),
    Order(Order),
    Time,
}

#[derive(Debug)]
pub(super) struct Driver {
    speaker: Speaker,
    lines: Lines<Resolution>,
    /// The interfaces on which sending failed and that was logged; a success clears it.
    mute: BTreeSet<String>,
    groups: Groups,
    hooks: Hooks,
    /// When groups are tried again.
    rejoin_at: Option<Instant>,
    tally: Arc<Tally>,
    reports: mpsc::Sender<Conflict>,
}

impl Driver {
    pub(super) fn new(refresh: Duration, tally: Arc<Tally>, reports: mpsc::Sender<Conflict>) -> Self {
        Self {
            speaker: Speaker::new(refresh),
            lines: Lines::new("announcing"),
            mute: BTreeSet::new(),
            groups: Groups::default(),
            hooks: Hooks::default(),
            rejoin_at: None,
            tally,
            reports,
        }
    }

    /// Until the [`super::Announcer`] is dropped.
    pub(super) async fn run(mut self, inputs: Inputs) {
        let Inputs { mut links, mut wished, mut inquiry, mut again, mut orders } = inputs;
        let mut buffer = vec![0; LONGEST];
        let mut links_known = true;
        let mut hold_up = HoldUp::new(Instant::now());
        links.mark_changed();
        loop {
            let tick = self.speaker.is_busy().then(|| hold_up.wake());
            let due = [
                self.speaker.poll_timeout(),
                self.lines.poll_timeout(),
                self.hooks.poll_timeout(),
                self.rejoin_at,
                tick,
            ];
            let woken = tokio::select! {
                heard = self.lines.hear(&mut buffer) => match heard {
                    Some((name, frame)) => Woken::Frame(name, frame),
                    None => Woken::Lost,
                },
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
                Some(order) = orders.recv() => Woken::Order(order),
                () = sleep_until(due.into_iter().flatten().min()) => Woken::Time,
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
            let owns = matches!(woken, Woken::Wished | Woken::Links | Woken::Order(_)) || late.is_some();
            match woken {
                Woken::Again(_) | Woken::Wished if late.is_some() => {}
                Woken::Frame(name, frame) => self.heard(&name, frame, now),
                Woken::Wished => self.speaker.handle_wishes(wished.borrow_and_update().clone(), now),
                Woken::Inquiry => self.speaker.handle_inquiry(inquiry.borrow_and_update().clone(), now),
                Woken::Links => {
                    let current = Arc::clone(&links.borrow_and_update());
                    self.speaker.handle_links(&current, now);
                }
                Woken::Again(vip) => self.speaker.handle_again(vip, now),
                Woken::Order(Order::Maps(maps)) => self.hooks.take(*maps, now),
                Woken::Order(Order::Leave(grace, answer)) => {
                    // Who asked has ended with the agent otherwise.
                    let _ = answer.send(self.hooks.leave(grace));
                }
                Woken::Lost | Woken::Time => {}
            }
            // All of it as of when it woke: it may be held up in the middle of a turn as well.
            self.turn(now);
            if owns {
                self.hooks.own(self.speaker.owned());
            }
            self.hooks.handle_timeout(now);
            hold_up.sleep(now);
        }
    }

    /// Brings about what the core wants by `now`: first what others wait for, then memberships.
    fn turn(&mut self, now: Instant) {
        if self.rejoin_at.is_some_and(|at| at <= now) {
            self.rejoin_at = None;
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

    /// Keeps sockets for exactly the speaker's ports.
    fn sync_lines(&mut self, now: Instant) {
        let ports = self.speaker.ports();
        self.mute.retain(|name| ports.contains_key(name));
        let opened = self.lines.sync(ports.iter().map(|(name, port)| (name.as_str(), port.index)), now);
        for line in opened.into_iter().filter(|line| line.again) {
            tracing::info!(interface = %line.name, "packet sockets are open again");
            self.speaker.handle_opened(&line.name, now);
        }
    }

    fn sync_groups(&mut self, now: Instant) {
        let refused = self.groups.sync(&self.speaker.groups());
        for index in refused {
            self.tally.count(Event::GroupError);
            if let Some(Err(error)) = self.lines.at_mut(index).map(Resolution::admit_all_multicast) {
                tracing::warn!(index, %error, "cannot let all multicast in; solicitations may not be heard");
            }
        }
        if self.groups.has_failed() {
            self.rejoin_at.get_or_insert(now + RETRY);
        }
    }

    fn send(&mut self, interface: &str, kind: Kind, frame: &[u8]) {
        match self.lines.send(interface, frame) {
            Ok(()) => {
                self.mute.remove(interface);
                self.tally.count(Event::Sent(kind));
            }
            Err(error) => {
                self.tally.count(Event::SendError);
                if self.mute.insert(interface.to_owned()) {
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

    fn heard(&mut self, interface: &str, frame: &[u8], now: Instant) {
        match self.speaker.handle_frame(interface, frame, now) {
            Verdict::Fine | Verdict::Foreign => {}
            Verdict::Conflict => self.tally.count(Event::Conflict),
            Verdict::Malformed(reason) => {
                self.tally.count(Event::Malformed);
                tracing::debug!(%interface, %reason, "ignored a malformed frame");
            }
        }
    }
}
