//! What the prober counts.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::state::Answer;

/// Upper bounds of the duration histogram, seconds: a pod on the same node answers in well under a millisecond.
const BUCKETS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The prober's metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProbeMetrics {
    duration: HistogramVec,
    results: IntCounterVec,
}

impl ProbeMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// If `registry` has them already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let duration = HistogramVec::new(
            HistogramOpts::new("crier_probe_duration_seconds", "How long probes of this node's pods took")
                .buckets(BUCKETS.to_vec()),
            &["type"],
        )?;
        let results = IntCounterVec::new(
            Opts::new(
                "crier_probe_results_total",
                "Probes of this node's pods by what came of them (not_asked: this node lacked the means to ask)",
            ),
            &["type", "result"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(results.clone()))?;
        Ok(Self { duration, results })
    }

    /// Counts one probe; `kind` is `tcp`, `http` or `https`.
    pub(crate) fn observe(&self, kind: &str, answer: &Answer, took: Duration) {
        self.duration.with_label_values(&[kind]).observe(took.as_secs_f64());
        self.results.with_label_values(&[kind, answer.label()]).inc();
    }
}
