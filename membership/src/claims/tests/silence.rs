//! Owners that do not answer on the wire.

use super::*;
use crate::Findings;

/// `a` owns [`VIP`] with epoch 4; all could.
fn owned_by_a() -> Bench {
    let mut bench = Bench::awake();
    bench.peer(&a(), MemberState::Alive, Some(4)).eligible(&[me(), a(), b()]);
    assert_eq!(bench.input(), []);
    bench
}

fn replace(bench: &mut Bench, owner: &NodeName, epoch: u64) -> Vec<Action> {
    bench.ownership.replace_silent(VIP, owner, epoch, bench.now, 7);
    bench.actions()
}

fn blames(node: &NodeName) -> Member {
    let mut member = member(MemberState::Alive, None);
    member.document.facts.findings = Findings { silent: [node.clone()].into(), ..Findings::default() };
    member
}

#[test]
fn a_silent_owner_is_replaced_with_a_higher_epoch_and_stays_so() {
    let mut bench = owned_by_a();
    assert_eq!(replace(&mut bench, &a(), 4), claimed(5, Reason::Silent));
    assert_eq!(bench.ownership.owners()[&VIP].node, me());
    assert_eq!(bench.input(), [], "its claim is still here, and outranked");
    bench.peer(&a(), MemberState::Alive, None);
    assert_eq!(bench.input(), again(Reason::ConflictWon), "it has fallen silent: the last word is ours");
    assert_eq!(replace(&mut bench, &a(), 4), [], "said twice");
}

#[test]
fn what_was_found_out_about_another_claim_moves_nothing() {
    for (owner, epoch) in [(a(), 3), (a(), 5), (b(), 4), (me(), 4)] {
        assert_eq!(replace(&mut owned_by_a(), &owner, epoch), [], "{owner} {epoch}");
    }
}

#[test]
fn who_may_not_own_the_vip_does_not_take_it() {
    let mut bench = owned_by_a();
    bench.eligible(&[a(), b()]).input();
    assert_eq!(replace(&mut bench, &a(), 4), []);

    let mut bench = owned_by_a();
    bench.ownership.drain(bench.now);
    bench.actions();
    assert_eq!(replace(&mut bench, &a(), 4), []);
}

#[test]
fn a_minority_replaces_nobody() {
    let mut bench = owned_by_a();
    for state in [MemberState::Alive, MemberState::Down] {
        for name in ["p", "q", "r", "s"].map(name) {
            bench.peer(&name, state, None);
        }
        bench.input();
    }
    assert_eq!(replace(&mut bench, &a(), 4), []);
}

#[test]
fn the_old_owner_yields() {
    let mut bench = Bench::owning();
    bench.peer(&b(), MemberState::Alive, Some(2));
    assert_eq!(bench.input(), gone(Reason::Superseded));
    assert_eq!(bench.ownership.owners()[&VIP].node, b());
}

#[test]
fn others_tell_why_it_moved() {
    let mut bench = owned_by_a();
    let mut taker = blames(&a());
    taker.document.claims.insert(VIP, Claim { epoch: 5, since_ms: 7, standby: 0 });
    bench.view.members.insert(b(), taker);
    bench.input();
    let owner = &bench.ownership.owners()[&VIP];
    assert_eq!((&owner.node, owner.reason), (&b(), Reason::Silent));
}

#[test]
fn a_node_that_was_silent_is_elected_only_if_there_is_no_other() {
    // `a` outranks us, but `b` has blamed it; nobody claims.
    let mut bench = Bench::awake();
    bench.view.members.insert(b(), blames(&a()));
    bench.eligible(&[me(), a()]);
    assert_eq!(bench.input(), claimed(1, Reason::FirstClaim));

    let mut bench = Bench::awake();
    bench.view.members.insert(b(), blames(&me()));
    bench.eligible(&[me()]);
    assert_eq!(bench.input(), claimed(1, Reason::FirstClaim), "the only candidate");
}

#[test]
fn a_node_that_was_silent_once_keeps_what_it_owns() {
    let mut bench = Bench::owning();
    bench.view.members.insert(b(), blames(&me()));
    assert_eq!(bench.input(), []);

    let mut bench = owned_by_a();
    bench.view.members.insert(b(), blames(&a()));
    assert_eq!(bench.input(), [], "nor is it taken from another");
}

#[test]
fn a_node_that_has_just_found_its_cluster_again_is_not_elected_where_another_would_not_hesitate() {
    let mut bench = Bench::awake();
    let mut returned = member(MemberState::Alive, None);
    returned.document.facts.isolated = true;
    bench.view.members.insert(a(), returned);
    bench.eligible(&[me(), a()]);
    assert_eq!(bench.input(), claimed(1, Reason::FirstClaim), "though `a` outranks us");
}
