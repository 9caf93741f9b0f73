//! Shares, and what changes when entries do.

use super::*;
use proptest::prelude::*;

fn entries(names: &[(String, u32)]) -> Vec<Entry> {
    names.iter().map(|(name, weight)| Entry::new(name.as_bytes(), *weight)).collect()
}

fn even(count: usize) -> Vec<(String, u32)> {
    (0..count).map(|n| (format!("node-{n}"), 1)).collect()
}

fn shares(table: &[u32], count: usize) -> Vec<usize> {
    let mut shares = vec![0; count];
    for &position in table {
        shares[position as usize] += 1;
    }
    shares
}

#[test]
fn sizes_divide_each_other_and_grow_seldom() {
    assert_eq!([0, 1, 10, 11, 40, 41].map(size), [1021, 1021, 1021, 4084, 4084, 16_336]);
    assert_eq!(size(usize::MAX), LARGEST);
    assert_eq!(LARGEST % 4084, 0);
}

#[test]
fn nothing_with_weight_makes_no_table() {
    assert!(build(&[], 1021).is_empty());
    assert!(build(&[Entry::new(b"a", 0)], 1021).is_empty());
}

#[test]
fn losing_one_of_ten_moves_few_slots_of_the_others() {
    let all = even(10);
    let before = build(&entries(&all), 1021);
    let after = build(&entries(&all[..9]), 1021);
    let moved = before.iter().zip(&after).filter(|(old, new)| **old != 9 && old != new).count();
    assert!(moved < 1021 / 10, "{moved} slots of the survivors moved");
}

/// The table as the module's documentation has it: turn by turn, everybody is asked.
fn turn_by_turn(entries: &[Entry], size: u32) -> Vec<u32> {
    let heaviest = u64::from(entries.iter().map(|entry| entry.weight).max().unwrap_or(0));
    let mut table = vec![u32::MAX; size as usize];
    let mut walks: Vec<Walk> = entries.iter().map(Walk::new).collect();
    for turn in 1_u64.. {
        for (position, walk) in (0_u32..).zip(&mut walks) {
            if !table.contains(&u32::MAX) {
                return table;
            }
            if walk.weight > 0 && turn * walk.weight >= walk.due {
                walk.due += heaviest;
                walk.take(&mut table, position);
            }
        }
    }
    table
}

proptest! {
    #[test]
    fn shares_follow_the_weights(weights in prop::collection::vec(0_u32..20, 1..40)) {
        let total: u32 = weights.iter().sum();
        let names: Vec<_> = weights.iter().enumerate().map(|(n, w)| (format!("n{n}"), *w)).collect();
        let size = size(weights.len());
        let table = build(&entries(&names), size);
        if total == 0 {
            prop_assert!(table.is_empty());
        } else {
            for (share, weight) in shares(&table, weights.len()).into_iter().zip(weights) {
                let fair = f64::from(size) * f64::from(weight) / f64::from(total);
                prop_assert!((share as f64 - fair).abs() <= 1.0 + f64::from(size) * 0.002, "{share} for {fair}");
                prop_assert!((share == 0) == (weight == 0));
            }
        }
    }

    #[test]
    fn every_walk_visits_every_slot(name in "[a-z]{1,8}", power in 0_u32..4) {
        let size = BASE * 4_u32.pow(power);
        let table = build(&[Entry::new(name.as_bytes(), 3)], size);
        prop_assert!(table.iter().all(|&position| position == 0));
    }

    #[test]
    fn turns_that_are_sat_out_are_not_waited_for_and_change_nothing(
        weights in prop::collection::vec(prop_oneof![0_u32..4, 0_u32..3000], 1..30),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let names: Vec<_> = weights.iter().enumerate().map(|(n, w)| (format!("n{n}"), *w)).collect();
        prop_assert_eq!(build(&entries(&names), BASE), turn_by_turn(&entries(&names), BASE));
    }
}

mod disruption;
