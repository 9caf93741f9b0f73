//! Pods' counters come before the pods, and go long after them.

use super::*;

/// What is done about pods' counters, and which counters pods are given.
fn accounts(plan: &Plan) -> Vec<Write> {
    let mut writes = plan.writes.clone();
    writes.retain(|write| {
        matches!(write, Write::OpenAccount { .. } | Write::CloseAccount { .. })
            || matches!(write, Write::Backend(_, entry) if entry.counted != 0)
    });
    writes
}

#[test]
fn a_counter_is_opened_before_its_pod_is_there_and_closed_long_after_it_is_gone() {
    let (mut tables, now) = (Tables::default(), start());
    let with = wanted(&[1], &[(80, vec![1], vec![2])]);
    let without = wanted(&[1], &[(80, vec![1], vec![])]);
    let opened = accounts(&tables.plan(&with, now));
    let [Write::OpenAccount { number, tag }, Write::Backend(_, pod)] = opened[..] else { panic!("{opened:?}") };
    assert_eq!((pod.tag, pod.counted), (tag, limits::COUNTED + number));
    assert_eq!(accounts(&tables.plan(&without, now)), []);
    let service = tables.counted().next().map(|(_, number)| number);
    assert_eq!(accounts(&tables.plan(&without, now + COUNTED_REST / 2)), []);
    let closed = accounts(&tables.plan(&without, now + COUNTED_REST));
    assert_eq!(closed, [Write::CloseAccount { number, tag, service }]);
    assert!(service.is_some(), "what it held becomes the service's");
}

#[test]
fn a_pod_that_is_back_has_its_counter_again() {
    let (mut tables, now) = (Tables::default(), start());
    let [with, without] = [vec![2], vec![]].map(|pods| wanted(&[1], &[(80, vec![1], pods)]));
    let pod = |writes: &[Write]| match writes.last() {
        Some(Write::Backend(_, pod)) => pod.counted,
        other => panic!("{other:?}"),
    };
    let first = accounts(&tables.plan(&with, now));
    tables.plan(&without, now);
    let again = accounts(&tables.plan(&with, now + COUNTED_REST / 2));
    assert_eq!((again.len(), pod(&again)), (1, pod(&first)), "it is not begun anew");
    assert_eq!(accounts(&tables.plan(&with, now + COUNTED_REST * 2)), []);
}
