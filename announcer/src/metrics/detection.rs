//! The metrics of the fast watch, made from what its state machine counted in plain fields.

use std::time::Duration;

use membership::{Detections, WatchStats};

use super::exposition::{Exposition, Kind};

/// Writes the watch's counters.
pub(super) fn write(page: &mut Exposition, watch: &WatchStats, retractions: u64) {
    let mut signals = page.family("crier_watch_signals_total", Kind::Counter, "Signals of the fast watch");
    for (kind, direction, count) in [
        ("beat", "tx", watch.beats_out),
        ("beat", "rx", watch.beats_in),
        ("ping", "tx", watch.pings_out),
        ("ping", "rx", watch.pings_in),
        ("question", "tx", watch.questions_out),
    ] {
        signals.sample(&[("kind", &kind), ("direction", &direction)], count);
    }
    for (name, help, count) in [
        ("crier_watch_suspicions_total", "Times a node that this one watches was overdue", watch.suspicions),
        ("crier_watch_false_alarms_total", "Times an overdue node was heard after all", watch.false_alarms),
        ("crier_watch_retractions_total", "Times a node found dead came back in the same life", retractions),
        ("crier_watch_holdups_total", "Times this node's watch was held up itself", watch.holdups),
        ("crier_watch_misrouted_total", "Datagrams that came to the wrong socket", watch.misrouted),
    ] {
        page.single(name, Kind::Counter, help, count);
    }
    detections(page, &watch.verdicts);
}

fn detections(page: &mut Exposition, found: &Detections) {
    let help = "From when a node was last heard until this node found it down";
    let bounds = Detections::BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64());
    page.family("crier_failure_detection_seconds", Kind::Histogram, help).histogram(
        &[],
        bounds.zip(found.buckets),
        found.count,
        found.sum,
    );
}
