//! Each limit: what does not fit is left out and said, and what was there goes on as it was.

use forwarder_ebpf::limits;
use ipnet::{IpNet, Ipv4Net};

use super::*;

/// More than fits, beside a service that is there: `small` makes tables with little room, `more` wants too much.
fn beyond(small: impl Fn(&mut Tables), more: impl Fn(&mut Wanted), expected: (Limit, u32)) {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    small(&mut tables);
    let fits = wanted(&[1], &[(80, vec![1], vec![2])]);
    let plan = tables.plan(&fits, now);
    assert!(plan.limits.is_empty(), "{:?}", plan.limits);
    kernel.carry_out(&plan);
    let (before, vips, uplinks) = (kernel.services(), kernel.vips.clone(), kernel.uplinks);

    let mut too_much = fits.clone();
    more(&mut too_much);
    let plan = tables.plan(&too_much, now);
    assert_eq!(plan.limits, [expected].into());
    kernel.carry_out(&plan);
    let after = kernel.services();
    assert!(before.iter().all(|(key, entry)| after.get(key) == Some(entry)), "{before:?} {after:?}");
    assert!(kernel.vips.is_superset(&vips));
    assert_eq!(kernel.uplinks.places[0], uplinks.places[0]);
    assert_eq!(tables.plan(&too_much, now).limits, [expected].into(), "it is said for as long as it is so");

    let later = tables.next_wake().unwrap_or(now);
    kernel.carry_out(&tables.plan(&fits, later));
    assert_eq!(kernel.services(), before);
    assert!(tables.plan(&fits, later).limits.is_empty());
}

/// Adds services on these ports, each with a pod here and one on node 1.
fn add(to: &mut Wanted, nodes: &[u8], services: &[(u16, Vec<u8>, Vec<u8>)]) {
    let more = wanted(nodes, services);
    to.nodes.extend(more.nodes);
    to.services.extend(more.services);
}

#[test]
fn nodes_beyond_the_limit_get_no_slots() {
    let more = |wanted: &mut Wanted| add(wanted, &[1, 2, 3], &[]);
    beyond(|tables| tables.nodes = Indices::new(3, REST), more, (Limit::Nodes, 1));
}

#[test]
fn pods_beyond_the_limit_get_no_connections() {
    let more = |wanted: &mut Wanted| add(wanted, &[1], &[(81, vec![1], vec![3, 4])]);
    beyond(|tables| tables.backends = Indices::new(3, REST), more, (Limit::Backends, 1));
}

#[test]
fn pods_without_a_counter_of_their_own_are_said() {
    let more = |wanted: &mut Wanted| add(wanted, &[1], &[(81, vec![1], vec![3, 4])]);
    beyond(|tables| tables.accounts = Accounts::new(3, REST), more, (Limit::CountedPods, 1));
}

#[test]
fn services_beyond_the_limit_are_left_out() {
    let more = |wanted: &mut Wanted| add(wanted, &[1], &[(81, vec![1], vec![]), (82, vec![1], vec![])]);
    beyond(|tables| tables.numbers = Indices::new(3, REST), more, (Limit::Services, 1));
}

#[test]
fn services_without_a_counter_are_left_out() {
    let more = |wanted: &mut Wanted| add(wanted, &[1], &[(81, vec![1], vec![]), (82, vec![1], vec![])]);
    beyond(|tables| tables.counted = Indices::new(3, REST), more, (Limit::Counters, 1));
}

#[test]
fn services_without_rows_for_their_tables_are_left_out() {
    let more = |wanted: &mut Wanted| add(wanted, &[1, 2], &[(81, vec![2], vec![]), (82, vec![1, 2], vec![])]);
    // Three tables, and the row that is nobody's.
    beyond(|tables| tables.rows = Rows::new(3 * 16 + 1, REST), more, (Limit::Rows, 1));
}

#[test]
fn ranges_beyond_the_limit_leave_their_service_out() {
    let more = |wanted: &mut Wanted| {
        add(wanted, &[1], &[(81, vec![1], vec![])]);
        let ranges = (0..=limits::SOURCES).map(|n| IpNet::from(Ipv4Net::new_assert(n.into(), 32)));
        wanted.services.get_mut(&socket(81)).unwrap().sources = ranges.collect();
    };
    beyond(|_| (), more, (Limit::Sources, 1));
}

#[test]
fn addresses_beyond_the_limit_are_no_vips() {
    let more = |wanted: &mut Wanted| {
        wanted.vips.extend((0..limits::VIPS).map(|n| IpAddr::V4((0x0b00_0000 + n).into())));
    };
    beyond(|_| (), more, (Limit::Vips, 1));
}

#[test]
fn uplinks_beyond_the_limit_carry_nothing() {
    let more = |wanted: &mut Wanted| {
        let uplink = |n: u8| WantedUplink { name: format!("eth{n}"), mac: [2, 0, 0, 0, 1, n] };
        wanted.uplinks.extend((8..=u32::from(limits::UPLINKS as u8) + 7).map(|index| (index, uplink(index as u8))));
    };
    beyond(|_| (), more, (Limit::Uplinks, 1));
}
