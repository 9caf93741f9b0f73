//! The agent's metrics: one registry, the counters that count events, and the state written at scrape.
//!
//! Two kinds, so that nothing can drift. **Events** (transitions, conflicts, probes, limits hit) are counted as they
//! happen, by handles: [`Events`], [`Limits`], [`ProbeMetrics`]. **State** (members, owners, health, the kernel's
//! counters) is never copied into a handle: the app describes it in a [`Snapshot`] when asked, and [`Metrics::render`]
//! writes that. Pure cores hold no handles; what they count in plain fields comes in with the snapshot.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::health::ProbeMetrics;

mod detection;
mod exposition;
mod forwarding;
mod snapshot;

pub use forwarding::{FlowTable, ForwardCount, PodCount};
pub use snapshot::{
    BackendHealth, GossipCounts, PoolAddresses, SelfTested, ShadowCounts, Snapshot, SourceState, VipOwned,
};

/// The registry and all handles. Make one for each agent; share it by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Counters of the agent's own events.
    pub events: Events,
    /// Counts limits that were hit.
    pub limits: Limits,
    /// The prober's metrics.
    pub probes: ProbeMetrics,
}

/// Why metrics could not be made or rendered.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}; this is a bug in the agent, please report it")]
pub struct MetricsError(#[from] prometheus::Error);

/// Counts each time a bound of the agent was reached (`crier_limits_reached_total`); cheap to clone.
#[derive(Debug, Clone)]
pub struct Limits(IntCounterVec);

/// Counters of the agent's own events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    member_transitions: IntCounterVec,
    vip_transitions: IntCounterVec,
    vip_conflicts: IntCounterVec,
}

impl Limits {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        counter(registry, "crier_limits_reached_total", "Times a bound of the agent was reached", &["what"]).map(Self)
    }

    /// Counts one hit of the bound called `what`, such as `probes_in_flight`. Log it too, naming the bound's value.
    pub fn hit(&self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts `hits` of the bound called `what`, for cores that count in plain fields.
    pub fn add(&self, what: &'static str, hits: u64) {
        self.0.with_label_values(&[what]).inc_by(hits);
    }
}

impl Events {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            member_transitions: counter(
                registry,
                "crier_member_transitions_total",
                "Changes of members' states as this node saw them",
                &["to"],
            )?,
            vip_transitions: counter(
                registry,
                "crier_vip_transitions_total",
                "Changes of a VIP's owner as this node saw them",
                &["vip", "reason"],
            )?,
            vip_conflicts: counter(
                registry,
                "crier_vip_conflicts_total",
                "Times another machine answered for a VIP that this node owns",
                &["vip"],
            )?,
        })
    }

    /// Counts a member's change to the state `to`.
    pub fn member_transition(&self, to: membership::MemberState) {
        self.member_transitions.with_label_values(&[snapshot::state_label(to)]).inc();
    }

    /// Counts a change of a VIP's owner; `reason` is one of a fixed set of words.
    pub fn vip_transition(&self, vip: std::net::IpAddr, reason: &'static str) {
        self.vip_transitions.with_label_values(&[vip.to_string().as_str(), reason]).inc();
    }

    /// Counts another machine answering for a VIP that this node owns.
    pub fn vip_conflict(&self, vip: std::net::IpAddr) {
        self.vip_conflicts.with_label_values(&[vip.to_string().as_str()]).inc();
    }
}

impl Metrics {
    /// Makes and registers all handles.
    ///
    /// # Errors
    /// If two metrics have one name.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        gauge(&registry, "crier_build_info", "The agent's version; always 1", &["version"])?
            .with_label_values(&[version])
            .set(1);
        Ok(Self {
            events: Events::register(&registry)?,
            limits: Limits::register(&registry)?,
            probes: ProbeMetrics::register(&registry)?,
            registry,
        })
    }

    /// All metrics in the Prometheus text format, the state as `snapshot` tells it.
    ///
    /// # Errors
    /// If the events' families cannot be encoded.
    pub fn render(&self, snapshot: &Snapshot) -> Result<String, MetricsError> {
        Ok(snapshot.render(TextEncoder::new().encode_to_string(&self.registry.gather())?))
    }
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

#[cfg(test)]
mod tests;
