//! The announcer's pure core: what it hears and what is wished in, what it says out.
//!
//! Events are handed to the `handle_*` methods with the time; then [`Speaker::poll_action`] is drained, and
//! [`Speaker::handle_timeout`] is called at [`Speaker::poll_timeout`]. Which sockets and group memberships must exist is
//! state ([`Speaker::ports`], [`Speaker::groups`]) that the edge brings about.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::{
    Announcement, Conflict, Inquiry, Kind,
    burst::{Bursts, Form, Spot, Why},
    conflict::{Conflicts, QUIET, QUIET_ASKED},
    doubt::Doubts,
    inquiry::{Inquiries, question},
    responder,
};
use ipnet::IpNet;
use membership::Voice;

use crate::{
    link::Links,
    wire::{ArpFrame, MacAddr, NdpFrame, WireError, ndp::solicited_node},
};

/// What the edge does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the frame.
    Send {
        /// On the interface of this name.
        interface: String,
        /// What it is.
        kind: Kind,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// Tell the agent.
    Report(Conflict),
}

/// What came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Valid and without consequence beyond the actions queued.
    Fine,
    /// It claims a VIP of ours (whether or not that is reported).
    Conflict,
    /// Another protocol.
    Foreign,
    /// It breaks a rule of its protocol.
    Malformed(WireError),
}

/// An interface that frames go in and out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The kernel's number for it.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Speaker {
    ports: BTreeMap<String, Port>,
    /// The networks of each port, with the node's own addresses in them.
    networks: BTreeMap<String, Vec<IpNet>>,
    wished: BTreeMap<IpAddr, Announcement>,
    inquiry: Inquiry,
    bursts: Bursts,
    conflicts: Conflicts,
    inquiries: Inquiries,
    doubts: Doubts,
    actions: VecDeque<Action>,
}

impl Speaker {
    /// Silent until told otherwise; `refresh` is the time between announcements in calm times.
    #[must_use]
    pub fn new(refresh: Duration) -> Self {
        Self {
            ports: BTreeMap::new(),
            networks: BTreeMap::new(),
            wished: BTreeMap::new(),
            inquiry: Inquiry::default(),
            bursts: Bursts::new(refresh),
            conflicts: Conflicts::default(),
            inquiries: Inquiries::default(),
            doubts: Doubts::default(),
            actions: VecDeque::new(),
        }
    }

    /// The uplinks are these. On one that is new, usable again or has another MAC all its VIPs are announced.
    pub fn handle_links(&mut self, links: &Links, now: Instant) {
        let ports: BTreeMap<String, Port> = links
            .usable()
            .map(|uplink| (uplink.name.clone(), Port { index: uplink.index, mac: uplink.mac.into() }))
            .collect();
        self.networks = links.usable().map(|uplink| (uplink.name.clone(), uplink.prefixes.clone())).collect();
        let before = std::mem::replace(&mut self.ports, ports);
        for name in before.keys() {
            if !self.ports.contains_key(name) {
                for spot in self.spots_on(name) {
                    self.silence(&spot);
                }
            }
        }
        let fresh: Vec<String> = self
            .ports
            .iter()
            .filter(|(name, port)| before.get(*name) != Some(port))
            .map(|(name, _)| name.clone())
            .collect();
        for name in fresh {
            self.handle_opened(&name, now);
        }
        self.ask(now);
    }

    /// The interface's sockets work (again): what went unsaid before is said now.
    pub fn handle_opened(&mut self, interface: &str, now: Instant) {
        if self.ports.contains_key(interface) {
            for spot in self.spots_on(interface) {
                if self.voice(spot.vip) == Voice::Full {
                    self.bursts.start(spot, Why::LinkUp, now);
                }
            }
        }
    }

    /// Exactly these VIPs are announced from now on. One that is new here, on a new interface or of a higher epoch
    /// is announced with a burst; one that is gone falls silent.
    pub fn handle_wishes(&mut self, wished: BTreeMap<IpAddr, Announcement>, now: Instant) {
        let before = std::mem::replace(&mut self.wished, wished);
        for (vip, old) in &before {
            for interface in &old.interfaces {
                if !self.wished.get(vip).is_some_and(|new| new.interfaces.contains(interface)) {
                    self.silence(&Spot { vip: *vip, interface: interface.clone() });
                }
            }
        }
        for (vip, new) in &self.wished {
            let old = before.get(vip);
            for interface in new.interfaces.iter().filter(|name| self.ports.contains_key(*name)) {
                let known = old.filter(|old| old.epoch >= new.epoch && old.interfaces.contains(interface));
                let spot = Spot { vip: *vip, interface: interface.clone() };
                match (new.voice, known.map(|old| old.voice)) {
                    (voice, Some(before)) if voice == before => {}
                    (Voice::Full, _) => {
                        self.doubts.end(&spot);
                        self.bursts.start(spot, Why::Takeover, now);
                    }
                    (Voice::Once, None) => {
                        self.doubts.end(&spot);
                        self.bursts.start(spot, Why::Once, now);
                    }
                    (Voice::Quiet | Voice::Once, _) => self.bursts.stop(&spot),
                }
            }
        }
        self.ask(now);
    }

    /// What to ask and to listen for from now on.
    pub fn handle_inquiry(&mut self, inquiry: Inquiry, now: Instant) {
        self.inquiry = inquiry;
        self.ask(now);
    }

    /// This thread did not run for a while: all VIPs may have gone to others. Until it is known that they have not, nothing is
    /// said of them, and they are asked for.
    pub fn handle_hold_up(&mut self, now: Instant) {
        for name in self.ports.keys() {
            for spot in self.spots_on(name) {
                self.bursts.stop(&spot);
                self.doubts.begin(spot, now);
            }
        }
        self.ask(now);
    }

    /// Announce the VIP with a burst now, if it is announced at all.
    pub fn handle_again(&mut self, vip: IpAddr, now: Instant) {
        let Some(announcement) = self.wished.get(&vip) else { return };
        let why = if announcement.voice == Voice::Full { Why::Takeover } else { Why::Once };
        for interface in announcement.interfaces.iter().filter(|name| self.ports.contains_key(*name)) {
            let spot = Spot { vip, interface: interface.clone() };
            self.doubts.end(&spot);
            self.bursts.start(spot, why, now);
        }
        self.ask(now);
    }

    /// A frame came in.
    pub fn handle_frame(&mut self, interface: &str, frame: &[u8], now: Instant) -> Verdict {
        let Some(port) = self.ports.get(interface) else { return Verdict::Foreign };
        let is_ours = |mac: MacAddr| self.ports.values().any(|port| port.mac == mac);
        let spot = |vip: IpAddr| Spot { vip, interface: interface.into() };
        let owned = |vip: IpAddr| self.wished.get(&vip).is_some_and(|wish| wish.interfaces.contains(interface));
        let answered = |vip: IpAddr| owned(vip) && !self.doubts.contains(&spot(vip));
        let heeded = |vip: IpAddr, mac: MacAddr| {
            owned(vip) || self.inquiry.heed.contains(&mac) || self.inquiries.contains(&spot(vip))
        };
        let heard = match responder::hear(frame, port.mac, is_ours, answered, heeded) {
            Ok(heard) => heard,
            Err(WireError::Foreign) => return Verdict::Foreign,
            Err(error) => return Verdict::Malformed(error),
        };
        if let Some((kind, frame)) = heard.answer {
            self.actions.push_back(Action::Send { interface: interface.into(), kind, frame });
        }
        let Some((vip, mac)) = heard.claimed else { return Verdict::Fine };
        let (spot, owned) = (spot(vip), owned(vip));
        let quiet = if self.inquiries.contains(&spot) { QUIET_ASKED } else { QUIET };
        self.actions.extend(self.conflicts.notice(spot, mac, quiet, now).map(Action::Report));
        if owned { Verdict::Conflict } else { Verdict::Fine }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.bursts.poll_timeout(), self.inquiries.poll_timeout(), self.doubts.poll_timeout()];
        times.into_iter().flatten().min()
    }

    /// Whether there is anything to say or to ask, so that a hold-up matters.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.wished.is_empty() || !self.inquiry.ask.is_empty()
    }

    /// Queues the announcements and questions that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for spot in self.doubts.handle_timeout(now) {
            if self.voice(spot.vip) == Voice::Full {
                self.bursts.start(spot, Why::Refresh, now);
            }
            self.ask(now);
        }
        for (spot, form) in self.bursts.handle_timeout(now) {
            let Some(port) = self.ports.get(&spot.interface) else { continue };
            let (kind, frame) = match (spot.vip, form) {
                (IpAddr::V4(vip), Form::Request) => (Kind::Garp, ArpFrame::announcement(port.mac, vip).emit()),
                (IpAddr::V4(vip), Form::Reply) => (Kind::Garp, ArpFrame::gratuitous_reply(port.mac, vip).emit()),
                (IpAddr::V6(vip), _) => (Kind::UnsolicitedNa, NdpFrame::unsolicited(port.mac, vip).emit()),
            };
            self.actions.push_back(Action::Send { interface: spot.interface, kind, frame });
        }
        for spot in self.inquiries.handle_timeout(now) {
            let Some(port) = self.ports.get(&spot.interface) else { continue };
            let networks = self.networks.get(&spot.interface).map(Vec::as_slice).unwrap_or_default();
            if let Some(frame) = question(spot.vip, port.mac, networks) {
                self.actions.push_back(Action::Send { interface: spot.interface, kind: Kind::Question, frame });
            }
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The interfaces that need sockets, by name.
    #[must_use]
    pub fn ports(&self) -> &BTreeMap<String, Port> {
        &self.ports
    }

    /// The groups that must be joined, each with the number of its interface.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<(u32, Ipv6Addr)> {
        let mut groups = BTreeSet::new();
        for (vip, wish) in &self.wished {
            if let IpAddr::V6(vip) = vip {
                let indices = wish.interfaces.iter().filter_map(|name| self.ports.get(name)).map(|port| port.index);
                groups.extend(indices.map(|index| (index, solicited_node(*vip))));
            }
        }
        groups
    }

    /// The VIPs that are answered for, each with the number of its interface.
    #[must_use]
    pub fn owned(&self) -> BTreeSet<(u32, IpAddr)> {
        let of = |(vip, wish): (&IpAddr, &Announcement)| -> Vec<(u32, IpAddr)> {
            let ports = wish.interfaces.iter().filter_map(|name| self.ports.get(name));
            ports.map(|port| (port.index, *vip)).collect()
        };
        self.wished.iter().flat_map(of).collect()
    }

    fn spots_on(&self, interface: &str) -> Vec<Spot> {
        self.wished
            .iter()
            .filter(|(_, wish)| wish.interfaces.contains(interface))
            .map(|(vip, _)| Spot { vip: *vip, interface: interface.into() })
            .collect()
    }

    fn silence(&mut self, spot: &Spot) {
        self.bursts.stop(spot);
        self.conflicts.forget(spot);
        self.doubts.end(spot);
    }

    fn voice(&self, vip: IpAddr) -> Voice {
        self.wished.get(&vip).map(|wish| wish.voice).unwrap_or_default()
    }

    /// Asks for what is wished, and for what is in doubt.
    fn ask(&mut self, now: Instant) {
        let wished = self.inquiry.ask.iter().flat_map(|(vip, interfaces)| {
            interfaces.iter().map(|interface| Spot { vip: *vip, interface: interface.clone() })
        });
        let spots = wished.filter(|spot| self.ports.contains_key(&spot.interface)).chain(self.doubts.spots()).collect();
        self.inquiries.set(&spots, now);
    }
}

#[cfg(test)]
mod tests;
