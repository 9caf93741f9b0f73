//! What comes of the measurements: Markdown, with the machine on which they were made.

use std::collections::BTreeMap;

use e2e::{bench::markdown, chaos::stats::Summary};

use crate::{
    frame::Family,
    harness::Hook,
    packets::COLUMNS,
    record::{Record, Timed},
};

/// All tables of these records.
pub(crate) fn all(records: &[Record]) -> String {
    let sittings = records.iter().filter_map(|record| match record {
        Record::Sitting { machine, options, .. } => Some(format!("`{options}`: {machine}\n")),
        Record::Packets(_) => None,
    });
    format!("{}\n{}", sittings.collect::<String>(), packets(records))
}

/// Median, least and most.
fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let Summary { median, least, most, .. } = Summary::of(values);
    format!("{median:.0} ({least:.0}..{most:.0})")
}

/// Nanoseconds a packet. Rows are in the order in which they were measured first.
fn packets(records: &[Record]) -> String {
    let mut order = Vec::new();
    let mut cells: BTreeMap<(&str, Hook, Family, u32), Vec<&Timed>> = BTreeMap::new();
    for record in records {
        let Record::Packets(timed) = record else { continue };
        let row = (timed.case.as_str(), timed.hook, timed.family);
        if !order.contains(&row) {
            order.push(row);
        }
        cells.entry((row.0, row.1, row.2, timed.column)).or_default().push(timed);
    }
    order.sort_by_key(|(_, hook, _)| *hook == Hook::Xdp);
    let row = |(case, hook, family): (&str, Hook, Family)| {
        let cell = |column: u32| match cells.get(&(case, hook, family, column)) {
            None => " - |".to_owned(),
            Some(runs) => {
                let flows = runs.iter().map(|run| run.flows).min().unwrap_or(column);
                let fewer = if flows < column { format!(" at {flows}") } else { String::new() };
                format!(" {}{fewer} |", spread(runs.iter().map(|run| run.nanos)))
            }
        };
        format!("| {} | {case} | {family} |{}", hook.name(), COLUMNS.map(cell).concat())
    };
    let rows: Vec<_> = order.into_iter().map(row).collect();
    markdown("| hook | packet | family | 1 flow | 65,536 flows | 1,048,576 flows |", &rows)
}
