//! What comes of the measurements: Markdown, with the machine on which they were made.

use std::collections::BTreeMap;

use e2e::{bench::markdown, chaos::stats::Summary};

use crate::{
    frame::Family,
    harness::Hook,
    packets::COLUMNS,
    record::{Record, Timed, Update, Wire},
};

/// All tables of these records.
pub(crate) fn all(records: &[Record]) -> String {
    let sittings = records.iter().filter_map(|record| match record {
        Record::Sitting { machine, options, .. } => Some(format!("`{options}`: {machine}\n")),
        _ => None,
    });
    let sittings = sittings.collect::<String>();
    let parts = [packets(records), live(records), wire(records), flooded(records), updates(records)];
    format!("{sittings}\n{}", parts.concat())
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

/// Millions of frames a second that came back.
fn live(records: &[Record]) -> String {
    let runs = || records.iter().filter_map(|record| if let Record::Live(live) = record { Some(live) } else { None });
    let mut order = Vec::new();
    for run in runs() {
        if !order.contains(&(&run.contender, run.family)) {
            order.push((&run.contender, run.family));
        }
    }
    let row = |(contender, family): (&String, Family)| {
        let of = |flows: u32| {
            runs().filter(move |run| (&run.contender, run.family, run.flows) == (contender, family, flows))
        };
        let cell = |flows: u32| {
            let rates = Summary::of(of(flows).map(|run| run.returned as f64 / run.seconds / 1e6));
            format!(" {:.1} ({:.1}..{:.1}) |", rates.median, rates.least, rates.most)
        };
        let (sent, returned) = COLUMNS
            .iter()
            .flat_map(|flows| of(*flows))
            .fold((0, 0), |(sent, returned), run| (sent + u64::from(run.sent), returned + run.returned));
        let lost = sent.saturating_sub(returned) as f64 / sent as f64 * 100.0;
        format!("| {contender} | {family} |{} {lost:.2} |", COLUMNS.map(cell).concat())
    };
    let rows: Vec<_> = order.into_iter().map(row).collect();
    markdown("| Mpps returned | family | 1 flow | 65,536 flows | 1,048,576 flows | lost % |", &rows)
}

/// What a pod more behind one of many services cost.
fn updates(records: &[Record]) -> String {
    let mut sizes: BTreeMap<u32, Vec<&Update>> = BTreeMap::new();
    for record in records {
        let Record::Update(update) = record else { continue };
        sizes.entry(update.services).or_default().push(update);
    }
    let row = |(services, runs): (&u32, &Vec<&Update>)| {
        let mega = |bytes: fn(&Update) -> u64| Summary::of(runs.iter().map(|run| bytes(run) as f64 / 1e6)).median;
        format!(
            "| {services} | {} | {} | {} | {:.0} ms, {} writes | {:.1} | {:.0} |",
            spread(runs.iter().flat_map(|run| run.plan_micros.clone())),
            spread(runs.iter().flat_map(|run| run.apply_micros.clone())),
            spread(runs.iter().flat_map(|run| &run.writes).map(|writes| *writes as f64)),
            Summary::of(runs.iter().map(|run| run.first_seconds * 1e3)).median,
            runs.first().map_or(0, |run| run.first_writes),
            mega(|run| run.resident_bytes),
            mega(|run| run.map_bytes),
        )
    };
    let rows: Vec<_> = sizes.iter().map(row).collect();
    markdown(
        "| services | planned in µs | planned and written in µs | map writes | all of them into empty maps | the agent's memory MB \
         | the kernel's maps MB |",
        &rows,
    )
}

/// Contenders among whole hosts.
fn wire(records: &[Record]) -> String {
    let runs = || records.iter().filter_map(|record| if let Record::Wire(wire) = record { Some(wire) } else { None });
    let mut order = Vec::new();
    for run in runs() {
        if !order.contains(&run.contender.as_str()) {
            order.push(&run.contender);
        }
    }
    let row = |contender: &str| {
        let of = |value: &dyn Fn(&Wire) -> Option<f64>| {
            spread(runs().filter(|run| run.contender == contender).filter_map(value))
        };
        format!(
            "| {contender} | {} | {} | {} | {} |",
            of(&|run| run.kilo_packets.first().copied()),
            of(&|run| run.kilo_packets.get(1).copied()),
            of(&|run| Some(run.connections)),
            of(&|run| Some(run.round_trip_micros)),
        )
    };
    let rows: Vec<_> = order.into_iter().map(row).collect();
    markdown(
        "| between whole hosts | kpps, 1 flow | kpps, 65,536 flows | new connections/s | round trip p50 µs |",
        &rows,
    )
}

/// Contenders' clients while another VIP is flooded.
fn flooded(records: &[Record]) -> String {
    let runs = || records.iter().filter_map(|record| if let Record::Flooded(run) = record { Some(run) } else { None });
    let mut order = Vec::new();
    for run in runs() {
        if !order.contains(&(&run.contender, &run.flood)) {
            order.push((&run.contender, &run.flood));
        }
    }
    let row = |(contender, flood): (&String, &String)| {
        let of = || runs().filter(move |run| (&run.contender, &run.flood) == (contender, flood));
        format!(
            "| {contender} | {flood} | {} | {} | {} | {} | {} |",
            spread(of().map(|run| run.kilo_packets)),
            spread(of().map(|run| run.connections)),
            of().map(|run| run.failed).sum::<u32>(),
            spread(of().map(|run| run.trips[0])),
            spread(of().map(|run| run.trips[1])),
        )
    };
    let rows: Vec<_> = order.into_iter().map(row).collect();
    markdown(
        "| between whole hosts | to the other VIP | its kpps | new connections/s | failed | round trip p50 µs | p99 µs |",
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Live;

    fn timed(nanos: f64, column: u32, flows: u32) -> Record {
        let case = "known".to_owned();
        Record::Packets(Timed {
            case,
            hook: Hook::TcIn,
            family: Family::V4,
            column,
            flows,
            packets: 9,
            nanos,
            harness: 8.0,
        })
    }

    #[test]
    fn a_cell_is_the_median_and_says_if_the_table_held_fewer_flows() {
        let mut records: Vec<_> = [30.0, 10.0, 20.0].map(|nanos| timed(nanos, 1, 1)).into();
        records.push(timed(40.0, 1 << 20, 1 << 18));
        let text = all(&records);
        assert!(text.contains("| TC ingress | known | IPv4 | 20 (10..30) | - | 40 (40..40) at 262144 |\n"), "{text}");
        assert!(!text.contains("Mpps") && !text.contains("kpps"), "tables without rows are left out: {text}");
    }

    #[test]
    fn frames_that_did_not_come_back_are_told() {
        let live = |returned| Live {
            contender: "x".to_owned(),
            family: Family::V6,
            flows: 1,
            sent: 2_000_000,
            returned,
            seconds: 0.5,
        };
        let text = all(&[Record::Live(live(2_000_000)), Record::Live(live(1_000_000))]);
        assert!(text.contains("| x | IPv6 | 3.0 (2.0..4.0) | 0.0 (0.0..0.0) | 0.0 (0.0..0.0) | 25.00 |\n"), "{text}");
    }

    #[test]
    fn contenders_keep_their_order() {
        let wire = |contender: &str, connections| {
            let contender = contender.to_owned();
            Record::Wire(Wire { contender, kilo_packets: vec![1.0, 2.0], connections, round_trip_micros: 30.0 })
        };
        let text = all(&[wire("z", 5.0), wire("a", 6.0), wire("z", 7.0)]);
        let (z, a) = (text.find("| z | 1 (1..1) | 2 (2..2) | 6 (5..7) | 30 (30..30) |"), text.find("| a |"));
        assert!(z.is_some() && z < a, "{text}");
    }
}
