//! State metrics: the agent's state at one moment, and how that is written.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use membership::{MemberState, NodeName, WatchStats};

use super::{
    detection,
    exposition::{Exposition, Kind, Label},
    forwarding::{self, FlowTable, ForwardCount, PodCount},
};
use crate::{forward::Connects, model::ServiceName, shadow};

/// What is so at the moment of a scrape. Counts are since the agent's start, or the maps' pinning.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// How many members are in each state, this node included.
    pub members: BTreeMap<MemberState, u64>,
    /// Every VIP with each service that has it, and whether this node owns it.
    pub vips: Vec<VipOwned>,
    /// Every backend as this node steers by it.
    pub backends: Vec<BackendHealth>,
    /// Gossip datagrams.
    pub gossip: GossipCounts,
    /// Announcements sent, by kind: `garp`, `unsolicited_na`, `arp_reply`, `na`.
    pub announcements: BTreeMap<&'static str, u64>,
    /// What the forwarder carried, by service port.
    pub forwarded: Vec<ForwardCount>,
    /// The same, by pod of this node.
    pub pods: Vec<PodCount>,
    /// How long clients waited for pods of this node, by service.
    pub connects: BTreeMap<ServiceName, Connects>,
    /// The connections that the forwarder remembers.
    pub flow_table: FlowTable,
    /// What the forwarder dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Mid-flow packets passed on to the node their slot belonged to before.
    pub second_hops: u64,
    /// What was said about VIPs and their connections, by kind.
    pub messages: BTreeMap<&'static str, u64>,
    /// Flows that made room for new ones though they were not over, by what they were.
    pub evictions: BTreeMap<&'static str, u64>,
    /// The shadow standby.
    pub shadow: ShadowCounts,
    /// How full the pools are.
    pub pools: Vec<PoolAddresses>,
    /// The source of objects.
    pub source: SourceState,
    /// Asking for other nodes' VIPs.
    pub selftest: SelfTested,
}

/// A VIP and whether this node owns it.
#[derive(Debug, Clone)]
pub struct VipOwned {
    /// The address.
    pub vip: IpAddr,
    /// A service that has it.
    pub service: ServiceName,
    /// Whether this node is its owner.
    pub owned: bool,
}

/// A backend's health.
#[derive(Debug, Clone)]
pub struct BackendHealth {
    /// Its service.
    pub service: ServiceName,
    /// The pod's socket.
    pub backend: SocketAddr,
    /// May get new connections: verdict healthy, or not probed and ready.
    pub healthy: bool,
}

/// Gossip datagrams, counted by the cluster's state machine.
#[derive(Debug, Clone, Default)]
pub struct GossipCounts {
    /// Sent.
    pub sent: u64,
    /// Received and accepted.
    pub received: u64,
    /// Received and refused, by reason; the watch's too.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Times a node found dead came back in the same life.
    pub retractions: u64,
    /// Times another agent of this node's name has shown itself.
    pub name_conflicts: u64,
    /// The fast watch.
    pub watch: WatchStats,
}

/// What the shadow standby does.
#[derive(Debug, Clone, Default)]
pub struct ShadowCounts {
    /// The owners this node stands in for, by which interface, and how that is.
    pub states: BTreeMap<(NodeName, String), shadow::State>,
    /// Frames flooded here for those owners, by what became of them.
    pub packets: BTreeMap<&'static str, u64>,
    /// How often this node stood down.
    pub stand_downs: u64,
    /// How often such frames began to be flooded here.
    pub floods: u64,
}

/// How full a pool is.
#[derive(Debug, Clone)]
pub struct PoolAddresses {
    /// Its name.
    pub pool: String,
    /// Addresses that a service has.
    pub used: u64,
    /// Addresses that are left; of IPv6 pools at most what the metric can hold.
    pub free: u64,
}

/// How the source of objects is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceState {
    /// It can be read.
    pub connected: bool,
    /// Objects left out, or kept at their last good version, for a mistake in them.
    pub problems: u64,
}

/// What came of asking for other nodes' VIPs on the wire.
#[derive(Debug, Clone, Default)]
pub struct SelfTested {
    /// Rounds, by result.
    pub rounds: BTreeMap<&'static str, u64>,
    /// VIPs that this node asks for.
    pub tested: u64,
    /// VIPs of this node that no peer can ask for.
    pub untested: u64,
    /// Those of the tested that were not answered for as they should be, when last asked for.
    pub failing: u64,
}

/// The label value of a member's state.
pub(super) fn state_label(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Restarting => "restarting",
        MemberState::Down => "down",
        MemberState::Left => "left",
    }
}

impl Snapshot {
    /// All of it after `page`, written anew each time so that what is gone leaves no series behind.
    pub(super) fn render(&self, page: String) -> String {
        let mut page = Exposition::after(page);
        self.cluster(&mut page);
        self.services(&mut page);
        self.selftest(&mut page);
        self.forwarder(&mut page);
        self.shadow(&mut page);
        detection::write(&mut page, &self.gossip.watch, self.gossip.retractions);
        page.into_text()
    }

    fn cluster(&self, page: &mut Exposition) {
        let mut members = page.family("crier_members", Kind::Gauge, "Members of the cluster as this node sees them");
        for state in
            [MemberState::Alive, MemberState::Suspect, MemberState::Restarting, MemberState::Down, MemberState::Left]
        {
            let count = self.members.get(&state).copied().unwrap_or(0);
            members.sample(&[("state", &state_label(state))], count);
        }
        let help = "Gossip datagrams sent and accepted";
        let mut packets = page.family("crier_gossip_packets_total", Kind::Counter, help);
        packets.sample(&[("direction", &"tx")], self.gossip.sent);
        packets.sample(&[("direction", &"rx")], self.gossip.received);
        counted(page, "crier_gossip_rejected_total", "Datagrams received and refused", "reason", &self.gossip.rejected);
        let help = "Times another agent of this node's name has shown itself";
        page.single("crier_gossip_name_conflicts_total", Kind::Counter, help, self.gossip.name_conflicts);
        let help = "ARP and NDP messages sent for owned VIPs";
        counted(page, "crier_announcements_total", help, "kind", &self.announcements);
        let help = "1 if the source of objects can be read";
        page.single("crier_source_connected", Kind::Gauge, help, self.source.connected.into());
        page.single("crier_source_problems", Kind::Gauge, "Objects with a mistake in them", self.source.problems);
    }

    fn services(&self, page: &mut Exposition) {
        let mut owned = page.family("crier_vip_owned", Kind::Gauge, "1 on the VIP's owner, 0 elsewhere");
        for VipOwned { vip, service, owned: ours } in &self.vips {
            let labels: [Label; 3] = [("vip", vip), ("namespace", &service.namespace), ("service", &service.name)];
            owned.sample(&labels, u64::from(*ours));
        }
        let help = "1 if the backend may get new connections";
        let mut healthy = page.family("crier_backend_healthy", Kind::Gauge, help);
        for BackendHealth { service, backend, healthy: well } in &self.backends {
            let labels: [Label; 3] =
                [("namespace", &service.namespace), ("service", &service.name), ("backend", backend)];
            healthy.sample(&labels, u64::from(*well));
        }
        let mut pools = page.family("crier_pool_addresses", Kind::Gauge, "Addresses of a pool by state");
        for PoolAddresses { pool, used, free } in &self.pools {
            pools.sample(&[("pool", pool), ("state", &"used")], *used);
            pools.sample(&[("pool", pool), ("state", &"free")], *free);
        }
    }

    fn selftest(&self, page: &mut Exposition) {
        let help = "Rounds of asking on the wire for a VIP of another node, by what came of it";
        counted(page, "crier_vip_selftest_total", help, "result", &self.selftest.rounds);
        let help = "VIPs of others that this node asks for, those of them that fail, and own ones that nobody asks for";
        let mut vips = page.family("crier_vip_selftest_vips", Kind::Gauge, help);
        let SelfTested { tested, untested, failing, .. } = self.selftest;
        for (state, count) in [("tested", tested), ("failing", failing), ("untested", untested)] {
            vips.sample(&[("state", &state)], count);
        }
    }

    fn forwarder(&self, page: &mut Exposition) {
        forwarding::write(page, self);
        let hops = "Mid-flow packets passed on to the node their slot belonged to before";
        page.single("crier_second_hop_packets_total", Kind::Counter, hops, self.second_hops);
        let help = "Packets dropped by the forwarder";
        counted(page, "crier_forward_drops_total", help, "reason", &self.drops);
        let help = "Packets about VIPs and their connections that the forwarder answered itself or told pods";
        counted(page, "crier_forward_messages_total", help, "kind", &self.messages);
        let help = "Flows of this node's pods that made room for new ones though they were not over";
        counted(page, "crier_flow_evictions_total", help, "state", &self.evictions);
    }

    fn shadow(&self, page: &mut Exposition) {
        let help = "1 for the state in which this node stands in for the owner of a VIP";
        let mut states = page.family("crier_shadow_state", Kind::Gauge, help);
        for ((owner, interface), now) in &self.shadow.states {
            for state in shadow::State::ALL {
                let labels: [Label; 3] = [("owner", owner), ("interface", interface), ("state", &state.as_str())];
                states.sample(&labels, u64::from(state == *now));
            }
        }
        let help = "Frames for owners of VIPs that a switch flooded to this standby, by what became of them";
        counted(page, "crier_shadow_packets_total", help, "result", &self.shadow.packets);
        let help = "Times this standby found that an owner lives while frames to it are flooded";
        page.single("crier_shadow_stand_downs_total", Kind::Counter, help, self.shadow.stand_downs);
        let help = "Times frames to an owner began to be flooded to this standby";
        page.single("crier_shadow_floods_total", Kind::Counter, help, self.shadow.floods);
    }
}

/// A counter of what is counted by one label.
fn counted(
    page: &mut Exposition,
    name: &'static str,
    help: &str,
    label: &'static str,
    counts: &BTreeMap<&'static str, u64>,
) {
    let mut family = page.family(name, Kind::Counter, help);
    for (value, count) in counts {
        family.sample(&[(label, value)], *count);
    }
}
