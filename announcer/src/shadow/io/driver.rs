//! The loop of the thread: waits, feeds the keeper, brings about what it says, answers other standbys.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use forwarder_ebpf::limits::{SHADOWED_VIPS, SHADOWS};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Report,
    maps::{Live, Maps},
    port::Port,
};
use crate::{
    io::{lines::Lines, publish, sleep_until},
    link::{Links, Uplink},
    metrics::Limits,
    shadow::{
        State, Wishes,
        frame::{Frame, Kind, LENGTH},
        keeper::{Action, Keeper},
        wanted::Key,
    },
    wire::{ArpFrame, NdpFrame},
};

/// After a write that failed the keeper begins afresh at the next turn, at the latest after this.
const RETRY: Duration = Duration::from_secs(1);
/// Asks answered in a second: more than all standbys of a large cluster send.
const ANSWERS_A_SECOND: u32 = 2_000;

pub(super) struct Driver {
    keeper: Keeper,
    maps: Option<Live>,
    links: Arc<Links>,
    lines: Lines<Port>,
    /// A map refused a write: the keeper begins afresh, at the latest then.
    broken: Option<Instant>,
    /// Asks of other standbys: since when they are counted, and how many there were.
    answers: (Instant, u32),
    /// What the keeper was told last.
    told: Option<Arc<Wishes>>,
    floods: u64,
    left_out: u64,
    earlier_stand_downs: u64,
    reports: watch::Sender<Arc<Report>>,
    limits: Limits,
}

impl Driver {
    pub(super) fn new(reports: watch::Sender<Arc<Report>>, limits: Limits) -> Self {
        Self {
            keeper: keeper(),
            maps: None,
            links: Arc::default(),
            lines: Lines::new("the shadow standby"),
            broken: None,
            answers: (Instant::now(), 0),
            told: None,
            floods: 0,
            left_out: 0,
            earlier_stand_downs: 0,
            reports,
            limits,
        }
    }

    /// Until the wishes end.
    pub(super) async fn run(
        mut self,
        mut links: watch::Receiver<Arc<Links>>,
        mut loaded: mpsc::Receiver<Maps>,
        mut wished: watch::Receiver<Arc<Wishes>>,
    ) {
        let mut buffer = [0; LENGTH];
        let (mut links_known, mut may_load) = (true, true);
        links.mark_changed();
        loop {
            let due = [self.keeper.poll_timeout(), self.lines.poll_timeout(), self.broken];
            tokio::select! {
                biased;
                slots = floods(self.maps.as_mut()) => self.flooded(&slots),
                changed = wished.changed() => if changed.is_err() { return },
                changed = links.changed(), if links_known => {
                    links_known = changed.is_ok();
                    self.links = Arc::clone(&links.borrow_and_update());
                }
                maps = loaded.recv(), if may_load => match maps {
                    Some(maps) => self.load(maps),
                    None => may_load = false,
                },
                // Behind all that is rare: anybody on the segment may send such frames, as many as they like.
                heard = self.lines.hear(&mut buffer) => if let Some((name, frame)) = heard {
                    self.heard(&name, frame);
                },
                () = sleep_until(due.into_iter().flatten().min()) => {}
            }
            self.turn(&wished.borrow_and_update());
        }
    }

    fn flooded(&mut self, slots: &[u32]) {
        self.floods += slots.len() as u64;
        for slot in slots {
            self.keeper.handle_flood(*slot, Instant::now());
        }
    }

    /// A new program, whose maps are empty: the keeper fills them from the beginning.
    fn load(&mut self, maps: Maps) {
        self.maps = match Live::new(maps) {
            Ok(maps) => Some(maps),
            Err(error) => {
                warn!(%error, "cannot hear of floods; this node stands in for nobody");
                None
            }
        };
        self.restart();
    }

    fn restart(&mut self) {
        for (key, ..) in self.keeper.states() {
            self.admit(key, false);
        }
        self.earlier_stand_downs += self.keeper.stand_downs();
        self.left_out = 0;
        self.told = None;
        self.broken = None;
        self.keeper = keeper();
    }

    fn turn(&mut self, wishes: &Arc<Wishes>) {
        let now = Instant::now();
        self.sync_lines(now);
        if self.maps.is_none() {
            return;
        }
        if self.broken.take().is_some() {
            self.clear(wishes);
        }
        if !self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, wishes)) {
            self.keeper.set(wishes, now);
            self.told = Some(Arc::clone(wishes));
        }
        let maps = self.maps.as_ref();
        self.keeper.handle_timeout(|slot| maps.and_then(|maps| maps.read(slot)), now);
        for action in self.keeper.take_actions() {
            self.act(&action);
        }
        self.report();
    }

    /// Keeps sockets for all uplinks, also those without carrier; fresh ones let in what the old ones did.
    fn sync_lines(&mut self, now: Instant) {
        let uplinks = self.links.uplinks.values();
        let opened = self.lines.sync(uplinks.map(|uplink| (uplink.name.as_str(), uplink.index)), now);
        for line in opened {
            let keys = self.keeper.states().map(|(key, ..)| key).filter(|key| key.interface == line.index);
            keys.for_each(|key| self.admit(key, true));
        }
    }

    fn act(&mut self, action: &Action) {
        if let Some(Err(error)) = self.maps.as_mut().map(|maps| maps.write(action)) {
            warn!(%error, ?action, "cannot write a shadow map; beginning afresh");
            self.broken = Some(Instant::now() + RETRY);
        }
        match action {
            Action::Begin(key, _) => self.admit(*key, true),
            Action::End(key) => self.admit(*key, false),
            Action::Ask(key, nonce) => self.ask(*key, *nonce),
            Action::Knock(key, addresses) => self.knock(*key, addresses),
            Action::Changed(key, owner, state) => {
                let interface = self.interface(*key);
                match state {
                    State::StoodDown => {
                        warn!(%owner, interface, "frames to the owner were flooded while it lives: standing down");
                    }
                    state => info!(%owner, interface, state = state.as_str(), "shadow standby"),
                }
            }
            Action::Tell(..) | Action::Add(..) | Action::Remove(..) => {}
        }
    }

    /// After a failed write nobody knows what the maps hold: all that can be there goes.
    fn clear(&mut self, wishes: &Wishes) {
        let wished = wishes.shadows.iter().map(|(key, wish)| (*key, &wish.vips));
        if let Some(maps) = &mut self.maps {
            for (key, vips) in self.keeper.pairs().chain(wished) {
                let _ = maps.write(&Action::End(key));
                for vip in vips {
                    let _ = maps.write(&Action::Remove(key, *vip));
                }
            }
        }
        self.restart();
    }

    fn admit(&self, key: Key, admit: bool) {
        let Some(port) = self.lines.at(key.interface) else { return };
        if let Err(error) = port.admit(key.mac, admit)
            && admit
        {
            warn!(interface = self.interface(key), %error, "the network card does not let the owner's frames in");
        }
    }

    fn ask(&self, key: Key, nonce: u64) {
        let Some(uplink) = self.uplink(key) else { return };
        let frame = Frame { destination: key.mac, source: uplink.mac, kind: Kind::Ask, nonce };
        self.send(uplink, &frame.emit());
    }

    /// Asks the owner's network stack for one of its addresses, to which it answers though its agent be dead.
    fn knock(&self, key: Key, addresses: &[IpAddr]) {
        let Some(uplink) = self.uplink(key) else { return };
        let (to, mac) = (Some(key.mac.into()), uplink.mac.into());
        let own = || uplink.prefixes.iter().map(ipnet::IpNet::addr);
        let v4 = |own| if let IpAddr::V4(own) = own { Some(own) } else { None };
        let v6 = |own| if let IpAddr::V6(own) = own { Some(own) } else { None };
        for address in addresses {
            let frame = match *address {
                IpAddr::V4(target) => own().find_map(v4).map(|own| ArpFrame::question(mac, own, target, to).emit()),
                IpAddr::V6(target) => own().find_map(v6).map(|own| NdpFrame::question(mac, own, target, to).emit()),
            };
            if let Some(frame) = frame {
                self.send(uplink, &frame);
                return;
            }
        }
    }

    fn heard(&mut self, interface: &str, frame: &[u8]) {
        let Some(uplink) = self.links.uplinks.get(interface) else { return };
        let Some(frame) = Frame::parse(frame) else { return };
        if frame.kind == Kind::Answer && frame.destination == uplink.mac {
            let key = Key { interface: uplink.index, mac: frame.source };
            self.keeper.handle_answer(key, frame.nonce, Instant::now());
        } else if let Some(replies) = frame.replies(uplink.mac)
            && self.may_answer(interface)
        {
            for reply in replies {
                // What is lost the asker asks for again.
                let _ = self.lines.send(interface, &reply.emit());
            }
        }
    }

    /// Whether another standby's ask is answered: there may be too many of them.
    fn may_answer(&mut self, interface: &str) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.answers.0) >= Duration::from_secs(1) {
            self.answers = (now, 0);
        }
        self.answers.1 = self.answers.1.saturating_add(1);
        let is_beyond = self.answers.1 > ANSWERS_A_SECOND;
        if is_beyond {
            if self.answers.1 == ANSWERS_A_SECOND + 1 {
                warn!(interface, limit = ANSWERS_A_SECOND, "too many asks of standbys in a second");
            }
            self.limits.hit("shadow_answers");
        }
        !is_beyond
    }

    /// What is not sent is sent again soon.
    fn send(&self, uplink: &Uplink, frame: &[u8]) {
        let _ = self.lines.send(&uplink.name, frame);
    }

    fn uplink(&self, key: Key) -> Option<&Uplink> {
        self.links.uplinks.values().find(|uplink| uplink.index == key.interface)
    }

    fn interface(&self, key: Key) -> &str {
        self.uplink(key).map_or("", |uplink| &uplink.name)
    }

    fn report(&mut self) {
        let left_out = self.keeper.left_out();
        if left_out > self.left_out {
            warn!(macs = SHADOWS, vips = SHADOWED_VIPS, "a table of shadows is full; some owners have no standby here");
            self.limits.add("shadows", left_out - self.left_out);
            self.left_out = left_out;
        }
        let shadow = |(key, owner, state): (Key, &membership::NodeName, State)| {
            (owner.clone(), self.interface(key).to_owned(), state)
        };
        let report = Report {
            shadows: self.keeper.states().map(shadow).collect(),
            stand_downs: self.earlier_stand_downs + self.keeper.stand_downs(),
            floods: self.floods,
        };
        publish(&self.reports, Arc::new(report));
    }
}

/// The numbers of its asks begin at random, so that no answer to an earlier one is taken for new.
fn keeper() -> Keeper {
    Keeper::new(SHADOWS, SHADOWED_VIPS as usize, rand::random())
}

async fn floods(maps: Option<&mut Live>) -> Vec<u32> {
    match maps {
        Some(maps) => maps.floods().await,
        None => std::future::pending().await,
    }
}
