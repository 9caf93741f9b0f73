//! What comes of the trials: Markdown, with the machine on which it was measured.

use std::{collections::BTreeSet, time::Duration};

use e2e::bench::markdown;

use crate::{case::Case, record::Record, soak::Counted, trial::Outcome, vips::Served};

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

/// All tables of these records.
pub(crate) fn all(records: &[Record]) -> String {
    let sittings = records.iter().filter_map(|record| match record {
        Record::Sitting { machine, options, .. } => Some(format!("`{options}`: {machine}\n")),
        _ => None,
    });
    format!(
        "{}\n{}{}{}{}",
        sittings.collect::<String>(),
        side_by_side(records),
        dead_pods(records),
        vips(records),
        soaks(records)
    )
}

/// The trials of each case and the number of its void ones, in the order of [`Case::all`]; cases without any are left out.
fn by_case(records: &[Record]) -> Vec<(Case, Vec<&Outcome>, usize)> {
    let all = Case::all().into_iter().map(|wanted| {
        let outcomes = records.iter().filter_map(|record| match record {
            Record::Trial { case, outcome } if *case == wanted => Some(outcome),
            _ => None,
        });
        let void = records.iter().filter(|record| matches!(record, Record::Void { case, .. } if *case == wanted));
        (wanted, outcomes.collect::<Vec<_>>(), void.count())
    });
    all.filter(|(_, outcomes, void)| !outcomes.is_empty() || *void > 0).collect()
}

/// The trials. The floor is what the network itself costs: a program that moved the VIP at the instant of the fault.
fn side_by_side(records: &[Record]) -> String {
    let mut rows: Vec<_> =
        by_case(records).into_iter().map(|(case, outcomes, void)| row(case, &outcomes, void)).collect();
    if !rows.is_empty() {
        rows.push(
            "| *the network alone: the VIP moved at the instant of the fault* | *any* | | *2* | *0 / 1* | | | |".into(),
        );
    }
    markdown(
        "| system | fault on the owner | n | outage ms (median / p95 / max) | requests lost (median / max) | duplicates \
         | long-lived connections (survived / broken / hung) | prober stalled ms (max) |",
        &rows,
    )
}

fn row(case: Case, outcomes: &[&Outcome], void: usize) -> String {
    let (median, p95, most) = spread(outcomes.iter().map(|outcome| outcome.outage));
    let (lost, _, most_lost) = spread(outcomes.iter().map(|outcome| outcome.lost));
    let (_, _, stalled) = spread(outcomes.iter().map(|outcome| outcome.stalled));
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(|outcome| count(outcome)).sum::<usize>();
    if outcomes.is_empty() {
        return format!("| {} | {} | 0 (+ {void} void) | | | | | |", case.subject(), case.fault.name());
    }
    let void = if void > 0 { format!(" (+ {void} void)") } else { String::new() };
    format!(
        "| {} | {} | {}{void} | {} / {} / {} | {lost} / {most_lost} | {} | {} / {} / {} | {} |",
        case.subject(),
        case.fault.name(),
        outcomes.len(),
        ms(median),
        ms(p95),
        ms(most),
        outcomes.iter().map(|outcome| outcome.duplicates).sum::<u64>(),
        sum(|outcome| outcome.survived),
        sum(|outcome| outcome.broken),
        sum(|outcome| outcome.hung),
        ms(stalled),
    )
}

/// Requests to pods that died with their node.
fn dead_pods(records: &[Record]) -> String {
    let rows = by_case(records).into_iter().filter(|(case, ..)| case.everywhere).map(|(case, outcomes, _)| {
        let dead: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.dead).collect();
        let (median, p95, most) = spread(dead.iter().map(|dead| dead.outage));
        let (lost, _, most_lost) = spread(dead.iter().map(|dead| dead.lost));
        format!(
            "| {} | {} | {} | {} / {} / {} | {lost} / {most_lost} |",
            case.subject(),
            case.fault.name(),
            dead.len(),
            ms(median),
            ms(p95),
            ms(most)
        )
    });
    markdown(
        "| requests that the dead node's pods would have served | fault | n | until other pods serve them ms (median / p95 / max) \
         | requests lost (median / max) |",
        &rows.collect::<Vec<_>>(),
    )
}

fn vips(records: &[Record]) -> String {
    let served =
        || records.iter().filter_map(|record| if let Record::Vips(served) = record { Some(served) } else { None });
    let setting = |served: &Served| (served.vips, served.interval, served.everywhere);
    let settings: BTreeSet<_> = served().map(setting).collect();
    let rows = settings.into_iter().map(|wanted| {
        let of: Vec<_> = served().filter(|served| setting(served) == wanted).collect();
        let (first, _, first_most) = spread(of.iter().map(|served| served.first));
        let (last, _, last_most) = spread(of.iter().map(|served| served.last));
        let (between, _, between_most) = spread(of.iter().map(|served| served.last.saturating_sub(served.first)));
        let (_, _, owned) = spread(of.iter().map(|served| served.owned));
        let pods = if wanted.2 { "on all nodes" } else { "on nodes that stay" };
        format!(
            "| {owned} of {} ({} ms x 3) | {pods} | {} | {} / {} | {} / {} | {} / {} |",
            wanted.0,
            wanted.1,
            of.len(),
            ms(first),
            ms(first_most),
            ms(last),
            ms(last_most),
            ms(between),
            ms(between_most),
        )
    });
    markdown(
        "| VIPs on the node that is cut | pods | n | first served ms (median / max) | last served ms (median / max) \
         | from first to last ms (median / max) |",
        &rows.collect::<Vec<_>>(),
    )
}

fn soaks(records: &[Record]) -> String {
    let rows = records.iter().filter_map(|record| if let Record::Soak(soaked) = record { Some(soaked) } else { None });
    let rows = rows.map(|soaked| {
        let Counted { takeovers, downs, alarms } = soaked.counted;
        format!(
            "| {} ({} ms x 3) | {} ({:.1}) | {:.1} | {} | {} | {} | {} | {} | {alarms} | {downs} | {takeovers} | {} / {} | {} |",
            soaked.timers,
            soaked.interval,
            soaked.workers,
            soaked.stressed,
            soaked.minutes,
            soaked.sent,
            soaked.lost,
            soaked.duplicates,
            ms(soaked.outage),
            ms(soaked.stalled),
            soaked.survived,
            soaked.connections,
            soaked.load,
        )
    });
    markdown(
        "| timers | stress-ng workers (processors they had) | minutes | requests | lost | duplicates | longest gap ms | prober stalled ms (max) \
         | false alarms | members said down | takeovers | connections survived | load |",
        &rows.collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::Dead;

    #[test]
    fn a_spread_is_by_nearest_rank() {
        assert_eq!(spread(1..=20), (10, 19, 20));
        assert_eq!(spread([7].into_iter()), (7, 7, 7));
        assert_eq!(spread(std::iter::empty::<u64>()), (0, 0, 0));
    }

    #[test]
    fn a_case_shows_its_void_trials_beside_the_others() {
        let case = Case::all()[0];
        let ms = |ms| Outcome { outage: Duration::from_millis(ms), lost: ms, survived: 20, ..Outcome::default() };
        let mut records: Vec<_> = [30, 10, 20].map(|time| Record::Trial { case, outcome: ms(time) }).into();
        records.push(Record::Void { case, reason: "no answer".to_owned() });
        let text = all(&records);
        assert!(
            text.contains("| link lost | 3 (+ 1 void) | 20 / 30 / 30 | 20 / 30 | 0 | 60 / 0 / 0 | 0.0 |"),
            "{text}"
        );
        let nothing = all(&records[3..]);
        assert!(nothing.contains("| link lost | 0 (+ 1 void) | | | | | |"), "no figure is better than 0.0: {nothing}");
        assert!(!text.contains("dead node") && !text.contains("VIPs on"), "tables without rows are left out: {text}");
        assert!(text.contains("|\n|---|---|---|---|---|---|---|---|\n|"), "{text}");
    }

    #[test]
    fn requests_to_dead_pods_have_a_table_of_their_own() {
        let case = Case::all().into_iter().find(|case| case.everywhere).expect("there is one");
        let dead = Some(Dead { lost: 50, outage: Duration::from_millis(150) });
        let outcome = Outcome { outage: Duration::from_millis(3), dead, ..Outcome::default() };
        let text = all(&[Record::Trial { case, outcome }]);
        assert!(text.contains("| 1 | 150 / 150 / 150 | 50 / 50 |"), "{text}");
        assert!(text.contains("| 1 | 3.0 / 3.0 / 3.0 | 0 / 0 |"), "{text}");
    }

    #[test]
    fn small_times_have_a_decimal() {
        assert_eq!(ms(Duration::from_micros(1849)), "1.8");
        assert_eq!(ms(Duration::from_micros(150_400)), "150");
    }
}
