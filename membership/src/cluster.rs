//! The facade: a node's whole gossip as one pure state machine.
//!
//! ```text
//!   datagram --> channel --frame--> swim    --> roster --> view
//!                   ^               spread  -->   ^
//!   datagrams <-----+----frames---- (both), discovery (greetings)
//! ```
//! The fast watch ([`crate::watch`]) runs beside it: its plans come from here, its reports are handed in here.
//!
//! Feed it with [`Cluster::handle_datagram`], [`Cluster::handle_command`] and [`Cluster::handle_timeout`]; after each
//! of them drain [`Cluster::poll_transmit`] and [`Cluster::poll_view`], then sleep until [`Cluster::poll_timeout`] or
//! the next event. Datagrams that are waiting should be fed before time is let pass, or peers are suspected for what
//! they have answered already. Two clusters with equal seeds, fed alike, do exactly the same.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Claim, Config, Facts, KeyRing, MemberState, NodeName, Target, Verdict, View,
    channel::{Channel, Peer, Received},
    discovery::Discovery,
    documents::Documents,
    frame::Frame,
    identity::Identity,
    namesake::Namesake,
    restarts::Restarts,
    roster::Roster,
    rumours::Rumours,
    seal::Nonces,
    spread::Spread,
    stats::{RejectReason, Stats},
    swim::{Output, Swim},
    watch::lookout::Lookout,
};

mod members;
mod outrun;

/// What the agent tells its gossip.
#[derive(Debug, Clone)]
pub enum Command {
    /// Replaces the facts in this node's document.
    SetFacts(Facts),
    /// Replaces the claims.
    SetClaims(BTreeMap<IpAddr, Claim>),
    /// Replaces the verdicts.
    SetHealth(BTreeMap<Target, Verdict>),
    /// Replaces the keys; sessions and members stay.
    SetKeys(KeyRing),
    /// Replaces the seeds.
    SetSeeds(Vec<SocketAddr>),
    /// Says goodbye to all members; nothing is sent or taken in after that. Given again, it repeats the goodbye.
    Leave,
    /// As [`Self::Leave`], but for a restart: for so long peers count this node as up, with the document it has now.
    Restart(Duration),
    /// A member that restarts ([`MemberState::Restarting`]) is found to have no machine any more.
    Lost(NodeName),
}

/// A node's gossip. See the module's documentation.
pub struct Cluster {
    channel: Channel,
    swim: Swim,
    spread: Spread,
    roster: Roster,
    discovery: Discovery,
    lookout: Lookout,
    rumours: Rumours,
    restarts: Restarts,
    /// The lives that this node's watch found over: id and generation.
    found_dead: BTreeMap<u64, u64>,
    /// When those who are believed dead elsewhere, and heard here, are told again.
    next_warning: Instant,
    stats: Stats,
    rng: StdRng,
    view_is_stale: bool,
    namesake: Namesake,
    left: bool,
}

impl Cluster {
    /// A node that begins to look for its cluster. `seed` must be unpredictable: the session comes from it.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32], nonces: Nonces, now: Instant) -> Self {
        let Config { identity, keys, seeds, remembered, watch } = config;
        let watch = watch.clamped();
        let mut rng = StdRng::from_seed(seed);
        let mut discovery = Discovery::new(identity.address);
        for address in remembered {
            discovery.remember(address, now);
        }
        discovery.set_seeds(&seeds, now);
        let documents = Documents::new(identity.name.clone(), identity.generation);
        Self {
            channel: Channel::new(keys, &identity, rng.next_u64(), nonces, now),
            spread: Spread::new(documents, fork(&mut rng), now),
            swim: Swim::new(identity, watch, fork(&mut rng)),
            roster: Roster::default(),
            discovery,
            lookout: Lookout::new(now),
            rumours: Rumours::default(),
            restarts: Restarts::default(),
            found_dead: BTreeMap::new(),
            next_warning: now,
            stats: Stats::default(),
            rng,
            view_is_stale: true,
            namesake: Namesake::default(),
            left: false,
        }
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        self.stats.packets_in += 1;
        self.stats.bytes_in += datagram.len() as u64;
        if self.left {
            return;
        }
        match self.channel.receive(datagram, from, self.swim.identity(), now, &mut self.stats) {
            Ok(Received::Frame(peer, bytes)) => self.handle_frame(peer, &bytes, now),
            Ok(Received::Met { identity, outrun_by }) => self.handle_meeting(identity, outrun_by, now),
            Ok(Received::Namesake) => {
                self.stats.reject(RejectReason::OwnName);
                self.namesake.see(from, now);
                self.complain();
            }
            Ok(Received::Done) => {}
            Err(reason) => {
                tracing::trace!(%from, reason = reason.label(), "datagram rejected");
                self.stats.reject(reason);
            }
        }
        self.settle(now);
    }

    /// Does what the agent wants.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        let (spread, peers, stats) = (&mut self.spread, self.roster.up(), &mut self.stats);
        match command {
            Command::SetFacts(facts) => spread.write(|documents| documents.write_facts(&facts), peers, now, stats),
            Command::SetClaims(claims) => spread.write(|documents| documents.write_claims(&claims), peers, now, stats),
            Command::SetHealth(health) => spread.write(|documents| documents.write_health(&health), peers, now, stats),
            Command::SetKeys(keys) => self.channel.set_keys(keys),
            Command::SetSeeds(seeds) => self.discovery.set_seeds(&seeds, now),
            Command::Lost(name) => self.give_up(&name, now),
            Command::Leave => self.leave(None, now),
            Command::Restart(grace) => self.leave(Some(grace), now),
        }
        self.settle(now);
    }

    /// Lets time pass. To be called when [`Self::poll_timeout`] says so; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.swim.handle_timeout(now);
        let over = self.restarts.expire(now);
        if over || self.rumours.poll_timeout().is_some_and(|at| at <= now) {
            self.take_members(now);
        }
        for stranger in self.lookout.greetings_due(now) {
            self.channel.greet(stranger.address);
        }
        self.spread.handle_timeout(self.roster.up(), || self.roster.known(), now);
        for address in self.discovery.due(now, || self.rng.random()) {
            self.channel.greet(address);
        }
        self.settle(now);
    }

    /// The next datagram to send, and where to; `None` until the next event.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (to, datagram) = self.channel.poll_transmit()?;
        self.stats.packets_out += 1;
        self.stats.bytes_out += datagram.len() as u64;
        Some((to, datagram))
    }

    /// When [`Self::handle_timeout`] must be called; `None`: not before the next event.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let own = [
            self.swim.poll_timeout(),
            self.discovery.poll_timeout(),
            self.rumours.poll_timeout(),
            self.restarts.poll_timeout(),
            self.lookout.poll_timeout(),
            Some(self.spread.poll_timeout()),
        ];
        own.into_iter().flatten().min()
    }

    /// What this node knows of all, itself included, if that changed since the last call.
    pub fn poll_view(&mut self) -> Option<Arc<View>> {
        if !std::mem::take(&mut self.view_is_stale) {
            return None;
        }
        let state = if self.left { MemberState::Left } else { MemberState::Alive };
        let (documents, caught_up) = (self.spread.documents(), self.spread.caught_up());
        self.roster.view((self.swim.identity(), state), documents, &mut self.restarts, caught_up)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The session of this life, which peers' datagrams must name.
    #[cfg(feature = "io")]
    pub(crate) fn session(&self) -> u64 {
        self.channel.own().2
    }

    /// This node as its peers should see it.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.swim.identity()
    }

    /// The addresses to try first at the next start.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.discovery.peers()
    }

    fn handle_frame(&mut self, from: Peer, bytes: &[u8], now: Instant) {
        let peers = self.roster.up();
        match Frame::decode(bytes) {
            Some(Frame::Swim(packet)) => self.swim.handle_packet(packet, now),
            Some(Frame::Suspicion(suspicion)) => self.swim.handle_suspicion(suspicion, now),
            Some(Frame::Cells(batch)) => self.spread.handle_cells(from, batch, peers, now, &mut self.stats),
            Some(Frame::Digest(page)) => {
                let members = (peers, || self.roster.known());
                if self.spread.handle_page(from, &page, members, now, &mut self.stats) {
                    self.swim.ask_for_members(from.id, now);
                }
                if let Some(other) = self.spread.documents().outrun_by(&page) {
                    self.outrun(other, now);
                }
            }
            Some(Frame::Goodbye(leaver)) => {
                self.roster.note_leaver(leaver.clone());
                self.swim.handle_goodbye(leaver, now);
            }
            Some(Frame::Restart(life, grace_ms)) => {
                self.handle_restart(&life, Duration::from_millis(grace_ms.into()), now);
            }
            // Of one that is down itself it is a rumour, which SWIM brings.
            Some(Frame::Death(life)) if peers.contains_key(&from.id) || life.name == self.swim.identity().name => {
                self.handle_death(&life, now);
            }
            Some(Frame::Death(_)) => {}
            Some(Frame::Namesake(address)) => self.namesake.locate(address),
            Some(Frame::Greet | Frame::Hello(_)) | None => self.stats.reject(RejectReason::Malformed),
        }
    }

    fn handle_meeting(&mut self, identity: Identity, outrun_by: Option<u64>, now: Instant) {
        // Whoever refuses this node's generation refuses its announcement, and would answer it with the next Hello.
        if outrun_by.is_some_and(|other| self.outrun(other, now)) {
            return;
        }
        if !self.roster.is_up(&identity) {
            self.swim.announce(identity, now);
        }
    }

    /// Says goodbye: for good, or for a restart within `grace`.
    fn leave(&mut self, grace: Option<Duration>, now: Instant) {
        let life = self.swim.identity().clone();
        let goodbye = match grace {
            Some(grace) => Frame::Restart(life, millis(grace)),
            None => Frame::Goodbye(life),
        };
        for peer in self.roster.up().values() {
            self.channel.send(*peer, &goodbye, now, &mut self.stats);
        }
        if !self.left {
            // Peers tell SWIM themselves what a restart is.
            if grace.is_none() {
                self.swim.leave(now);
                self.send_swim(now);
            }
            self.left = true;
            self.view_is_stale = true;
            self.lookout.close(self.channel.own());
        }
    }

    /// Passes on what an event has set off.
    fn settle(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.send_swim(now);
        if self.swim.take_changed() {
            self.take_members(now);
        }
        if self.channel.take_met() {
            self.replan();
        }
        self.send_documents(now);
        self.view_is_stale |= self.spread.take_changed();
    }

    fn send_documents(&mut self, now: Instant) {
        while let Some((peer, frame)) = self.spread.poll_output() {
            self.channel.send(peer, &frame, now, &mut self.stats);
        }
    }

    fn send_swim(&mut self, now: Instant) {
        while let Some(output) = self.swim.poll_output() {
            match output {
                Output::Packet(to, packet) => {
                    self.channel.send(Peer::from(&to), &Frame::Swim(&packet), now, &mut self.stats)
                }
                Output::Suspicion(suspicion) => {
                    let to = Peer::from(&suspicion.suspect);
                    self.channel.send(to, &Frame::Suspicion(suspicion), now, &mut self.stats)
                }
            };
        }
    }
}

/// A grace as it is told.
fn millis(grace: Duration) -> u32 {
    u32::try_from(grace.as_millis()).unwrap_or(u32::MAX)
}

fn fork(rng: &mut StdRng) -> StdRng {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    StdRng::from_seed(seed)
}

#[cfg(test)]
mod tests;
