//! What an agent takes up that comes back from an announced restart.

use super::*;

fn back(epoch: u64) -> Bench {
    let mut bench = Bench::fresh();
    let claims = [(VIP, Claim { epoch, since_ms: 5, standby: 0 })].into();
    bench.ownership.resume(claims, bench.now + Duration::from_secs(10));
    bench.peer(&a(), MemberState::Alive, None).view.caught_up = true;
    bench.eligible(&[a()]);
    bench
}

#[test]
fn it_takes_up_its_claim_as_it_was_when_its_listening_ends() {
    let mut bench = back(4);
    assert_eq!(bench.input(), [Action::Listening(true)], "it says nothing while it listens");
    let claim = Claim { epoch: 4, since_ms: 5, standby: 0 };
    let announce = Action::Announce { vip: VIP, epoch: 4, reason: Reason::Resumed };
    assert_eq!(bench.wait(200), [Action::Listening(false), Action::Publish([(VIP, claim)].into()), announce]);
    bench.eligible(&[me(), a()]);
    bench.input();
    assert_eq!(bench.ownership.claims()[&VIP].epoch, 4, "no new epoch: it never was another's");
}

#[test]
fn a_node_alone_takes_up_its_claim_before_it_counts_as_a_candidate_itself() {
    let mut bench = back(4);
    bench.view.members.remove(&a());
    bench.view.members.get_mut(&me()).unwrap().document.facts.listening = true;
    bench.eligible(&[]).input();
    bench.wait(1500);
    assert_eq!(bench.ownership.claims()[&VIP].epoch, 4);
    bench.view.members.get_mut(&me()).unwrap().document.facts.listening = false;
    bench.eligible(&[me()]).input();
    assert_eq!(bench.ownership.claims()[&VIP].epoch, 4);
}

#[test]
fn what_another_has_claimed_meanwhile_stays_there() {
    let mut bench = back(4);
    bench.peer(&a(), MemberState::Alive, Some(5)).eligible(&[a()]);
    bench.input();
    assert_eq!(bench.wait(200), [Action::Listening(false)]);
    bench.eligible(&[me(), a()]).input();
    assert_eq!(bench.wait(1000), []);
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
}

#[test]
fn after_the_grace_there_is_nothing_to_take_up() {
    let mut bench = back(4);
    bench.view.caught_up = false;
    bench.input();
    bench.wait(10_000);
    bench.view.caught_up = true;
    bench.eligible(&[me(), a()]).peer(&a(), MemberState::Alive, Some(2)).input();
    bench.wait(1000);
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
    assert!(bench.ownership.claims().is_empty());
}
