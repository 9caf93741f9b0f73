//! What a node does that is a candidate already, and makes no first claims yet.

use super::*;

#[test]
fn a_node_that_settles_takes_over_at_once_what_had_an_owner_and_nothing_else() {
    let other = IpAddr::from([10, 0, 0, 2]);
    let mut bench = Bench::fresh();
    bench.vips.insert(other, [me()].into());
    bench.peer(&a(), MemberState::Alive, Some(3)).view.caught_up = true;
    bench.eligible(&[me(), a()]).input();
    assert_eq!(bench.wait(200), [Action::Listening(false)], "from here on the others elect it");
    bench.peer(&a(), MemberState::Down, Some(3)).eligible(&[me()]);
    assert_eq!(bench.input(), claimed(4, Reason::OwnerDown));
    let first = bench.wait(200);
    assert!(matches!(first[..], [Action::Publish(_), Action::Announce { vip, .. }] if vip == other), "{first:?}");
}

#[test]
fn a_node_of_two_that_was_deaf_waits_for_what_its_peer_has_to_say() {
    let mut bench = Bench::owning();
    bench.view.members.remove(&b());
    bench.eligible(&[me(), a()]).input();
    let interfaces = member(MemberState::Alive, None).document.facts.interfaces;
    let uplinks = |bench: &mut Bench, uplinks| {
        bench.view.members.get_mut(&me()).unwrap().document.facts.interfaces = uplinks;
    };
    uplinks(&mut bench, vec![]);
    bench.peer(&a(), MemberState::Down, None).eligible(&[]);
    assert!(bench.input().contains(&Action::Listening(true)));
    bench.wait(30_000);
    uplinks(&mut bench, interfaces);
    assert_eq!(bench.eligible(&[]).input(), []);
    assert_eq!(bench.wait(250), [], "nobody is heard yet");
    // Its claims are on their way.
    bench.peer(&a(), MemberState::Alive, None);
    assert_eq!(bench.eligible(&[a()]).input(), []);
    bench.eligible(&[me(), a()]);
    assert_eq!(bench.wait(190), []);
    bench.peer(&a(), MemberState::Alive, Some(2)).input();
    bench.wait(2_000);
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
    assert!(bench.ownership.claims().is_empty());
}
