//! A few clusters wired together by hand.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sim::{address, config, origin};

fn nonces(seed: u8) -> Nonces {
    Nonces::seeded(StdRng::from_seed([seed; 32]))
}

#[test]
fn a_cluster_without_peers_shows_itself_and_greets_its_seeds() {
    let now = origin();
    let mut cluster = Cluster::new(config(1, 7), [1; 32], nonces(1), now);
    let view = cluster.poll_view().unwrap();
    assert_eq!(view.members.len(), 1);
    assert_eq!(cluster.poll_view(), None, "nothing has changed since");
    cluster.handle_timeout(now);
    let (to, datagram) = cluster.poll_transmit().unwrap();
    assert_eq!((to, datagram.len()), (address(0), 41 + 24 + 1 + 16));
}

#[test]
fn after_a_goodbye_nothing_is_taken_in() {
    let now = origin();
    let mut cluster = Cluster::new(config(1, 7), [1; 32], nonces(1), now);
    cluster.handle_command(Command::Leave, now);
    while cluster.poll_transmit().is_some() {}
    cluster.handle_datagram(&[0; 100], address(0), now);
    cluster.handle_timeout(now + Duration::from_secs(9));
    assert_eq!(cluster.poll_timeout(), None);
    assert_eq!(cluster.poll_transmit(), None);
}

#[test]
fn nothing_is_sent_to_an_earlier_life_of_this_node() {
    let now = origin();
    let mut cluster = Cluster::new(config(1, 7), [1; 32], nonces(1), now);
    cluster.swim.announce(config(1, 6).identity, now);
    assert_eq!(cluster.swim.poll_output(), None);
    cluster.swim.announce(config(2, 6).identity, now);
    assert!(matches!(cluster.swim.poll_output(), Some(Output::Packet(to, _)) if to.name == config(2, 6).identity.name));
}

/// Two that have met, and the time.
fn pair() -> ([Cluster; 2], Instant) {
    let mut now = origin();
    let mut pair = [0, 1].map(|index| Cluster::new(config(index, 7), [index as u8; 32], nonces(index as u8), now));
    for _ in 0..300 {
        now += Duration::from_millis(10);
        for from in [0, 1] {
            pair[from].handle_timeout(now);
            while let Some((_, datagram)) = pair[from].poll_transmit() {
                pair[1 - from].handle_datagram(&datagram, address(from), now);
            }
        }
    }
    (pair, now)
}

#[test]
fn a_node_that_jumps_to_another_generation_does_not_lose_its_claims() {
    let ([mut node, mut peer], now) = pair();
    let claims = BTreeMap::from([([10, 0, 0, 100].into(), Claim { epoch: 3, since_ms: 1, standby: 0 })]);
    node.handle_command(Command::SetClaims(claims.clone()), now);
    node.jump_above(99, now);
    node.settle(now);
    while let Some((_, datagram)) = node.poll_transmit() {
        peer.handle_datagram(&datagram, address(0), now);
        let view = peer.poll_view().unwrap_or_else(|| Arc::clone(peer.roster.shown()));
        assert_eq!(view.members[&node.identity().name].document.claims, claims);
    }
    assert_eq!(peer.roster.shown().members[&node.identity().name].generation, 100);
}

#[test]
fn a_peer_that_has_more_of_the_own_document_makes_a_node_jump() {
    let ([mut node, peer], now) = pair();
    let own = node.identity().generation;
    let digest = |node: &mut Cluster, generation, complete_to, now| {
        let owner = node.identity().id().to_be_bytes();
        let entries = vec![crate::digest::Entry { owner, generation, complete_to }];
        let page = crate::digest::Page { first: 0, last: u64::MAX, entries, answer: false, settled: true };
        node.handle_frame(Peer::from(peer.identity()), &Frame::Digest(page).encode().unwrap(), now);
        node.identity().generation
    };
    assert_eq!(digest(&mut node, own, 0, now), own, "its own");
    assert_eq!(digest(&mut node, own - 1, 900, now), own, "an earlier life");
    assert_eq!(digest(&mut node, own, 900, now), own + 1, "never written");
    assert_eq!(digest(&mut node, 50, 0, now), own + 1, "not twice in a row");
    assert_eq!(digest(&mut node, 50, 0, now + 2 * Duration::from_secs(1)), 51);
}

proptest! {
    #[test]
    fn arbitrary_datagrams_never_panic(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1400), 1..8)) {
        let now = origin();
        let mut cluster = Cluster::new(config(1, 7), [1; 32], nonces(1), now);
        for datagram in &datagrams {
            cluster.handle_datagram(datagram, address(0), now);
        }
        prop_assert_eq!(cluster.stats().rejected.values().sum::<u64>(), datagrams.len() as u64);
        prop_assert!(cluster.poll_transmit().is_none());
    }
}
