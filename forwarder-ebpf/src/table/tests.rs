//! Who lies where, and who makes room.
use proptest::prelude::*;

use super::*;
use crate::{Eviction, UDP, limits, mapped};

const BUCKETS: u32 = limits::FLOWS / WAYS;
const ESTABLISHED: u32 = State::FORWARD | State::REVERSE | State::TCP;
const HALF_OPEN: u32 = ESTABLISHED | State::HALF_OPEN;
const NOW: u32 = 1_000_000;

fn home(client: [u8; 4], port: u16) -> Home {
    Home::of(words(&mapped(client)), port.to_be_bytes(), TCP, BUCKETS)
}

fn state(flags: u32, silent: u32) -> State {
    State::new(&home([10, 0, 0, 1], 1), flags, NOW - silent)
}

/// As the kernel program looks at a bucket.
fn room(states: &[State], home: u32) -> Room {
    let mut room = Room::NONE;
    for turn in 0..WAYS {
        let way = (home + turn) % WAYS;
        room = room.or(way, states[way as usize], rank(states[way as usize], NOW));
        if room.is_ideal() {
            break;
        }
    }
    room
}

/// What becomes of a bucket when a packet that opens a connection comes, if there is room for it.
fn enter(states: &mut [State; WAYS as usize], home: u32) -> Option<Standing> {
    let room = room(states, home);
    if !room.is_there() {
        return None;
    }
    let lost = states[room.way as usize].standing(NOW);
    states[room.way as usize] = state(HALF_OPEN, 0);
    Some(lost)
}

#[test]
fn flows_make_room_in_the_order_of_what_their_loss_costs() {
    let closed = ESTABLISHED | State::CLOSED;
    let udp = State::FORWARD | State::REVERSE;
    let order = [
        (State::FREE, Standing::Free),
        (state(closed, 100), Standing::Over),
        (state(udp, 200), Standing::Over),
        (state(ESTABLISHED, 11_000), Standing::Over),
        (state(closed, 10), Standing::Closed),
        (state(HALF_OPEN, 10), Standing::HalfOpen),
        (state(udp | State::HALF_OPEN, 5), Standing::HalfOpen),
        (state(udp, 50), Standing::Datagrams),
        (state(ESTABLISHED, 2_000), Standing::Quiet),
        (state(ESTABLISHED | State::BY_CLIENT, 200), Standing::Kept),
        (state(ESTABLISHED, 0), Standing::Kept),
        (State(State::BUSY), Standing::Kept),
    ];
    for (state, standing) in order {
        assert_eq!(state.standing(NOW), standing, "{state:?}");
    }
    assert!(order.is_sorted_by_key(|(_, standing)| *standing));
}

#[test]
fn of_equals_the_one_silent_for_longer_makes_room() {
    let mut states = [state(ESTABLISHED, 10); WAYS as usize];
    (states[3], states[9], states[12]) = (state(ESTABLISHED, 400), state(ESTABLISHED, 900), state(ESTABLISHED, 500));
    assert_eq!(room(&states, 0).way, 9);
}

#[test]
fn a_newcomer_takes_its_home_if_that_is_no_loss() {
    let mut states = [State::FREE; WAYS as usize];
    states[5] = state(ESTABLISHED | State::CLOSED, 100);
    assert_eq!(room(&states, 5).way, 5);
    states[5] = state(ESTABLISHED, 0);
    assert_eq!(room(&states, 5).way, 6);
    assert_eq!(room(&states, 15).way, 15);
}

#[test]
fn a_clock_that_is_behind_takes_nothing_for_old() {
    let heard_in_the_future = state(ESTABLISHED, 0).heard(NOW + 4);
    assert_eq!(heard_in_the_future.standing(NOW), Standing::Kept);
}

#[test]
fn losses_are_counted_by_what_was_lost() {
    let counted = [Standing::Closed, Standing::HalfOpen, Standing::Datagrams, Standing::Quiet].map(Eviction::of);
    assert_eq!(counted, Eviction::ALL.map(Some));
    assert_eq!([Standing::Free, Standing::Over, Standing::Kept].map(Eviction::of), [None; 3]);
}

#[test]
fn a_state_without_a_role_is_free() {
    let both = state(ESTABLISHED, 0);
    assert_eq!(both.with(0, State::FORWARD).with(0, State::REVERSE), State::FREE);
    assert!(both.with(State::CLOSED, State::FORWARD).has(State::REVERSE | State::CLOSED));
}

#[test]
fn clients_and_their_ports_spread_over_buckets_ways_and_tags() {
    let mut buckets = std::vec![0_u32; 256];
    let (mut ways, mut tags) = ([0_u32; 16], [0_u32; 16]);
    for client in 0..64_u8 {
        for port in 0..1024_u16 {
            let home = Home::of(words(&mapped([10, 0, client, 7])), (32_768 + port).to_be_bytes(), UDP, 256);
            buckets[home.bucket as usize] += 1;
            ways[home.way as usize] += 1;
            tags[home.tag as usize % 16] += 1;
        }
    }
    // 256 a bucket expected, with a deviation of 16; 4096 a way, with one of 64.
    assert!(buckets.iter().all(|&n| (180..340).contains(&n)), "{buckets:?}");
    for counts in [ways, tags] {
        assert!(counts.iter().all(|&n| (3_800..4_400).contains(&n)), "{counts:?}");
    }
}

#[test]
fn guards_tell_the_flows_of_one_client_apart() {
    let home = home([10, 77, 0, 9], 40_000);
    let mut guards: std::vec::Vec<u32> = (0..=255_u8)
        .flat_map(|vip| (0..256_u16).map(move |port| home.guard(words(&mapped([10, 77, 0, vip])), port.to_be_bytes())))
        .collect();
    guards.sort_unstable();
    guards.dedup();
    // Of 65,536 a pair or so falls together by chance.
    assert!(guards.len() > 65_530, "{}", guards.len());
}

fn any_state() -> impl Strategy<Value = State> {
    (any::<u32>(), 0_u32..20_000).prop_map(|(flags, silent)| {
        let roles = State::FORWARD | State::REVERSE;
        if flags & roles == 0 { State::FREE } else { state(flags & 0x7f, silent) }
    })
}

proptest! {
    #[test]
    fn a_flood_of_opening_packets_costs_no_connection_in_use(
        states in prop::array::uniform16(any_state()),
        homes in prop::collection::vec(0..WAYS, 1..200),
    ) {
        let kept = |states: &[State; 16]| states.map(|state| state.standing(NOW) == Standing::Kept);
        let before = kept(&states);
        let quiet = states.iter().filter(|state| state.standing(NOW) == Standing::Quiet).count();
        let mut flooded = states;
        let lost: std::vec::Vec<Option<Standing>> = homes.into_iter().map(|home| enter(&mut flooded, home)).collect();
        for (before, after) in states.iter().zip(&flooded) {
            prop_assert!(before.standing(NOW) != Standing::Kept || before == after);
        }
        // Nor one that is silent, once there is one of the flood's own to push out.
        let quiet_lost = lost.iter().filter(|lost| **lost == Some(Standing::Quiet)).count();
        prop_assert!(quiet_lost <= 1.min(quiet));
        prop_assert_eq!(lost.contains(&None), before == [true; 16]);
    }

    #[test]
    fn who_makes_room_is_among_those_that_are_spared_most_easily(states in prop::array::uniform16(any_state()), home in 0..WAYS) {
        let room = room(&states, home);
        let least = states.iter().map(|state| state.standing(NOW).max(Standing::Over)).min().unwrap();
        prop_assert_eq!(room.is_there(), least < Standing::Kept);
        if room.is_there() {
            prop_assert_eq!(room.state, states[room.way as usize]);
            prop_assert_eq!(room.state.standing(NOW).max(Standing::Over), least);
        }
    }

    #[test]
    fn a_look_at_two_states_finds_all_that_one_at_each_would(one in any_state(), other in any_state(), port in 1..u16::MAX, own: bool) {
        let home = home([10, 0, 0, 1], port);
        let one = if own { State::new(&home, one.0 & 0x7e, NOW) } else { one };
        let is_alike = |state: State| state.0 & State::TAG == State::new(&home, State::FORWARD, NOW).0 & State::TAG;
        for (low, high) in [(one, other), (other, one)] {
            let pair = u64::from(low.0) | u64::from(high.0) << 32;
            prop_assert_eq!(home.alike(pair) != 0, is_alike(low) || is_alike(high));
        }
    }

    #[test]
    fn a_flow_is_found_by_its_own_home_and_role_alone(port in 1..u16::MAX, other in 1..u16::MAX, flags in 0_u32..0x80) {
        let (mine, theirs) = (home([10, 0, 0, 1], port), home([10, 0, 0, 1], other));
        let state = State::new(&mine, flags, NOW);
        for role in [State::FORWARD, State::REVERSE] {
            prop_assert_eq!(state.may_be(&mine, role), state.has(role) && !state.has(State::BUSY));
            prop_assert!(!state.may_be(&theirs, role) || mine.tag == theirs.tag);
        }
        prop_assert_eq!(state.heard(NOW + 400).with(0, 0).0 & 0x7f, if flags & 6 == 0 { 0 } else { flags });
    }
}
