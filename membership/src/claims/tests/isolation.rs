//! What a node does that is cut off, half cut off, or was held up.

use super::*;

fn heard(bench: &mut Bench, node: &NodeName) -> Vec<Action> {
    bench.ownership.handle_wire(VIP, Some(node), bench.now, 7);
    bench.actions()
}

/// `me` owns [`VIP`] and has lost one peer, or both, for an hour.
fn cut_off(from: &[NodeName]) -> Bench {
    let mut bench = Bench::owning();
    bench.wait(20_000);
    for peer in from {
        bench.peer(peer, MemberState::Down, None);
    }
    let left = [me(), a(), b()].into_iter().filter(|node| !from.contains(node)).collect::<Vec<_>>();
    bench.eligible(&left).input();
    bench
}

/// `me` and `peer` were two, of which `me` owned [`VIP`], and do not hear each other's gossip any more.
fn two_cut_apart(peer: &NodeName) -> Bench {
    let mut bench = Bench::owning();
    let other = if *peer == a() { b() } else { a() };
    bench.view.members.remove(&other);
    bench.eligible(&[me()]).input();
    bench.wait(20_000);
    bench.peer(peer, MemberState::Down, None).input();
    assert_eq!(bench.ownership.standing(), Standing::Half);
    bench
}

#[test]
fn an_owner_falls_silent_at_once_when_a_member_that_gossip_does_not_reach_announces_its_vip() {
    for mut bench in [two_cut_apart(&a()), cut_off(&[a(), b()])] {
        assert_eq!(heard(&mut bench, &a()), gone(Reason::WireClaim));
        let owner = &bench.ownership.owners()[&VIP];
        assert_eq!((&owner.node, owner.reason), (&a(), Reason::WireClaim));
    }
}

#[test]
fn a_vip_heard_from_a_lost_member_is_claimed_only_when_questions_stay_unanswered() {
    let mut bench = two_cut_apart(&b());
    heard(&mut bench, &b());
    assert_eq!(bench.ownership.questions(), [VIP].into());
    for _ in 0..100 {
        assert_eq!(bench.wait(2900), [], "it answers");
        assert_eq!(heard(&mut bench, &b()), []);
    }
    assert_eq!(bench.wait(2999), []);
    assert_eq!(bench.wait(1), claimed(2, Reason::OwnerDown));
    assert!(bench.ownership.questions().is_empty());
}

#[test]
fn the_majority_defends_its_vips_against_a_lost_member_and_takes_no_notice_of_others() {
    let mut bench = cut_off(&[b()]);
    bench.wait(2000);
    let once = again(Reason::ConflictWon);
    assert_eq!(heard(&mut bench, &b()), once, "at once");
    bench.wait(500);
    assert_eq!(heard(&mut bench, &b()), [], "no war");
    assert_eq!(bench.wait(2500), once, "and when the other's burst is over");
    assert_eq!(bench.wait(60_000), []);

    let mut bench = Bench::awake();
    bench.peer(&b(), MemberState::Alive, Some(4)).eligible(&[me(), b()]).input();
    bench.peer(&b(), MemberState::Down, Some(4));
    heard(&mut bench, &b());
    assert_eq!(bench.eligible(&[me()]).input(), claimed(5, Reason::OwnerDown), "it is taken over at once");
}

#[test]
fn of_two_majorities_that_insist_the_higher_rank_stays() {
    for (peer, stays) in [(b(), true), (a(), false)] {
        let mut bench = cut_off(std::slice::from_ref(&peer));
        bench.wait(2000);
        heard(&mut bench, &peer);
        bench.wait(4000);
        assert_eq!(heard(&mut bench, &peer), if stays { vec![] } else { gone(Reason::WireClaim) });
    }
}

#[test]
fn of_two_nodes_that_hear_each_other_the_one_of_higher_rank_waits_less() {
    for (peer, silence) in [(b(), 3000), (a(), 4000)] {
        let mut bench = two_cut_apart(&peer);
        heard(&mut bench, &peer);
        assert_eq!(bench.wait(silence - 1), []);
        assert_eq!(bench.wait(1), claimed(2, Reason::OwnerDown), "{peer}");
    }
}

#[test]
fn a_member_with_a_known_claim_is_left_to_the_claims() {
    let mut bench = Bench::owning();
    bench.peer(&b(), MemberState::Alive, Some(1));
    assert_eq!(bench.input(), again(Reason::ConflictWon));
    assert_eq!(heard(&mut bench, &b()), [], "it will see that it has lost");
}

#[test]
fn a_member_that_is_up_is_believed_until_its_claim_shows_or_it_does_not_answer() {
    let mut bench = Bench::owning();
    assert_eq!(heard(&mut bench, &b()), [], "their claims may have crossed each other");
    bench.wait(500);
    assert_eq!(heard(&mut bench, &b()), gone(Reason::Superseded), "its claim is on its way");
    bench.peer(&b(), MemberState::Alive, Some(2));
    assert_eq!(bench.input(), []);
    assert!(bench.ownership.questions().is_empty());
    assert_eq!(bench.ownership.owners()[&VIP].epoch, 2);

    let mut bench = Bench::owning();
    bench.eligible(&[me(), b()]).input();
    bench.wait(500);
    heard(&mut bench, &b());
    assert_eq!(bench.wait(499), []);
    assert!(matches!(bench.wait(1).as_slice(), [_, Action::Announce { epoch: 2, .. }]), "its frame was old");
}

#[test]
fn strangers_and_vips_of_no_interest_change_nothing() {
    let mut bench = Bench::owning();
    bench.ownership.handle_wire(VIP, None, bench.now, 7);
    bench.ownership.handle_wire("10.9.9.9".parse().unwrap(), Some(&a()), bench.now, 7);
    bench.ownership.handle_wire(VIP, Some(&me()), bench.now, 7);
    assert_eq!(bench.actions(), []);
    assert!(bench.ownership.questions().is_empty());
}

#[test]
fn a_minority_keeps_what_it_owned_and_announces_it_no_more_until_it_is_none() {
    let mut bench = cut_off(&[a(), b()]);
    assert_eq!(bench.ownership.standing(), Standing::Minority);
    assert!(bench.ownership.claims().contains_key(&VIP));
    assert_eq!(bench.ownership.voice(VIP), Voice::Quiet);
    assert_eq!(bench.wait(3_600_000), []);
    assert_eq!(bench.ownership.voice(VIP), Voice::Quiet);

    bench.peer(&b(), MemberState::Alive, None).input();
    bench.wait(1999);
    assert_eq!(bench.ownership.voice(VIP), Voice::Quiet, "the other's claims may be on their way");
    bench.wait(1);
    assert_eq!(bench.ownership.voice(VIP), Voice::Full);
}

#[test]
fn a_minority_takes_only_what_nobody_answers_for_and_it_can_serve() {
    for (answered, serves) in [(false, true), (true, true), (false, false)] {
        let mut bench = Bench::awake();
        bench.peer(&a(), MemberState::Alive, Some(4)).eligible(&[me(), a(), b()]).input();
        if serves {
            bench.ownership.set_serving([VIP].into());
        }
        bench.peer(&a(), MemberState::Down, Some(4)).peer(&b(), MemberState::Down, None).eligible(&[me()]);
        assert_eq!(bench.input(), []);
        for _ in 0..9 {
            assert_eq!(bench.wait(500), []);
            if answered {
                bench.ownership.handle_wire(VIP, None, bench.now, 7);
            }
        }
        let taken = if !answered && serves { claimed(0, Reason::OwnerDown) } else { vec![] };
        assert_eq!(bench.wait(500), taken, "answered {answered}, serves {serves}");
    }
}

#[test]
fn what_was_taken_in_the_last_moment_before_isolation_is_given_back() {
    let mut bench = Bench::awake();
    bench.peer(&a(), MemberState::Alive, Some(4)).eligible(&[me(), a(), b()]).input();
    bench.peer(&a(), MemberState::Down, Some(4)).eligible(&[me()]);
    assert_eq!(bench.input(), claimed(5, Reason::OwnerDown), "two of three");
    bench.wait(300);
    bench.peer(&b(), MemberState::Down, None);
    assert_eq!(bench.input(), gone(Reason::Isolated));
}

#[test]
fn half_takes_over_at_once_and_is_quiet_about_what_it_had() {
    let mut bench = Bench::owning();
    let other = IpAddr::from([10, 0, 0, 2]);
    bench.view.members.remove(&b());
    bench.wait(20_000);
    bench.vips.insert(other, [me(), a()].into());
    bench.peer(&a(), MemberState::Alive, None);
    bench.view.members.get_mut(&a()).unwrap().document.claims =
        [(other, Claim { epoch: 3, since_ms: 1, standby: 0 })].into();
    bench.input();
    bench.wait(20_000);
    bench.view.members.get_mut(&a()).unwrap().state = MemberState::Down;
    bench.vips.insert(other, [me()].into());
    let actions = bench.eligible(&[me()]).input();
    assert!(actions.contains(&Action::Announce { vip: other, epoch: 4, reason: Reason::OwnerDown }), "{actions:?}");
    assert_eq!((bench.ownership.voice(VIP), bench.ownership.voice(other)), (Voice::Quiet, Voice::Full));
}

#[test]
fn the_majority_speaks_last() {
    let mut bench = cut_off(&[a()]);
    assert_eq!(bench.wait(999), []);
    assert_eq!(bench.wait(1), again(Reason::ConflictWon), "the lost peer may have announced before it noticed");
    assert_eq!(bench.wait(60_000), []);
}

#[test]
fn a_node_that_was_held_up_listens_before_it_says_anything() {
    let mut bench = Bench::owning();
    bench.peer(&b(), MemberState::Alive, Some(1)).input();
    bench.now += 5000 * MS;
    bench.ownership.handle_hold_up(bench.now);
    bench.peer(&b(), MemberState::Alive, None).vips.insert("10.0.0.3".parse().unwrap(), [me()].into());
    let said = bench.input();
    assert!(!said.iter().any(|action| matches!(action, Action::Announce { .. })), "{said:?}");
    assert_eq!(bench.wait(999), []);
    assert!(bench.wait(1).iter().any(|action| matches!(action, Action::Announce { .. })));
}

#[test]
fn the_wall_clock_decides_nothing() {
    let actions = |clocks: [u64; 4]| {
        let mut bench = Bench::awake();
        let mut all = Vec::new();
        let states = [(MemberState::Alive, Some(3)), (MemberState::Down, Some(3)), (MemberState::Alive, Some(9))];
        for ((state, epoch), clock) in states.into_iter().zip(clocks) {
            bench.peer(&a(), state, epoch);
            let left = [vec![me(), b()], if state.is_up() { vec![a()] } else { vec![] }].concat();
            bench.eligible(&left);
            let vips = bench.vips.iter().map(|(vip, nodes)| (*vip, Arc::new(nodes.clone()))).collect();
            bench.ownership.handle_input(&Arc::new(bench.view.clone()), &vips, bench.now, clock);
            all.extend(bench.actions());
            bench.now += 30_000 * MS;
            bench.ownership.handle_timeout(bench.now, clocks[3]);
            all.extend(bench.actions());
        }
        all.retain(|action| !matches!(action, Action::Publish(_)));
        all
    };
    let calm = actions([1_000_000, 1_000_001, 1_000_002, 1_000_003]);
    assert!(calm.len() >= 2, "{calm:?}");
    assert_eq!(actions([1_000_000, 3, u64::MAX, 0]), calm, "hours back, and far ahead");
}

#[test]
fn what_a_minority_was_in_doubt_of_is_no_doubt_when_it_has_found_the_others() {
    let mut bench = Bench::awake();
    let peers = ["p", "q", "r", "s", "t"].map(name);
    let (both, alone) = ([me(), name("p")], [me()]);
    let all = |bench: &mut Bench, state| {
        for peer in &peers {
            bench.peer(peer, state, (*peer == name("p")).then_some(4));
        }
        bench.eligible(if state == MemberState::Alive { &both } else { &alone }).input()
    };
    for state in [MemberState::Alive, MemberState::Down, MemberState::Alive] {
        assert_eq!(all(&mut bench, state), [], "{state:?}: another's, or in doubt");
    }
    bench.wait(3000);
    bench.peer(&name("p"), MemberState::Down, Some(4));
    assert_eq!(bench.eligible(&alone).input(), claimed(5, Reason::OwnerDown), "at once");
}

#[test]
fn a_doubt_ends_when_another_member_takes_the_vip_over() {
    let mut bench = two_cut_apart(&b());
    heard(&mut bench, &b());
    assert_eq!(bench.ownership.owners()[&VIP].node, b());
    bench.peer(&a(), MemberState::Alive, Some(9)).eligible(&[me(), a()]).input();
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
    bench.peer(&a(), MemberState::Down, Some(9)).eligible(&[]).input();
    assert_eq!(bench.ownership.owners().get(&VIP).map(|owner| owner.node.clone()), None, "what b said is long over");
}
