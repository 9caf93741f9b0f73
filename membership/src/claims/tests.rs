//! A table of situations: what one node does in each, action by action.

use super::*;
use crate::{Facts, Interface, Member, NodeDocument, election::outranks};

mod resume;
mod settling;
mod silence;

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const MS: Duration = Duration::from_millis(1);

fn name(n: &str) -> NodeName {
    n.parse().unwrap()
}

/// One node, `me`, with the peers `a` and `b` (of which `a` outranks `me`, and `me` outranks `b`, for [`VIP`]).
struct Bench {
    now: Instant,
    view: View,
    vips: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    ownership: Ownership,
}

fn ranked() -> (NodeName, NodeName, NodeName) {
    let mut names: Vec<NodeName> = ["x", "y", "z"].map(name).to_vec();
    names.sort_by(|a, b| outranks(VIP, b, a).cmp(&outranks(VIP, a, b)));
    (names[0].clone(), names[1].clone(), names[2].clone())
}

fn a() -> NodeName {
    ranked().0
}

fn me() -> NodeName {
    ranked().1
}

fn b() -> NodeName {
    ranked().2
}

fn member(state: MemberState, epoch: Option<u64>) -> Member {
    let uplink = Interface { name: "eth0".into(), mac: [0; 6], prefixes: vec![] };
    let claims = epoch.map(|epoch| (VIP, Claim { epoch, since_ms: 5, standby: 0 })).into_iter().collect();
    let facts = Facts { interfaces: vec![uplink], ..Facts::default() };
    let document = NodeDocument { facts, claims, ..NodeDocument::default() };
    Member { address: "127.0.0.1:1".parse().unwrap(), generation: 1, state, document }
}

impl Bench {
    /// A node that has just started and sees itself alone; `VIP` is desired.
    fn fresh() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can only be had from the clock; only differences count"
        )]
        let now = Instant::now();
        let view = View { members: [(me(), member(MemberState::Alive, None))].into(), caught_up: false };
        let vips = [(VIP, [me()].into())].into();
        Self { now, view, vips, ownership: Ownership::new(me(), Listen::default(), now) }
    }

    /// A node that has ended its start with peers `a` and `b` around and nothing desired.
    fn awake() -> Self {
        let mut bench = Self::fresh();
        bench.vips.clear();
        bench.view.caught_up = true;
        bench.peer(&a(), MemberState::Alive, None).peer(&b(), MemberState::Alive, None);
        bench.input();
        bench.wait(400);
        bench.wait(400);
        bench
    }

    fn peer(&mut self, node: &NodeName, state: MemberState, epoch: Option<u64>) -> &mut Self {
        self.view.members.insert(node.clone(), member(state, epoch));
        self
    }

    fn eligible(&mut self, nodes: &[NodeName]) -> &mut Self {
        self.vips.insert(VIP, nodes.iter().cloned().collect());
        self
    }

    /// Feeds what is set, and returns what is asked for.
    fn input(&mut self) -> Vec<Action> {
        let vips = self.vips.iter().map(|(vip, nodes)| (*vip, Arc::new(nodes.clone()))).collect();
        self.ownership.handle_input(&Arc::new(self.view.clone()), &vips, self.now, 7);
        self.actions()
    }

    fn wait(&mut self, ms: u32) -> Vec<Action> {
        self.now += MS * ms;
        self.ownership.handle_timeout(self.now, 7);
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.ownership.poll_action()).collect()
    }

    /// `me` owns [`VIP`] with epoch 1, the others could.
    fn owning() -> Self {
        let mut bench = Self::awake();
        bench.eligible(&[me()]).input();
        bench.eligible(&[me(), a(), b()]);
        assert_eq!(bench.input(), []);
        assert_eq!(bench.ownership.claims().get(&VIP).map(|claim| claim.epoch), Some(1));
        bench
    }
}

fn claimed(epoch: u64, reason: Reason) -> Vec<Action> {
    let claims = [(VIP, Claim { epoch, since_ms: 7, standby: 0 })].into();
    vec![Action::Publish(claims), Action::Announce { vip: VIP, epoch, reason }]
}

fn gone(reason: Reason) -> Vec<Action> {
    vec![Action::Withdraw { vip: VIP, reason }, Action::Publish(BTreeMap::new())]
}

fn again(reason: Reason) -> Vec<Action> {
    vec![Action::Reannounce { vip: VIP, reason }]
}

#[test]
fn a_lone_node_claims_when_its_grace_is_over() {
    let mut bench = Bench::fresh();
    assert_eq!(bench.input(), [Action::Listening(true)]);
    assert_eq!(bench.ownership.poll_timeout(), Some(bench.now + 1500 * MS));
    assert_eq!(bench.wait(1499), []);
    let mut expected = vec![Action::Listening(false)];
    expected.extend(claimed(1, Reason::FirstClaim));
    assert_eq!(bench.wait(1), expected);
    assert_eq!(bench.ownership.poll_timeout(), None);
}

#[test]
fn a_node_that_has_caught_up_with_an_awake_peer_ends_listening_after_a_moment() {
    let mut bench = Bench::fresh();
    bench.peer(&a(), MemberState::Alive, None).view.caught_up = true;
    bench.input();
    assert_eq!(bench.wait(199), []);
    assert_eq!(bench.wait(1), [Action::Listening(false)]);
    assert_eq!(bench.wait(199), [], "it settles once more before it claims");
    assert_eq!(bench.wait(1), claimed(1, Reason::FirstClaim));
}

#[test]
fn peers_that_all_listen_wait_for_the_grace_or_for_the_first_to_wake() {
    for wakes in [false, true] {
        let mut bench = Bench::fresh();
        bench.peer(&a(), MemberState::Alive, None).view.caught_up = true;
        bench.view.members.get_mut(&a()).unwrap().document.facts.listening = true;
        bench.input();
        assert_eq!(bench.wait(1000), []);
        bench.view.members.get_mut(&a()).unwrap().document.facts.listening = !wakes;
        assert_eq!(bench.input(), if wakes { vec![Action::Listening(false)] } else { vec![] });
        assert_eq!(bench.wait(500).contains(&Action::Listening(false)), !wakes);
    }
}

#[test]
fn a_peer_that_never_sends_its_documents_delays_the_start_only_up_to_the_limit() {
    let mut bench = Bench::fresh();
    bench.peer(&a(), MemberState::Alive, None).input();
    assert_eq!(bench.wait(9999), []);
    assert_eq!(bench.wait(1), [Action::Listening(false)]);
    assert_eq!(bench.wait(200), claimed(1, Reason::FirstClaim));
}

#[test]
fn the_first_claim_is_made_by_the_elected_node_alone() {
    let mut bench = Bench::awake();
    assert_eq!(bench.eligible(&[me(), a(), b()]).input(), [], "a outranks me");
    assert_eq!(bench.eligible(&[me(), b()]).input(), claimed(1, Reason::FirstClaim));
}

#[test]
fn takeovers_exceed_every_epoch_seen_and_say_why() {
    let cases = [
        (MemberState::Down, Reason::OwnerDown),
        (MemberState::Left, Reason::OwnerLeft),
        (MemberState::Alive, Reason::OwnerReleased),
    ];
    for (state, reason) in cases {
        let mut bench = Bench::awake();
        bench.peer(&b(), MemberState::Alive, Some(41)).eligible(&[me(), b()]);
        assert_eq!(bench.input(), [], "b owns it");
        assert_eq!(bench.ownership.owners()[&VIP].reason, Reason::Found);
        // Up without its claim is an agent that has restarted; the dead keep their last document.
        let claim = (state != MemberState::Alive).then_some(41);
        bench.peer(&b(), state, claim);
        if state != MemberState::Alive {
            bench.eligible(&[me()]);
        }
        assert_eq!(bench.input(), claimed(42, reason), "{state:?}");
        let owner = &bench.ownership.owners()[&VIP];
        assert_eq!((&owner.node, owner.epoch, owner.reason), (&me(), 42, reason));
    }
}

#[test]
fn a_suspect_owner_still_owns() {
    let mut bench = Bench::awake();
    bench.peer(&b(), MemberState::Suspect, Some(3));
    assert_eq!(bench.eligible(&[me(), b()]).input(), []);
}

#[test]
fn an_owner_that_may_not_own_any_more_is_succeeded() {
    let mut bench = Bench::awake();
    bench.peer(&b(), MemberState::Alive, Some(3)).eligible(&[me(), b()]).input();
    assert_eq!(bench.eligible(&[me()]).input(), claimed(4, Reason::Handover));
    bench.peer(&b(), MemberState::Alive, None);
    assert_eq!(
        bench.input(),
        again(Reason::Handover),
        "the old owner may have refreshed neighbours until it fell silent"
    );
}

#[test]
fn an_ineligible_owner_answers_until_its_successor_claims() {
    let mut bench = Bench::owning();
    assert_eq!(bench.eligible(&[a(), b()]).input(), []);
    bench.peer(&a(), MemberState::Alive, Some(2));
    assert_eq!(bench.input(), gone(Reason::Handover));
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
}

#[test]
fn an_ineligible_owner_without_a_successor_stops_at_once() {
    let mut bench = Bench::owning();
    assert_eq!(bench.eligible(&[]).input(), gone(Reason::Ineligible));
    assert!(bench.ownership.owners().is_empty());
    assert_eq!(bench.eligible(&[me()]).input(), claimed(2, Reason::OwnerReleased));
}

#[test]
fn a_draining_owner_without_a_successor_keeps_answering_until_shutdown() {
    let mut bench = Bench::owning();
    assert!(!bench.ownership.is_released());
    bench.ownership.drain(bench.now);
    assert!(!bench.ownership.is_released(), "a and b could take it");
    assert_eq!(bench.eligible(&[]).input(), []);
    assert!(bench.ownership.is_released(), "nobody can take it");
    bench.ownership.shutdown();
    assert_eq!(bench.actions(), gone(Reason::Shutdown));
    assert_eq!(bench.eligible(&[me()]).input(), [], "nothing is taken after the shutdown");
}

#[test]
fn a_higher_epoch_supersedes_whatever_the_rank() {
    let mut bench = Bench::owning();
    bench.peer(&b(), MemberState::Alive, Some(2));
    assert_eq!(bench.input(), gone(Reason::Superseded));
}

#[test]
fn with_equal_epochs_the_lower_rank_falls_silent() {
    let mut bench = Bench::owning();
    bench.peer(&a(), MemberState::Alive, Some(1));
    assert_eq!(bench.input(), gone(Reason::ConflictLost));
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
}

#[test]
fn with_equal_epochs_the_higher_rank_announces_again_until_after_the_rival_is_silent() {
    let mut bench = Bench::owning();
    bench.peer(&b(), MemberState::Alive, Some(1));
    assert_eq!(bench.input(), again(Reason::ConflictWon));
    assert_eq!(bench.input(), [], "once for each rival");
    assert_eq!(bench.wait(1000), again(Reason::ConflictWon), "once more a second later");
    assert_eq!(bench.wait(1000), []);
    bench.peer(&b(), MemberState::Alive, None);
    assert_eq!(bench.input(), again(Reason::ConflictWon));
}

#[test]
fn claims_of_the_dead_do_not_count() {
    for state in [MemberState::Down, MemberState::Left] {
        let mut bench = Bench::owning();
        bench.peer(&a(), state, Some(9));
        assert_eq!(bench.eligible(&[me(), b()]).input(), []);
    }
}

#[test]
fn a_peer_back_from_the_dead_makes_the_owner_announce_again_unless_it_has_just_started() {
    for listening in [false, true] {
        let mut bench = Bench::owning();
        bench.peer(&b(), MemberState::Down, None).eligible(&[me(), a()]);
        assert_eq!(bench.input(), []);
        bench.peer(&b(), MemberState::Alive, None).eligible(&[me(), a(), b()]);
        bench.view.members.get_mut(&b()).unwrap().document.facts.listening = listening;
        assert_eq!(bench.input(), [], "its claims may be about to arrive");
        assert_eq!(bench.wait(300), if listening { vec![] } else { again(Reason::ConflictWon) });
    }
}

#[test]
fn a_minority_serves_what_it_can_and_gives_way_to_every_other_claim() {
    let mut bench = Bench::awake();
    bench.peer(&a(), MemberState::Down, Some(4)).peer(&b(), MemberState::Down, None).eligible(&[me()]);
    bench.ownership.set_serving([VIP].into());
    assert_eq!(bench.input(), [], "alone of three, and just now");
    assert_eq!(bench.ownership.questions(), [VIP].into());
    assert_eq!(bench.wait(4999), []);
    assert_eq!(bench.wait(1), claimed(0, Reason::OwnerDown));
    assert_eq!(bench.ownership.voice(VIP), Voice::Once);

    bench.peer(&b(), MemberState::Alive, None);
    assert_eq!(bench.input(), [], "most are here again; but the owner may be on its way");
    bench.peer(&a(), MemberState::Alive, Some(4)).eligible(&[me(), a(), b()]);
    assert_eq!(bench.input(), gone(Reason::Superseded));
}

#[test]
fn what_a_minority_claimed_becomes_a_full_claim_when_enough_are_back_not_when_they_are_forgotten() {
    let mut bench = Bench::awake();
    bench.peer(&a(), MemberState::Down, Some(4)).peer(&b(), MemberState::Down, None).eligible(&[me()]);
    bench.ownership.set_serving([VIP].into());
    bench.input();
    bench.wait(5000);
    bench.view.members.retain(|name, _| *name == me());
    assert_eq!(bench.input(), []);
    assert_eq!(bench.wait(60_000), []);
    bench.peer(&b(), MemberState::Alive, None).input();
    bench.wait(300);
    assert_eq!(bench.wait(2_500), claimed(5, Reason::OwnerDown));
}

#[test]
fn in_a_minority_too_an_owner_can_hand_over() {
    let mut bench = Bench::owning();
    bench.peer(&a(), MemberState::Alive, Some(0)).peer(&b(), MemberState::Down, None).eligible(&[a()]);
    assert_eq!(bench.input(), gone(Reason::Handover));
}

#[test]
fn a_node_that_was_without_uplink_listens_before_it_claims_again() {
    let mut bench = Bench::owning();
    let deaf = |bench: &mut Bench, deaf: bool| {
        let uplinks = if deaf { vec![] } else { member(MemberState::Alive, None).document.facts.interfaces };
        bench.view.members.get_mut(&me()).unwrap().document.facts.interfaces = uplinks;
    };
    deaf(&mut bench, true);
    bench.peer(&a(), MemberState::Down, None).peer(&b(), MemberState::Down, None).eligible(&[]);
    assert!(bench.input().contains(&Action::Listening(true)));
    bench.wait(60_000);

    deaf(&mut bench, false);
    assert_eq!(bench.eligible(&[me()]).input(), [], "it hears again, and nobody yet");
    bench.peer(&a(), MemberState::Alive, Some(2));
    assert_eq!(bench.eligible(&[a()]).input(), []);
    bench.wait(250);
    bench.eligible(&[a(), me()]).wait(2_000);
    assert_eq!(bench.ownership.owners()[&VIP].node, a());
}

#[test]
fn the_view_of_ones_own_document_never_makes_or_breaks_a_claim() {
    let mut bench = Bench::owning();
    bench.view.members.insert(me(), member(MemberState::Alive, None));
    assert_eq!(bench.input(), [], "what was published is not in the view yet");

    let mut bench = Bench::awake();
    bench.view.members.insert(me(), member(MemberState::Alive, Some(6)));
    assert_eq!(bench.eligible(&[me()]).input(), claimed(7, Reason::OwnerDown), "a claim of an earlier life");
}

#[test]
fn a_vip_that_is_not_desired_any_more_is_withdrawn_and_its_epoch_remembered() {
    let mut bench = Bench::owning();
    bench.vips.clear();
    assert_eq!(bench.input(), gone(Reason::Removed));
    assert!(bench.ownership.owners().is_empty());
    let actions = bench.eligible(&[me()]).input();
    assert!(matches!(actions.as_slice(), [_, Action::Announce { epoch: 2, .. }]), "{actions:?}");

    bench.vips.clear();
    bench.input();
    bench.wait(600_000);
    bench.input();
    assert_eq!(bench.ownership.epochs.len(), 0, "not for ever");
}

#[test]
fn claims_on_vips_nobody_desires_leave_no_trace() {
    let mut bench = Bench::awake();
    let absurd: BTreeMap<_, _> =
        (0..200u8).map(|n| (IpAddr::from([9, 9, 9, n]), Claim { epoch: u64::MAX, since_ms: 0, standby: 0 })).collect();
    bench.peer(&a(), MemberState::Alive, None);
    bench.view.members.get_mut(&a()).unwrap().document.claims = absurd;
    assert_eq!(bench.input(), []);
    assert!(bench.ownership.owners().is_empty());
    assert_eq!(bench.ownership.epochs.len(), 0);
}

#[test]
fn an_absurd_epoch_is_taken_over_without_overflow() {
    let mut bench = Bench::awake();
    bench.peer(&b(), MemberState::Down, Some(u64::MAX));
    assert_eq!(bench.eligible(&[me()]).input(), claimed(u64::MAX, Reason::OwnerDown));
}

#[test]
fn many_vips_that_come_and_go_are_forgotten_early_and_counted() {
    let mut bench = Bench::awake();
    for round in 0..3u8 {
        let vip = |n: u16| IpAddr::from([10, round, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        bench.vips = (0..2000).map(|n| (vip(n), BTreeSet::new())).collect();
        bench.input();
    }
    bench.vips.clear();
    bench.input();
    assert_eq!(bench.ownership.epochs.len(), 4096);
    assert_eq!(bench.ownership.forgotten_early(), 6000 - 4096);
}

#[test]
fn labels_are_unique() {
    let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), Reason::ALL.len());
}

mod isolation;
