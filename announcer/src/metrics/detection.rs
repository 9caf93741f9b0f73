//! The metrics of the fast watch, made from what its state machine counted in plain fields.

use std::time::Duration;

use membership::{Detections, WatchStats};
use prometheus::{
    Registry,
    proto::{Bucket, Histogram, Metric, MetricFamily, MetricType},
};

use super::counter;

/// Registers the watch's counters with their values.
pub(super) fn register(registry: &Registry, watch: &WatchStats, retractions: u64) -> prometheus::Result<()> {
    let signals = counter(registry, "crier_watch_signals_total", "Signals of the fast watch", &["kind", "direction"])?;
    for (kind, direction, count) in [
        ("beat", "tx", watch.beats_out),
        ("beat", "rx", watch.beats_in),
        ("ping", "tx", watch.pings_out),
        ("ping", "rx", watch.pings_in),
        ("question", "tx", watch.questions_out),
    ] {
        signals.with_label_values(&[kind, direction]).inc_by(count);
    }
    for (name, help, count) in [
        ("crier_watch_suspicions_total", "Times a node that this one watches was overdue", watch.suspicions),
        ("crier_watch_false_alarms_total", "Times an overdue node was heard after all", watch.false_alarms),
        ("crier_watch_retractions_total", "Times a node found dead came back in the same life", retractions),
        ("crier_watch_holdups_total", "Times this node's watch was held up itself", watch.holdups),
        ("crier_watch_misrouted_total", "Datagrams that came to the wrong socket", watch.misrouted),
    ] {
        counter(registry, name, help, &[])?.with_label_values::<&str>(&[]).inc_by(count);
    }
    Ok(())
}

/// `crier_failure_detection_seconds`.
pub(super) fn detections(found: &Detections) -> MetricFamily {
    let bounds = Detections::BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram(bounds.zip(found.buckets), found.count, found.sum));
    let mut family = MetricFamily::default();
    family.set_name("crier_failure_detection_seconds".to_owned());
    family.set_help("From when a node was last heard until this node found it down".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

/// A histogram of counts between bounds, each with the one that ends it.
pub(super) fn histogram(counts: impl Iterator<Item = (f64, u64)>, count: u64, sum: Duration) -> Histogram {
    let mut cumulative = 0;
    let bucket = |(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(counts.map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum.as_secs_f64());
    histogram
}
