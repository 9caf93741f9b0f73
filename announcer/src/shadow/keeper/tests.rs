//! What is begun, lingers and ends.

use super::*;

fn key(n: u8) -> Key {
    Key { interface: 2, mac: [2, 0, 0, 0, 0, n] }
}

fn vip(n: u8) -> IpAddr {
    [10, 77, 0, n].into()
}

fn wishes(shadows: &[(u8, &[u8])]) -> Wishes {
    let wish = |n: u8, vips: &[u8]| Wish {
        owner: format!("n{n}").parse().unwrap(),
        vips: vips.iter().copied().map(vip).collect(),
        addresses: vec![vip(n)],
    };
    Wishes {
        shadows: shadows.iter().map(|(n, vips)| (key(*n), wish(*n, vips))).collect(),
        present: shadows.iter().map(|(n, _)| key(*n).mac).collect(),
    }
}

struct World {
    keeper: Keeper,
    now: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a point of reference for virtual time")]
    fn new(slots: u32, pairs: usize) -> Self {
        Self { keeper: Keeper::new(slots, pairs, 7), now: Instant::now() }
    }

    fn set(&mut self, shadows: &[(u8, &[u8])]) -> Vec<Action> {
        self.keeper.set(&wishes(shadows), self.now);
        self.keeper.take_actions()
    }

    /// Time goes by in which all owners answer: everything that was to be done.
    fn run(&mut self, time: Duration) -> Vec<Action> {
        self.pass(time, true)
    }

    /// As [`Self::run`], but no owner answers.
    fn run_in_silence(&mut self, time: Duration) -> Vec<Action> {
        self.pass(time, false)
    }

    fn pass(&mut self, time: Duration, answers: bool) -> Vec<Action> {
        let (end, mut all) = (self.now + time, Vec::new());
        while let Some(at) = self.keeper.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.keeper.handle_timeout(|_| Some(Reading::default()), self.now);
            for action in self.keeper.take_actions() {
                if let Action::Ask(key, nonce) = action
                    && answers
                {
                    self.keeper.handle_answer(key, nonce, self.now);
                }
                all.push(action);
            }
        }
        self.now = end;
        all
    }

    fn state(&self, n: u8) -> Option<State> {
        self.keeper.states().find(|(at, ..)| *at == key(n)).map(|(.., state)| state)
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_wish_is_begun_unarmed_then_armed() {
    let mut world = World::new(4, 10);
    let disarmed = Lease { until: None, round: 1 };
    assert_eq!(
        world.set(&[(1, &[100, 101])]),
        [
            Action::Begin(key(1), 0),
            Action::Tell(key(1), 0, disarmed),
            Action::Add(key(1), vip(100)),
            Action::Add(key(1), vip(101)),
        ]
    );
    let done = world.run(3 * SECOND);
    assert!(done.iter().any(|action| matches!(action, Action::Tell(_, 0, lease) if lease.until.is_some())));
    assert_eq!(world.state(1), Some(State::Armed));
    assert_eq!(world.set(&[(1, &[100, 101])]), [], "the same again");
}

#[test]
fn a_vip_that_another_stands_in_for_now_goes_at_once() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100, 101])]);
    world.run(3 * SECOND);
    assert_eq!(world.set(&[(1, &[101])]), [Action::Remove(key(1), vip(100))]);
    let mut all_gone = wishes(&[(1, &[])]);
    all_gone.shadows.clear();
    world.keeper.set(&all_gone, world.now);
    assert_eq!(world.keeper.take_actions(), [Action::End(key(1)), Action::Remove(key(1), vip(101))], "the owner is up");
}

#[test]
fn for_a_dead_owner_it_lingers_while_the_vip_is_taken_over() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100])]);
    world.run(3 * SECOND);
    assert_eq!(world.set(&[]), []);
    let done = world.run_in_silence(9 * SECOND);
    assert_eq!(world.state(1), Some(State::Armed));
    assert!(!done.contains(&Action::End(key(1))));
    assert!(world.run_in_silence(2 * SECOND).contains(&Action::End(key(1))));
    assert_eq!(world.state(1), None);
}

#[test]
fn a_standby_that_is_cut_off_itself_goes_before_the_next_one_can_be_armed() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100])]);
    world.run(3 * SECOND);
    assert_eq!(world.set(&[]), []);
    // The owner, which answers, names another at the same moment: that one watches for two seconds first.
    let done = world.run(SECOND / 2);
    let expected = [Action::End(key(1)), Action::Remove(key(1), vip(100))];
    world.keeper.handle_timeout(|_| Some(Reading::default()), world.now);
    let ended: Vec<_> = done.into_iter().chain(world.keeper.take_actions()).collect();
    assert!(expected.iter().all(|action| ended.contains(action)), "{ended:?}");
    assert_eq!(world.state(1), None);
}

#[test]
fn an_answer_from_before_the_owner_was_found_dead_does_not_end_its_shadow() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100])]);
    world.run(3 * SECOND);
    let asked = world.run_in_silence(2 * SECOND);
    let late = asked.iter().rev().find_map(|action| match action {
        Action::Ask(key, nonce) => Some((*key, *nonce)),
        _ => None,
    });
    world.set(&[]);
    let (key, nonce) = late.unwrap();
    world.keeper.handle_answer(key, nonce, world.now);
    assert_eq!(world.state(1), Some(State::Armed));
}

#[test]
fn a_lingering_shadow_goes_when_its_owner_or_its_mac_is_back() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100])]);
    world.run(3 * SECOND);
    world.set(&[]);
    let mut back = Wishes::default();
    back.present.insert(key(1).mac);
    world.keeper.set(&back, world.now);
    assert_eq!(world.keeper.take_actions(), [Action::End(key(1)), Action::Remove(key(1), vip(100))]);
}

#[test]
fn one_that_was_not_armed_does_not_linger() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100])]);
    assert_eq!(world.set(&[]), [Action::End(key(1)), Action::Remove(key(1), vip(100))]);
}

#[test]
fn room_is_bounded_and_what_does_not_fit_is_counted() {
    let mut world = World::new(2, 3);
    world.set(&[(1, &[100, 101]), (2, &[102, 103]), (3, &[104])]);
    assert_eq!(world.keeper.states().count(), 2);
    assert_eq!(world.keeper.left_out(), 2, "a VIP of the second, and the third");
    assert!(world.set(&[(3, &[104])]).contains(&Action::Begin(key(3), 0)), "a slot is used again");
}

#[test]
fn a_flood_makes_its_guard_knock_at_the_owner() {
    let mut world = World::new(4, 10);
    world.set(&[(1, &[100]), (2, &[101])]);
    world.run(3 * SECOND);
    world.keeper.handle_flood(1, world.now);
    let done = world.run(Duration::from_millis(1));
    assert!(done.contains(&Action::Knock(key(2), vec![vip(2)])), "{done:?}");
    assert!(!done.iter().any(|action| matches!(action, Action::Knock(at, _) if *at == key(1))));
}
