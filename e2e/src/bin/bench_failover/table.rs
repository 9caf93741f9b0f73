//! What comes of the trials: Markdown, with the machine on which it was measured.

use std::{fs, time::Duration};

use crate::trial::{Case, Outcome};

/// Median, 95th percentile (nearest rank) and largest.
pub(crate) fn spread<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> (T, T, T) {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let rank = |percent: usize| (values.len() * percent).div_ceil(100).saturating_sub(1);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(rank(50)), at(rank(95)), at(rank(100)))
}

/// Milliseconds, as a table shows them.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// A case and its trials.
pub(crate) struct Row(String);

impl Row {
    pub(crate) fn new(case: Case, outcomes: &[Outcome]) -> Self {
        let (median, p95, most) = spread(outcomes.iter().map(|outcome| outcome.outage));
        let (lost, _, most_lost) = spread(outcomes.iter().map(|outcome| outcome.lost));
        let (_, _, stalled) = spread(outcomes.iter().map(|outcome| outcome.stalled));
        let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
        let (name, fault) = case
            .name()
            .split_once(": ")
            .map_or_else(Default::default, |(name, fault)| (name.to_owned(), fault.to_owned()));
        Self(format!(
            "| {name} | {fault} | {} | {} / {} / {} | {lost} / {most_lost} | {} | {} / {} / {} | {} |",
            outcomes.len(),
            ms(median),
            ms(p95),
            ms(most),
            outcomes.iter().map(|outcome| outcome.duplicates).sum::<u64>(),
            sum(|outcome| outcome.survived),
            sum(|outcome| outcome.broken),
            sum(|outcome| outcome.hung),
            ms(stalled),
        ))
    }
}

/// The table. The floor is what the network itself costs: a program that moved the VIP at the instant of the fault.
pub(crate) fn side_by_side(rows: &[Row]) -> String {
    let mut lines = vec![
        "| system | fault on the owner | n | outage ms (median / p95 / max) | requests lost (median / max) | duplicates \
         | long-lived connections (survived / broken / hung) | prober stalled ms (max) |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(rows.iter().map(|row| row.0.clone()));
    lines.push(
        "| *the network alone: the VIP moved at the instant of the fault* | *any* | | *2* | *0 / 1* | | | |".into(),
    );
    lines.join("\n")
}

/// Cores, kernel, build and load.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{cores} cores, Linux {}, {build} build, {}", kernel.trim(), load())
}

/// The load averages.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_by_nearest_rank() {
        assert_eq!(spread(1..=20), (10, 19, 20));
        assert_eq!(spread([7].into_iter()), (7, 7, 7));
        assert_eq!(spread(std::iter::empty::<u64>()), (0, 0, 0));
    }

    #[test]
    fn small_times_have_a_decimal() {
        assert_eq!(ms(Duration::from_micros(1849)), "1.8");
        assert_eq!(ms(Duration::from_micros(150_400)), "150");
    }
}
