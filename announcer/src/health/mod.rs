//! The prober: asks this node's own pods whether they answer, and reports a verdict on each.
//!
//! The way of a verdict: [`mod@plan`] says which pods are asked and how (from [`crate::model::Desired`]), [`schedule`]
//! when, [`io`] asks, [`state`] turns answers into verdicts by `rise` and `fall`, and `slow_start` says how a pod that has
//! become healthy comes to its share. The app gossips the verdicts in
//! this node's document, so a cluster probes each pod once, not once per node.
//!
//! **Timing.** A pod that stops answering is found [`membership::Verdict::Unhealthy`] within
//! `interval` x `fall` + `timeout`: two probes of a pod never start further apart than its interval, and no probe
//! outlives its timeout. Only the bound on probes in flight ([`io::run::MAX_IN_FLIGHT`]) can stretch this; reaching
//! it is counted and logged.

pub mod io;
pub mod metrics;
pub mod plan;
pub mod schedule;
mod slow_start;
pub mod state;

pub use io::run::{Prober, start};
pub use metrics::ProbeMetrics;
pub use plan::{Plan, plan, target_of};
pub use state::{Answer, Judgement, Verdicts};
