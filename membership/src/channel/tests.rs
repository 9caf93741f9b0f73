//! Two channels and what an attacker can send between them.

use rand::SeedableRng as _;

use super::*;
use crate::sim::{config, origin};

struct End {
    channel: Channel,
    me: Identity,
    stats: Stats,
}

fn end(index: usize, generation: u64, seed: u64) -> End {
    let config = config(index, generation);
    let nonces = Nonces::seeded(rand::rngs::StdRng::seed_from_u64(seed));
    let channel = Channel::new(config.keys, &config.identity, seed, nonces, origin());
    End { channel, me: config.identity, stats: Stats::default() }
}

impl End {
    fn say(&mut self, to: &Self, text: &[u8], now: Instant) {
        assert!(self.channel.send(Peer::from(&to.me), &Frame::Swim(text), now, &mut self.stats));
    }

    /// Takes in all that the other end has to send; returns the frames that came through.
    fn hear(&mut self, from: &mut Self, now: Instant) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while let Some((_, datagram)) = from.channel.poll_transmit() {
            match self.channel.receive(&datagram, from.me.address, &self.me, now, &mut self.stats) {
                Ok(Received::Frame(_, bytes)) => heard.push(bytes),
                Ok(Received::Met { .. } | Received::Namesake | Received::Done) => {}
                Err(reason) => self.stats.reject(reason),
            }
        }
        heard
    }
}

#[test]
fn what_is_said_before_the_greeting_is_answered_waits_for_it() {
    let now = origin();
    let (mut a, mut b) = (end(1, 1, 1), end(2, 1, 2));
    a.say(&b, b"first", now);
    a.say(&b, b"second", now);
    assert!(b.hear(&mut a, now).is_empty(), "only the greeting is under way");
    assert!(a.hear(&mut b, now).is_empty());
    let expected: Vec<_> = [&b"first"[..], b"second"].iter().map(|text| Frame::Swim(text).encode().unwrap()).collect();
    assert_eq!(b.hear(&mut a, now), expected);
    b.say(&a, b"answer", now);
    assert_eq!(a.hear(&mut b, now).len(), 1, "who was greeted need not greet back");
}

#[test]
fn what_has_waited_for_too_long_is_not_said() {
    let now = origin();
    let (mut a, mut b) = (end(1, 1, 1), end(2, 1, 2));
    a.say(&b, b"old", now);
    let later = now + WAIT / 2;
    a.say(&b, b"young", later);
    b.hear(&mut a, later);
    a.hear(&mut b, now + WAIT);
    assert_eq!(b.hear(&mut a, now + WAIT), [Frame::Swim(b"young").encode().unwrap()]);
}

#[test]
fn waiting_frames_are_bounded_and_counted() {
    let now = origin();
    let (mut a, b) = (end(1, 1, 1), end(2, 1, 2));
    for _ in 0..MAX_FRAMES + 5 {
        a.say(&b, b"x", now);
    }
    for index in 3..MAX_WAITING + 10 {
        a.say(&end(index, 1, 3), b"x", now);
    }
    assert_eq!(a.stats.limits[&Limit::PendingFrames], 5 + 8);
}

#[test]
fn replayed_datagrams_do_not_keep_newcomers_out() {
    let now = origin();
    let (mut a, mut b) = (end(1, 1, 1), end(2, 1, 2));
    a.say(&b, b"hello", now);
    let greeting = a.channel.poll_transmit().unwrap().1;
    let hear = |datagram: &[u8], b: &mut End| {
        let result = b.channel.receive(datagram, a.me.address, &b.me, now, &mut b.stats);
        (result, b.channel.poll_transmit().is_some())
    };
    assert_eq!(hear(&greeting, &mut b), (Ok(Received::Done), true));
    for _ in 0..HELLOS_PER_SECOND + 3 {
        assert_eq!(hear(&greeting, &mut b), (Err(RejectReason::Replay), false));
    }
    // And what was once said to another session of the node.
    let mut earlier = end(2, 1, 3);
    let mut talker = end(3, 1, 4);
    talker.say(&earlier, b"x", now);
    earlier.hear(&mut talker, now);
    talker.hear(&mut earlier, now);
    let stale = talker.channel.poll_transmit().unwrap().1;
    for _ in 0..HELLOS_PER_SECOND + 3 {
        assert_eq!(hear(&stale, &mut b).0, Err(RejectReason::WrongSession));
    }
    assert_eq!(b.stats.limits[&Limit::HelloRate], 3);
    let mut newcomer = end(4, 1, 5);
    newcomer.channel.greet(b.me.address);
    assert_eq!(hear(&newcomer.channel.poll_transmit().unwrap().1, &mut b), (Ok(Received::Done), true));
}

#[test]
fn the_memory_for_greetings_is_bounded() {
    let mut greeted = Greeted::default();
    let header = |sender, counter| Header { sender, generation: 1, session: 1, recipient: 0, counter };
    for sender in 0..=MAX_GREETERS as u64 {
        greeted.note(&header(sender, 7));
    }
    assert_eq!((greeted.answered.len(), greeted.order.len()), (MAX_GREETERS, MAX_GREETERS));
    assert!(greeted.knows(&header(1, 7)) && !greeted.knows(&header(1, 8)) && !greeted.knows(&header(0, 7)));
}

#[test]
fn hellos_are_bounded_and_counted() {
    let now = origin();
    let (mut a, mut b) = (end(1, 1, 1), end(2, 1, 2));
    for _ in 0..HELLOS_PER_SECOND + 3 {
        a.channel.greet(b.me.address);
    }
    b.hear(&mut a, now);
    assert_eq!(b.stats.limits[&Limit::HelloRate], 3);
}

#[test]
fn who_is_outrun_is_told_where_the_other_is_who_has_its_name() {
    let now = origin();
    let (mut peer, mut winner, mut loser) = (end(1, 1, 1), end(2, 9, 2), end(2, 5, 3));
    loser.me.address = crate::sim::address(7);
    for _ in 0..2 {
        winner.say(&peer, b"x", now);
        peer.hear(&mut winner, now);
        winner.hear(&mut peer, now);
    }
    loser.say(&peer, b"x", now);
    peer.hear(&mut loser, now);
    let told = loser.hear(&mut peer, now);
    assert_eq!(told, [Frame::Namesake(winner.me.address).encode().unwrap()]);
    assert!(winner.hear(&mut loser, now).is_empty());
}

#[test]
fn a_datagram_under_the_own_name_is_another_agents_unless_it_was_sent_here() {
    let now = origin();
    let (mut one, mut other) = (end(2, 1, 1), end(2, 1, 2));
    one.channel.greet(other.me.address);
    let greeting = one.channel.poll_transmit().unwrap().1;
    let from = one.me.address;
    let hear = |end: &mut End| end.channel.receive(&greeting, from, &end.me.clone(), now, &mut end.stats);
    assert_eq!(hear(&mut other), Ok(Received::Namesake));
    assert_eq!(hear(&mut one), Err(RejectReason::OwnName), "its own, reflected");
}
