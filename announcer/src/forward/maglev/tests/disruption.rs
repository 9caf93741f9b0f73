//! What a change moves beyond what it must, and how even the shares are, beside the paper's own tables.
//!
//! `cargo test -p crier --lib maglev::tests::disruption -- --nocapture` prints the figures. The paper's section 5.3 measures the same
//! of tables of one size each: how far the shares are from even, and how much of a table changes when backends fail.
//! Asserted here: the bounds below, for tables of every size in use, with and without weights.

use std::fmt::Write as _;

use super::*;

/// Slots of the entries that stay and are another's afterwards, in percent of all slots: what moves beyond what must.
const MOVED: f64 = 6.0;
/// The most that an entry has of its fair share.
const IMBALANCE: f64 = 1.02;
/// By how many percent what moves may be above that of the paper's tables, which are not made to grow.
const ABOVE_PAPER: f64 = 4.0;
/// As many of the entries leave, one at a time, and come back.
const LEAVERS: usize = 8;

/// What was measured of tables with and without one entry.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    /// Of all slots, percent: those of the entry that left.
    least: f64,
    /// Of all slots, percent: those that moved beyond these, on average and at most.
    moved: f64,
    worst: f64,
    /// The fullest entry's slots by its fair share of them.
    imbalance: f64,
}

/// The table of section 3.4 of the paper, without weights: a prime size, `offset` and `skip` by two hashes.
fn paper(entries: &[Entry], size: u32) -> Vec<u32> {
    let prime = (size..).find(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).unwrap();
    let size = u64::from(prime);
    let mut next: Vec<u64> = vec![0; entries.len()];
    let mut table = vec![u32::MAX; prime as usize];
    let mut filled = 0;
    loop {
        for (position, entry) in (0_u32..).zip(entries).filter(|(_, entry)| entry.weight > 0) {
            let walk = &mut next[position as usize];
            let (offset, skip) = (entry.offset % size, entry.step % (size - 1) + 1);
            let mut at = (offset + *walk * skip) % size;
            while table[at as usize] != u32::MAX {
                *walk += 1;
                at = (offset + *walk * skip) % size;
            }
            table[at as usize] = position;
            *walk += 1;
            filled += 1;
            if filled == table.len() {
                return table;
            }
        }
    }
}

/// Figures of one way to build tables, with the entries of these weights.
fn measure(weights: &[u32], size: u32, build: impl Fn(&[Entry], u32) -> Vec<u32>) -> Figures {
    let names: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (format!("node-{n}"), *weight)).collect();
    let all = entries(&names);
    let whole = build(&all, size);
    let (slots, total) = (whole.len() as f64, weights.iter().sum::<u32>());
    let mut figures = Figures::default();
    for (share, weight) in shares(&whole, all.len()).into_iter().zip(weights) {
        let fair = slots * f64::from(*weight) / f64::from(total);
        figures.imbalance = figures.imbalance.max(share as f64 / fair);
    }
    let leavers: Vec<usize> = (0..all.len()).step_by(all.len().div_ceil(LEAVERS)).collect();
    for &leaver in &leavers {
        let mut without = names.clone();
        without[leaver].1 = 0;
        let after = build(&entries(&without), size);
        let slots_of = |n: u32| whole.iter().filter(|position| **position == n).count() as f64;
        let least = 100.0 * slots_of(leaver as u32) / slots;
        let moved = differing(&whole, &after) - least;
        figures.least += least / leavers.len() as f64;
        figures.moved += moved / leavers.len() as f64;
        figures.worst = figures.worst.max(moved);
    }
    figures
}

/// In how many percent of a table's slots another, of the same size or smaller, has another entry for the same connections.
fn differing(one: &[u32], other: &[u32]) -> f64 {
    let at = |slot: usize| other[slot * other.len() / one.len()];
    100.0 * one.iter().enumerate().filter(|(slot, position)| **position != at(*slot)).count() as f64 / one.len() as f64
}

/// Weights as pods on nodes make them: a few, some twice, one node with a pod in its slow start.
fn uneven(count: usize) -> Vec<u32> {
    (0..count).map(|n| [8, 16, 24, 8, 9][n % 5]).collect()
}

#[test]
fn one_that_leaves_moves_little_beyond_its_own_slots_in_every_size_of_table() {
    let mut text = String::from("| nodes | slots | weights | leaver's % | moved beyond % | at most % | fullest |\n");
    for count in [3, 10, 11, 40, 100, 160, 600] {
        let slots = size(count);
        let (even, uneven) = (vec![8; count], uneven(count));
        let cases = [
            ("even", measure(&even, slots, build)),
            ("even, the paper's", measure(&even, slots, paper)),
            ("uneven", measure(&uneven, slots, build)),
        ];
        for (what, found) in &cases {
            let Figures { least, moved, worst, imbalance } = found;
            let _ = writeln!(
                text,
                "| {count} | {slots} | {what} | {least:.2} | {moved:.2} | {worst:.2} | {imbalance:.3} |"
            );
        }
        let [ours, theirs, weighted] = cases.map(|(_, found)| found);
        assert!(ours.worst <= MOVED && weighted.worst <= MOVED, "{text}");
        assert!(ours.imbalance <= IMBALANCE && weighted.imbalance <= IMBALANCE, "{text}");
        assert!(ours.moved <= theirs.moved + ABOVE_PAPER, "{text}");
    }
    println!("{text}");
}

#[test]
fn each_step_of_a_slow_start_moves_little_beyond_what_the_pod_gains() {
    let mut text = String::from("| nodes | slots | eighths | gained % | moved beyond % |\n");
    for count in [3, 10, 40, 100] {
        let table = |weight: u32| {
            let mut weights = vec![8; count];
            weights[1] = weight;
            let names: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (format!("node-{n}"), *weight)).collect();
            build(&entries(&names), size(count))
        };
        let steps = [0, 1, 2, 4, 8].map(|weight| (weight, table(weight)));
        for pair in steps.windows(2) {
            let [(_, before), (weight, after)] = pair else { continue };
            let share = |table: &[u32]| 100.0 * shares(table, count)[1] as f64 / table.len() as f64;
            let gained = share(after) - share(before);
            let moved = differing(before, after) - gained;
            let _ = writeln!(text, "| {count} | {} | {weight} | {gained:.2} | {moved:.2} |", after.len());
            assert!(moved <= MOVED, "{text}");
        }
    }
    println!("{text}");
}

#[test]
fn a_table_that_grows_moves_little_beyond_what_the_newcomer_gets() {
    let mut text = String::from("| nodes | slots | gained % | moved beyond % | the paper's moves % |\n");
    for (count, bound) in [(10, 4.0), (40, 9.0), (163, 22.0), (653, 48.0)] {
        let names = even(count + 1);
        let (before, after) = (entries(&names[..count]), entries(&names));
        let (small, large) = (build(&before, size(count)), build(&after, size(count + 1)));
        assert_eq!(large.len(), 4 * small.len());
        let gained = 100.0 / (count + 1) as f64;
        let moved = differing(&large, &small) - gained;
        let theirs = differing(&paper(&after, size(count + 1)), &paper(&before, size(count)));
        let (from, to) = (small.len(), large.len());
        let _ =
            writeln!(text, "| {count} to {} | {from} to {to} | {gained:.2} | {moved:.2} | {theirs:.0} |", count + 1);
        assert!(moved <= bound && bound < theirs / 2.0, "{text}");
    }
    println!("{text}");
}
