//! A few clusters wired together by hand.

use proptest::prelude::*;

use super::*;
use crate::sim::{address, config, origin};

#[test]
fn a_cluster_without_peers_shows_itself_and_greets_its_seeds() {
    let now = origin();
    let mut cluster = Cluster::new(config(1, 7), [1; 32], now);
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
    let mut cluster = Cluster::new(config(1, 7), [1; 32], now);
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
    let mut cluster = Cluster::new(config(1, 7), [1; 32], now);
    cluster.swim.announce(config(1, 6).identity, now);
    assert_eq!(cluster.swim.poll_output(), None);
    cluster.swim.announce(config(2, 6).identity, now);
    assert!(matches!(cluster.swim.poll_output(), Some(Output::Packet(to, _)) if to.name == config(2, 6).identity.name));
}

proptest! {
    #[test]
    fn arbitrary_datagrams_never_panic(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1400), 1..8)) {
        let now = origin();
        let mut cluster = Cluster::new(config(1, 7), [1; 32], now);
        for datagram in &datagrams {
            cluster.handle_datagram(datagram, address(0), now);
        }
        prop_assert_eq!(cluster.stats().rejected.values().sum::<u64>(), datagrams.len() as u64);
        prop_assert!(cluster.poll_transmit().is_none());
    }
}
