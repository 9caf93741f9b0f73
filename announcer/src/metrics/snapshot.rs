//! State metrics: the agent's state at one moment, and the metric families it makes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use membership::{MemberState, NodeName, WatchStats};
use prometheus::{Registry, proto::MetricFamily};

use super::{
    counter, detection,
    forwarding::{self, FlowTable, ForwardCount, PodCount},
    gauge,
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
    pub states: Vec<(NodeName, String, shadow::State)>,
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
    /// The families of this snapshot, made anew so that what is gone leaves no series behind.
    pub(super) fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let registry = Registry::new();
        self.cluster(&registry)?;
        self.services(&registry)?;
        self.selftest(&registry)?;
        self.forwarder(&registry)?;
        detection::register(&registry, &self.gossip.watch, self.gossip.retractions)?;
        let mut families = registry.gather();
        families.push(detection::detections(&self.gossip.watch.verdicts));
        families.extend(forwarding::connects(&self.connects));
        Ok(families)
    }

    fn cluster(&self, registry: &Registry) -> prometheus::Result<()> {
        let members = gauge(registry, "crier_members", "Members of the cluster as this node sees them", &["state"])?;
        for state in
            [MemberState::Alive, MemberState::Suspect, MemberState::Restarting, MemberState::Down, MemberState::Left]
        {
            let count = self.members.get(&state).copied().unwrap_or(0);
            members.with_label_values(&[state_label(state)]).set(signed(count));
        }
        let packets =
            counter(registry, "crier_gossip_packets_total", "Gossip datagrams sent and accepted", &["direction"])?;
        packets.with_label_values(&["tx"]).inc_by(self.gossip.sent);
        packets.with_label_values(&["rx"]).inc_by(self.gossip.received);
        let rejected = counter(registry, "crier_gossip_rejected_total", "Datagrams received and refused", &["reason"])?;
        for (reason, count) in &self.gossip.rejected {
            rejected.with_label_values(&[reason]).inc_by(*count);
        }
        let help = "Times another agent of this node's name has shown itself";
        counter(registry, "crier_gossip_name_conflicts_total", help, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(self.gossip.name_conflicts);
        let announcements =
            counter(registry, "crier_announcements_total", "ARP and NDP messages sent for owned VIPs", &["kind"])?;
        for (kind, count) in &self.announcements {
            announcements.with_label_values(&[kind]).inc_by(*count);
        }
        gauge(registry, "crier_source_connected", "1 if the source of objects can be read", &[])?
            .with_label_values::<&str>(&[])
            .set(i64::from(self.source.connected));
        gauge(registry, "crier_source_problems", "Objects with a mistake in them", &[])?
            .with_label_values::<&str>(&[])
            .set(signed(self.source.problems));
        Ok(())
    }

    fn selftest(&self, registry: &Registry) -> prometheus::Result<()> {
        let help = "Rounds of asking on the wire for a VIP of another node, by what came of it";
        let rounds = counter(registry, "crier_vip_selftest_total", help, &["result"])?;
        for (result, count) in &self.selftest.rounds {
            rounds.with_label_values(&[result]).inc_by(*count);
        }
        let help = "VIPs of others that this node asks for, those of them that fail, and own ones that nobody asks for";
        let vips = gauge(registry, "crier_vip_selftest_vips", help, &["state"])?;
        let SelfTested { tested, untested, failing, .. } = self.selftest;
        for (state, count) in [("tested", tested), ("failing", failing), ("untested", untested)] {
            vips.with_label_values(&[state]).set(signed(count));
        }
        Ok(())
    }

    fn services(&self, registry: &Registry) -> prometheus::Result<()> {
        let labels = ["vip", "namespace", "service"];
        let owned = gauge(registry, "crier_vip_owned", "1 on the VIP's owner, 0 elsewhere", &labels)?;
        for VipOwned { vip, service, owned: ours } in &self.vips {
            let vip = vip.to_string();
            owned.with_label_values(&[vip.as_str(), &service.namespace, &service.name]).set(i64::from(*ours));
        }
        let labels = ["namespace", "service", "backend"];
        let healthy = gauge(registry, "crier_backend_healthy", "1 if the backend may get new connections", &labels)?;
        for BackendHealth { service, backend, healthy: well } in &self.backends {
            let backend = backend.to_string();
            healthy.with_label_values(&[&service.namespace, &service.name, &backend]).set(i64::from(*well));
        }
        let pools = gauge(registry, "crier_pool_addresses", "Addresses of a pool by state", &["pool", "state"])?;
        for PoolAddresses { pool, used, free } in &self.pools {
            pools.with_label_values(&[pool.as_str(), "used"]).set(signed(*used));
            pools.with_label_values(&[pool.as_str(), "free"]).set(signed(*free));
        }
        Ok(())
    }

    fn forwarder(&self, registry: &Registry) -> prometheus::Result<()> {
        forwarding::register(registry, self)?;
        let hops = "Mid-flow packets passed on to the node their slot belonged to before";
        counter(registry, "crier_second_hop_packets_total", hops, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(self.second_hops);
        let drops = counter(registry, "crier_forward_drops_total", "Packets dropped by the forwarder", &["reason"])?;
        for (reason, count) in &self.drops {
            drops.with_label_values(&[reason]).inc_by(*count);
        }
        let help = "Packets about VIPs and their connections that the forwarder answered itself or told pods";
        let messages = counter(registry, "crier_forward_messages_total", help, &["kind"])?;
        for (kind, count) in &self.messages {
            messages.with_label_values(&[kind]).inc_by(*count);
        }
        let help = "Flows of this node's pods that made room for new ones though they were not over";
        let evictions = counter(registry, "crier_flow_evictions_total", help, &["state"])?;
        for (state, count) in &self.evictions {
            evictions.with_label_values(&[state]).inc_by(*count);
        }
        self.shadow(registry)
    }

    fn shadow(&self, registry: &Registry) -> prometheus::Result<()> {
        let labels = ["owner", "interface", "state"];
        let help = "1 for the state in which this node stands in for the owner of a VIP";
        let states = gauge(registry, "crier_shadow_state", help, &labels)?;
        for (owner, interface, now) in &self.shadow.states {
            for state in shadow::State::ALL {
                let labels = [owner.as_str(), interface.as_str(), state.as_str()];
                states.with_label_values(&labels).set(i64::from(state == *now));
            }
        }
        let help = "Frames for owners of VIPs that a switch flooded to this standby, by what became of them";
        let packets = counter(registry, "crier_shadow_packets_total", help, &["result"])?;
        for (result, count) in &self.shadow.packets {
            packets.with_label_values(&[result]).inc_by(*count);
        }
        let help = "Times this standby found that an owner lives while frames to it are flooded";
        counter(registry, "crier_shadow_stand_downs_total", help, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(self.shadow.stand_downs);
        let help = "Times frames to an owner began to be flooded to this standby";
        counter(registry, "crier_shadow_floods_total", help, &[])?
            .with_label_values::<&str>(&[])
            .inc_by(self.shadow.floods);
        Ok(())
    }
}

/// Gauges are signed; of the counts here only an IPv6 pool's free addresses come near the limit.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
