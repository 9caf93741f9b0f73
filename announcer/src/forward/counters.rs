//! What the kernel program counted, with the names people know.

use std::{collections::BTreeMap, net::SocketAddr, ops::AddAssign, time::Duration};

use forwarder_ebpf::{Counter, Direction, DropReason, Eviction, Message, ShadowEvent, Waits};

use crate::model::{Protocol, ServiceName};

/// What traffic is counted by. A dual-stack service's addresses are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    /// The service.
    pub service: ServiceName,
    /// The port on its VIPs.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

/// What went by, since the agent started or the service came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets as on the wire.
    pub packets: u64,
    /// Bytes with link-layer headers.
    pub bytes: u64,
    /// Connections begun; [`Direction::Inbound`] only.
    pub flows: u64,
}

/// What clients and pods of this node said to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conversation {
    /// From clients.
    pub inbound: Traffic,
    /// From pods.
    pub outbound: Traffic,
    /// Connections that clients have ended by a reset.
    pub resets_by_clients: u64,
    /// Connections that pods have ended by a reset, or refused.
    pub resets_by_pods: u64,
    /// Opening packets that clients have repeated.
    pub retransmits: u64,
}

/// How long clients waited from their opening packet until a pod accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connects {
    /// How many waited as long as each of [`Connects::bounds`] at most, but longer than the one before; the last: longer.
    pub counts: [u64; Waits::BOUNDS as usize + 1],
    /// All their time together.
    pub sum: Duration,
}

impl Connects {
    /// The bounds, in order.
    pub fn bounds() -> impl Iterator<Item = Duration> {
        (0..Waits::BOUNDS).map(|number| Duration::from_micros(Waits::bound(number)))
    }

    /// How many connections there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl AddAssign<Waits> for Connects {
    fn add_assign(&mut self, more: Waits) {
        self.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
        self.sum += Duration::from_micros(more.micros);
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.flows += more.flows;
    }
}

impl AddAssign for Conversation {
    fn add_assign(&mut self, more: Self) {
        self.inbound += more.inbound;
        self.outbound += more.outbound;
        self.resets_by_clients += more.resets_by_clients;
        self.resets_by_pods += more.resets_by_pods;
        self.retransmits += more.retransmits;
    }
}

impl From<&Counter> for Conversation {
    fn from(counter: &Counter) -> Self {
        let ([packets_in, packets_out], [bytes_in, bytes_out]) = (counter.packets, counter.bytes);
        let [resets_by_clients, resets_by_pods] = counter.resets;
        Self {
            inbound: Traffic { packets: packets_in, bytes: bytes_in, flows: counter.flows },
            outbound: Traffic { packets: packets_out, bytes: bytes_out, flows: 0 },
            resets_by_clients,
            resets_by_pods,
            retransmits: counter.retransmits.into(),
        }
    }
}

/// Everything that is counted at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// By service port and direction; all three directions of every service port are there.
    pub traffic: BTreeMap<(Labels, Direction), Traffic>,
    /// What this node's pods have to do with it, by service port.
    pub conversations: BTreeMap<Labels, Conversation>,
    /// The same by service port and pod; of pods that are gone for ten minutes more.
    pub pods: BTreeMap<(Labels, SocketAddr), Conversation>,
    /// How long clients waited for this node's pods, by service.
    pub waits: BTreeMap<ServiceName, Connects>,
    /// Packets dropped, by reason; all reasons are there.
    pub drops: BTreeMap<DropReason, u64>,
    /// Mid-flow packets passed on to the node their slot belonged to before.
    pub second_hops: u64,
    /// What became of frames that were flooded here for MACs that this node shadows.
    pub shadow: BTreeMap<ShadowEvent, u64>,
    /// What was said about VIPs and their connections.
    pub messages: BTreeMap<Message, u64>,
    /// Flows that made room for new ones though they were not over, by what they were.
    pub evictions: BTreeMap<Eviction, u64>,
}
