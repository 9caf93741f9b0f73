use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A guard, its time, and what the kernel has noted.
struct World {
    guard: Guard,
    start: Instant,
    now: Instant,
    reading: Reading,
    /// The owner's agent answers.
    answers: bool,
    /// The segment floods: each ask makes an echo that is seen.
    floods: bool,
    told: Vec<(Duration, Lease)>,
    asks: Vec<Duration>,
    knocks: Vec<Duration>,
    stand_downs: u32,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a point of reference for virtual time")]
    fn new() -> Self {
        let now = Instant::now();
        Self {
            guard: Guard::new(now, u64::MAX - 2),
            start: now,
            now,
            reading: Reading::default(),
            answers: true,
            floods: false,
            told: Vec::new(),
            asks: Vec::new(),
            knocks: Vec::new(),
            stand_downs: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.guard.poll_timeout() <= end {
            self.now = self.guard.poll_timeout().max(self.now);
            let todo = self.guard.step(self.reading, self.now);
            let at = self.now - self.start;
            self.told.extend(todo.tell.map(|lease| (at, lease)));
            self.stand_downs += u32::from(todo.stood_down);
            if todo.knock {
                self.knocks.push(at);
            }
            let Some(nonce) = todo.ask else { continue };
            self.asks.push(at);
            if self.floods {
                self.reading.seen += 1;
            }
            if self.answers {
                self.guard.handle_answer(nonce, self.now);
            }
        }
        self.now = end;
    }

    fn state(&self) -> State {
        self.guard.state(self.now)
    }

    fn armed(&self) -> bool {
        self.state() == State::Armed
    }

    /// The kernel hears the owner during a flood.
    fn owner_is_heard(&mut self) {
        self.reading.seen += 1;
        self.reading.stood_down = self.told.last().unwrap().1.round;
    }

    /// How long it takes until it is armed.
    fn until_armed(&mut self) -> Duration {
        let began = self.now;
        while !self.armed() {
            self.run(ms(50));
            assert!(self.now - began < Duration::from_secs(200), "it never arms");
        }
        self.now - began
    }
}

#[test]
fn it_arms_when_asks_are_answered_and_nothing_is_seen_for_two_seconds() {
    let mut world = World::new();
    world.run(ms(1990));
    assert_eq!(world.state(), State::Watching);
    assert!(world.told.is_empty());
    world.run(ms(300));
    assert!(world.armed());
    assert!(world.told[0].0 >= QUIET && world.told[0].1.until.is_some());
}

#[test]
fn it_never_arms_on_a_segment_that_floods() {
    let mut world = World::new();
    world.floods = true;
    world.run(Duration::from_secs(3600));
    assert!(world.told.is_empty(), "{:?}", world.told);
    assert_eq!(world.state(), State::Flooded);
}

#[test]
fn it_never_arms_while_other_frames_to_the_owner_are_seen() {
    let mut world = World::new();
    for _ in 0..500 {
        world.reading.seen += 1;
        world.run(ms(700));
    }
    assert!(world.told.is_empty() && world.state() == State::Flooded);
}

#[test]
fn it_never_arms_for_an_owner_that_does_not_answer() {
    let mut world = World::new();
    world.answers = false;
    world.run(Duration::from_secs(60));
    assert!(world.told.is_empty());
    assert_eq!(world.state(), State::Unanswered);
}

#[test]
fn an_answer_counts_once_and_one_to_no_ask_not_at_all() {
    let mut world = World::new();
    world.answers = false;
    let mut answered = 0;
    for _ in 0..40 {
        world.run(STEP);
        let last = world.guard.nonce;
        if answered == 0 {
            world.guard.handle_answer(last, world.now);
            answered = last;
        }
        for wrong in [answered, last.wrapping_add(1), last.wrapping_sub(1 << 40)] {
            world.guard.handle_answer(wrong, world.now);
        }
    }
    assert!(!world.armed());
}

#[test]
fn the_lease_is_put_off_while_armed_and_ends_before_another_standby_can_arm() {
    let mut world = World::new();
    world.until_armed();
    world.run(Duration::from_secs(30));
    for pair in world.told.windows(2) {
        let [(_, before), (at, after)] = pair else { unreachable!() };
        let told = world.start + *at;
        assert_eq!(before.round, after.round);
        assert!(before.until.unwrap() - told >= ms(1000), "renewed in time");
        assert!(after.until.unwrap() - told < QUIET);
    }
    assert!(world.told.len() > 30);
    assert!(world.asks.len() < 45, "an armed guard asks once a second: {}", world.asks.len());
}

#[test]
fn it_stands_down_when_the_kernel_has_and_holds_off_longer_each_time() {
    let mut world = World::new();
    world.until_armed();
    let mut pauses = Vec::new();
    for round in 1..=8 {
        world.owner_is_heard();
        world.run(STEP);
        assert_eq!((world.state(), world.stand_downs), (State::StoodDown, round));
        assert_eq!(world.told.last().unwrap().1.until, None, "the kernel is told");
        let round_before = world.told.last().unwrap().1.round;
        pauses.push(world.until_armed().as_secs());
        assert_ne!(world.told.last().unwrap().1.round, round_before, "a new round");
    }
    assert_eq!(pauses, [3, 4, 6, 10, 18, 34, 62, 62]);
    world.run(Duration::from_secs(61));
    world.owner_is_heard();
    world.run(STEP);
    assert_eq!(world.until_armed().as_secs(), 3, "a quiet minute is forgiven");
}

#[test]
fn at_a_flood_an_armed_guard_asks_at_once_and_again() {
    let mut world = World::new();
    world.guard.handle_flood(world.now);
    world.run(ms(100));
    assert!(world.knocks.is_empty(), "nothing to be found out while nothing is carried");
    world.until_armed();
    world.answers = false;
    let began = world.now - world.start;
    world.guard.handle_flood(world.now);
    world.run(ms(100));
    let after: Vec<_> = world.knocks.iter().map(|at| (*at - began).as_millis()).collect();
    assert_eq!(after, [0, 2, 4, 8, 16, 32]);
    assert!(world.armed(), "silence is no reason to stand down");
    world.run(Duration::from_secs(60));
    assert!(world.armed());
}
