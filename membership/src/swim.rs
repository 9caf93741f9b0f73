//! SWIM (Das, Gupta, Motivala, 2002) by foca: who is a member. The only file that names the library.
//!
//! Deaths are found by the fast watch ([`crate::watch`]) and told to the library; its own probes, once a second, are the
//! backup for what the watch cannot see.
//!
//! [`Swim`] feeds foca and collects what it wants done. Three things are added to the library's behaviour, all by its
//! public interface: rumours of a death or a return are passed on at once instead of with the next period, suspects
//! are told directly that they are suspected, and the patience with suspects follows the cluster's size.
//! Timings are [`Watch`]'s.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut};
use foca::{
    AccumulatingRuntime, Codec, Config, Foca, Header, Member, NoCustomBroadcast, OwnedNotification, PeriodicParams,
    State, Timer,
};
use rand::rngs::StdRng;

use crate::{MemberState, NodeName, config::Watch, frame::Suspicion, identity::Identity, timers::Timers};

/// Bytes of a packet of the library: fits a frame with its tag and length.
const PACKET_MAX: NonZeroUsize = NonZeroUsize::new(1190).unwrap();
/// How many others are asked to probe, or are told a rumour, at a time.
const HELPERS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// For how long the dead are remembered.
pub(crate) const REMEMBER_DOWN: Duration = Duration::from_secs(60);
/// How often a random member is asked for those it knows: costs a full datagram each time.
const ANNOUNCE: Duration = Duration::from_secs(10);
/// How often some of the dead are told that they are, so that those who live come back.
const ANNOUNCE_TO_DOWN: Duration = Duration::from_millis(500);
/// How often rumours that have not been told often enough are passed on; nothing is sent without any.
const GOSSIP: Duration = Duration::from_millis(100);
/// Suspects told in one probe period.
const SUSPECTS_TOLD: usize = 4;

impl foca::Identity for Identity {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeName {
        self.name.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.supersedes(adversary)
    }
}

/// What [`Swim`] wants done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a packet of the library.
    Packet(Identity, Vec<u8>),
    /// Tell a suspect.
    Suspicion(Suspicion),
}

/// The library with its timers.
pub(crate) struct Swim {
    foca: Foca<Identity, Postcard, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    timers: Timers<Timer<Identity>>,
    watch: Watch,
    suspicions: Vec<Suspicion>,
    changed: bool,
    renewals: u64,
    left: bool,
}

impl Swim {
    pub(crate) fn new(identity: Identity, watch: Watch, rng: StdRng) -> Self {
        Self {
            foca: Foca::new(identity, settings(watch, 1), rng, Postcard),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::new(watch.interval),
            watch,
            suspicions: Vec::new(),
            changed: true,
            renewals: 0,
            left: false,
        }
    }

    /// This node as its peers should see it.
    pub(crate) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// How often this node was declared dead while it lived.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Asks a node to take this one into its cluster.
    pub(crate) fn announce(&mut self, to: Identity, now: Instant) {
        self.run(now, |foca, runtime| foca.announce(to, runtime));
    }

    /// Asks a member for others.
    pub(crate) fn ask_for_members(&mut self, id: u64, now: Instant) {
        let member = self.foca.iter_members().map(Member::id).find(|member| member.id() == id);
        if let Some(member) = member.cloned() {
            self.announce(member, now);
        }
    }

    /// Takes in a packet of the library.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.run(now, |foca, runtime| foca.handle_data(packet, runtime));
    }

    /// Hears that this node is suspected: refutes it, and says so to who told.
    pub(crate) fn handle_suspicion(&mut self, suspicion: Suspicion, now: Instant) {
        if &suspicion.suspect != self.foca.identity() {
            return;
        }
        let rumour = Member::new(suspicion.suspect, suspicion.incarnation, State::Suspect);
        self.run(now, |foca, runtime| {
            foca.apply_many(std::iter::once(rumour), true, &mut *runtime)?;
            foca.announce(suspicion.by, runtime)
        });
    }

    /// Hears from a node that it leaves.
    pub(crate) fn handle_goodbye(&mut self, leaver: Identity, now: Instant) {
        if leaver.name == self.foca.identity().name {
            return;
        }
        // Also if it is known as dead already: the roster tells who left from who died.
        self.changed = true;
        self.run(now, |foca, runtime| foca.apply_many(std::iter::once(Member::down(leaver)), true, runtime));
    }

    /// Whether this life is a member, or one of the remembered dead.
    pub(crate) fn knows(&self, life: &Identity) -> bool {
        self.foca.iter_membership_state().any(|member| member.id() == life)
    }

    /// The watchers of a life agree that it is over; of this node's own: others believe so, and it must renew itself.
    pub(crate) fn handle_death(&mut self, life: &Identity, now: Instant) {
        if life.name == self.foca.identity().name && life != self.foca.identity() {
            return;
        }
        self.changed = true;
        let over = Member::down(life.clone());
        self.run(now, |foca, runtime| foca.apply_many(std::iter::once(over), true, runtime));
    }

    /// Goes on under a higher generation.
    pub(crate) fn set_generation(&mut self, generation: u64, now: Instant) {
        let renewed = Identity { generation, renewal: 0, ..self.foca.identity().clone() };
        self.run(now, |foca, runtime| foca.change_identity(renewed, runtime));
        self.changed = true;
    }

    /// Leaves the cluster for good: everything that comes later is ignored.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.run(now, |foca, runtime| foca.leave_cluster(runtime));
        self.left = true;
        self.changed = true;
    }

    /// Lets time pass.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.timers.observe(now);
        while let Some(timer) = self.timers.pop_due(now) {
            if self.is_refuted(&timer) {
                continue;
            }
            // Both come once a probe period, an interval apart: a lost word to a suspect is soon repeated.
            let probes = matches!(timer, Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. });
            self.run(now, |foca, runtime| foca.handle_timer(timer, runtime));
            if probes {
                self.tell_suspects();
                // Suspicions and refutations come without a notification.
                self.changed = true;
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.left { None } else { self.timers.next_due() }
    }

    /// What is to be sent, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        while let Some((to, packet)) = self.runtime.to_send() {
            // The library announces itself to the dead in turn, earlier lives of this node among them.
            if to.name != self.identity().name {
                return Some(Output::Packet(to, packet.to_vec()));
            }
        }
        self.suspicions.pop().map(Output::Suspicion)
    }

    /// The watch has seen something: what is made of the members may be something else.
    pub(crate) fn note_report(&mut self) {
        self.changed = true;
    }

    /// Whether members or their states may have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All other members, the remembered dead included; earlier lives of this node are not.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Identity, MemberState)> {
        let own = &self.foca.identity().name;
        self.foca.iter_membership_state().filter(move |member| member.id().name != *own).map(|member| {
            let state = match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down => MemberState::Down,
            };
            (member.id(), state)
        })
    }

    /// Runs an action of the library and does what it asks for.
    fn run(
        &mut self,
        now: Instant,
        action: impl FnOnce(
            &mut Foca<Identity, Postcard, StdRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Identity>,
        ) -> Result<(), foca::Error>,
    ) {
        if self.left {
            return;
        }
        self.timers.observe(now);
        if let Err(error) = action(&mut self.foca, &mut self.runtime) {
            // Peers of another time or place: packets for an earlier life, probes that overlapped a hold-up.
            tracing::debug!(%error, "SWIM refused an event");
        }
        let mut rumours = false;
        while let Some(notification) = self.runtime.to_notify() {
            rumours |= self.note(&notification);
        }
        if rumours {
            if let Err(error) = self.foca.gossip(&mut self.runtime) {
                tracing::debug!(%error, "SWIM could not gossip");
            }
            let size = self.foca.num_members() + 1;
            if let Err(error) = self.foca.set_config(settings(self.watch, size)) {
                tracing::debug!(%error, "SWIM kept its settings");
            }
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.schedule(timer, after, now);
        }
    }

    /// Takes note of a change; true if others should hear of it at once.
    fn note(&mut self, notification: &OwnedNotification<Identity>) -> bool {
        self.changed = true;
        match notification {
            OwnedNotification::MemberUp(_) | OwnedNotification::MemberDown(_) | OwnedNotification::Rename(..) => true,
            OwnedNotification::Rejoin(identity) => {
                tracing::warn!(renewal = identity.renewal, "declared dead while alive; rejoining");
                self.renewals += 1;
                true
            }
            OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => false,
        }
    }

    /// Whether a verdict is due on a suspect that has refuted. The library keeps such a member alive, but tells it all
    /// the same that it is dead, so that it would renew itself for nothing.
    fn is_refuted(&self, timer: &Timer<Identity>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        !self.foca.iter_members().any(|member| {
            member.id() == member_id && member.incarnation() == *incarnation && member.state() == State::Suspect
        })
    }

    fn tell_suspects(&mut self) {
        let by = self.foca.identity().clone();
        let suspects = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        self.suspicions = suspects
            .take(SUSPECTS_TOLD)
            .map(|member| Suspicion { suspect: member.id().clone(), incarnation: member.incarnation(), by: by.clone() })
            .collect();
    }
}

/// The library's settings for a cluster of `size` nodes; see [`Watch`].
fn settings(watch: Watch, size: usize) -> Config {
    let every = |frequency: Duration, members: NonZeroUsize| Some(PeriodicParams { frequency, num_members: members });
    // SWIM section 4.1: a rumour has reached all after a multiple of log(size) transmissions.
    let digits = u8::try_from(size.max(1).ilog2()).unwrap_or(u8::MAX);
    Config {
        probe_period: watch.probe_period(),
        probe_rtt: watch.probe_rtt(),
        num_indirect_probes: HELPERS,
        max_transmissions: NonZeroU8::new(digits.saturating_mul(2)).unwrap_or(NonZeroU8::MIN).saturating_add(4),
        suspect_to_down_after: watch.suspicion(size),
        remove_down_after: Some(REMEMBER_DOWN),
        max_packet_size: PACKET_MAX,
        notify_down_members: true,
        periodic_announce: every(ANNOUNCE, NonZeroUsize::MIN),
        periodic_announce_to_down_members: every(ANNOUNCE_TO_DOWN, HELPERS),
        periodic_gossip: every(GOSSIP, HELPERS),
    }
}

/// The library's packets in postcard encoding.
struct Postcard;

impl Postcard {
    fn encode(value: &impl serde::Serialize, mut buf: impl BufMut) -> Result<(), postcard::Error> {
        let bytes = postcard::to_stdvec(value)?;
        if buf.remaining_mut() < bytes.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        buf.put_slice(&bytes);
        Ok(())
    }

    fn decode<T: serde::de::DeserializeOwned>(mut buf: impl Buf) -> Result<T, postcard::Error> {
        // The trait promises a contiguous buffer.
        let (value, rest) = postcard::take_from_bytes(buf.chunk())?;
        let read = buf.remaining() - rest.len();
        buf.advance(read);
        Ok(value)
    }
}

impl Codec<Identity> for Postcard {
    type Error = postcard::Error;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), Self::Error> {
        Self::encode(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, Self::Error> {
        Self::decode(buf)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), Self::Error> {
        Self::encode(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, Self::Error> {
        Self::decode(buf)
    }
}
