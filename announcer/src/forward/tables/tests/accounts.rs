//! Pods' counters come before the pods, and go long after them.

use super::*;

/// What is done about pods' counters, and which counters pods are given.
fn accounts(plan: &Plan) -> Vec<Write> {
    let mut writes = plan.writes.clone();
    writes.retain(|write| {
        matches!(write, Write::OpenAccount { .. } | Write::ResumeAccount { .. } | Write::CloseAccount { .. })
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
    assert_eq!((pod.tag, pod.counted_by, pod.counted), (tag, tag, limits::COUNTED + number));
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
    let resumed = matches!(again[..], [Write::ResumeAccount { .. }, Write::Backend(..)]);
    assert_eq!((resumed, pod(&again)), (true, pod(&first)), "it is not begun anew: {again:?}");
    assert_eq!(accounts(&tables.plan(&with, now + COUNTED_REST * 2)), []);
}

/// A service on port 80 with these pods, translated with this address of the node's.
fn translated(own: u8) -> Wanted {
    let mut wanted = wanted(&[1], &[(80, vec![1], vec![2])]);
    let targets = wanted.services.get_mut(&socket(80)).unwrap();
    targets.translated = targets.local.keys().map(|pod| (*pod, IpAddr::from([10, 77, 0, own]))).collect();
    wanted
}

#[test]
fn a_pods_tag_leads_to_its_counter_again_when_the_address_it_is_reached_from_is_back() {
    let (mut tables, now) = (Tables::default(), start());
    let mut by_tag = BTreeMap::new();
    let mut apply = |wanted: &Wanted, after: Duration| {
        let mut given = None;
        for write in tables.plan(wanted, now + after).writes {
            match write {
                Write::OpenAccount { number, tag } | Write::ResumeAccount { number, tag } => {
                    by_tag.insert(tag, number);
                    given = Some((tag, number));
                }
                // As the edge does it.
                Write::CloseAccount { number, tag, .. } if by_tag.get(&tag) == Some(&number) => {
                    by_tag.remove(&tag);
                }
                _ => {}
            }
        }
        (given, by_tag.clone())
    };
    let (first, _) = apply(&translated(1), Duration::ZERO);
    let (other, _) = apply(&translated(2), REST);
    let (again, by_tag) = apply(&translated(1), 2 * REST);
    assert_eq!((first, first == other), (again, false));
    assert_eq!(by_tag, first.into_iter().collect());
    let (_, later) = apply(&translated(1), COUNTED_REST + 2 * REST);
    assert_eq!(later, by_tag, "also when the other's is closed");
}

/// The same services by another name.
fn renamed(mut wanted: Wanted) -> Wanted {
    wanted.services.values_mut().for_each(|targets| targets.labels.service.name = "shop".into());
    wanted
}

#[test]
fn the_pods_of_a_service_that_is_renamed_are_counted_for_its_new_name() {
    let (mut tables, now) = (Tables::default(), start());
    tables.accounts = Accounts::new(2, COUNTED_REST);
    let before = wanted(&[1], &[(80, vec![1], vec![2, 3])]);
    let after = renamed(before.clone());
    tables.plan(&before, now);
    let plan = tables.plan(&after, now);
    let labels = &after.services[&socket(80)].labels;
    let whose: Vec<_> = tables.accounts().map(|(_, account)| &account.labels).collect();
    assert_eq!(whose, [labels]);
    let service = tables.counted.get(labels).unwrap();
    let entries = plan.writes.iter().filter_map(|write| match write {
        Write::Backend(_, entry) => Some((entry.counted, entry.counted_by, entry.flags)),
        _ => None,
    });
    let uncounted = (service, 0, BackendEntry::USABLE);
    assert_eq!(
        entries.collect::<Vec<_>>(),
        [uncounted],
        "who has no counter counts for the service, and is there as before"
    );
    assert_eq!(accounts(&tables.plan(&after, now)), []);
}

#[test]
fn a_pod_that_is_back_after_its_service_was_renamed_is_counted_for_the_new_name() {
    let (mut tables, now) = (Tables::default(), start());
    let [with, without] = [vec![2], vec![]].map(|pods| wanted(&[1], &[(80, vec![1], pods)]));
    let whose =
        |tables: &Tables| tables.accounts().map(|(_, account)| account.labels.service.name.clone()).next().unwrap();
    tables.plan(&with, now);
    tables.plan(&without, now);
    tables.plan(&renamed(without), now);
    assert_eq!(whose(&tables), "web", "its connections are of the service that was");
    tables.plan(&renamed(with), now);
    assert_eq!(whose(&tables), "shop");
}

#[test]
fn a_pod_that_found_no_counter_free_gets_one_when_another_is_closed() {
    let (mut tables, now) = (Tables::default(), start());
    tables.accounts = Accounts::new(2, COUNTED_REST);
    let [first, both, second] = [vec![2], vec![2, 3], vec![3]].map(|pods| wanted(&[1], &[(80, vec![1], pods)]));
    tables.plan(&first, now);
    assert_eq!(tables.plan(&both, now).limits, [(Limit::CountedPods, 1)].into());
    tables.plan(&second, now);
    assert_eq!(accounts(&tables.plan(&second, now + COUNTED_REST / 2)), []);
    let plan = tables.plan(&second, now + COUNTED_REST);
    let writes = accounts(&plan);
    let [Write::CloseAccount { .. }, Write::OpenAccount { number, tag }, Write::Backend(index, pod)] = writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!((pod.tag, pod.counted_by, pod.counted), (tag, tag, limits::COUNTED + number));
    let key = (socket(80), IpAddr::from([10, 1, 1, 3]), 80, None);
    assert_eq!((Some(index), pod.flags), (tables.backends.get(&key), BackendEntry::USABLE));
    assert!(plan.limits.is_empty());
}
