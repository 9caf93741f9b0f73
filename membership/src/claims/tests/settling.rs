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
