//! What must hold of every allocation, for random pools and services.

use std::net::Ipv4Addr;

use proptest::{collection, prelude::*};

use super::*;

fn name(text: &str) -> ServiceName {
    ServiceName { namespace: "default".to_owned(), name: text.to_owned() }
}

fn lone(text: &str) -> Tenant {
    Tenant { service: name(text), ports: BTreeSet::from([(Protocol::Tcp, 80)]), share: None, local_to: None }
}

fn pool(ranges: &[&str]) -> Pool {
    Pool { ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(), avoid_buggy: false }
}

fn allocator(ranges: &[&str]) -> Allocator {
    Allocator::new(BTreeMap::from([("lan".to_owned(), pool(ranges))]))
}

#[test]
fn ranges_are_read_and_mistakes_are_named() {
    for (text, first, last) in [
        ("10.0.0.0/30", "10.0.0.0", "10.0.0.3"),
        ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7 - 10.0.1.2", "10.0.0.7", "10.0.1.2"),
        ("fd00::/126", "fd00::", "fd00::3"),
    ] {
        let range: Range = text.parse().unwrap();
        assert_eq!((range.first.to_string(), range.last.to_string()), (first.to_owned(), last.to_owned()));
    }
    for (text, said) in [
        ("10.0.0.0", "is neither a prefix"),
        ("10.0.0.5/24", "did you mean 10.0.0.0/24, or the single address 10.0.0.5/32?"),
        ("10.0.0.5-fd00::1", "mixes IPv4 and IPv6"),
        ("10.0.0.5-10.0.0.4", "ends before it begins"),
        ("224.0.0.0/24", "cannot be a VIP"),
        ("::/0", "cannot be a VIP"),
    ] {
        let error = text.parse::<Range>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn a_64_bit_prefix_costs_no_more_than_a_small_one() {
    let mut allocator = allocator(&["fd00::/64", "fd01::/32"]);
    let addresses: BTreeSet<_> =
        (0..1000).map(|i| allocator.allocate(&lone(&format!("s{i}")), Family::V6, &["lan"]).unwrap()).collect();
    assert_eq!(addresses.len(), 1000);
    assert_eq!(allocator.usage()["lan"], PoolUsage { addresses: 2 << 64, used: 1000, full: None });
}

#[test]
fn an_exhausted_pool_is_named_with_its_counts() {
    let mut allocator = allocator(&["10.0.0.1-10.0.0.2"]);
    allocator.allocate(&lone("a"), Family::V4, &["lan"]).unwrap();
    allocator.allocate(&lone("b"), Family::V4, &["lan"]).unwrap();
    let error = allocator.allocate(&lone("c"), Family::V4, &["lan"]).unwrap_err().to_string();
    assert!(error.starts_with("no IPv4 address is left: pool lan has 2, 2 taken"), "{error}");
}

#[test]
fn a_range_added_at_the_end_moves_nobody() {
    let names: Vec<_> = (0..8).map(|i| format!("s{i}")).collect();
    let place = |ranges: &[&str]| {
        let mut allocator = allocator(ranges);
        let one = |name: &String| allocator.allocate(&lone(name), Family::V4, &["lan"]).unwrap();
        names.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(place(&["10.0.0.0/28"]), place(&["10.0.0.0/28", "10.0.1.0/24"]));
}

#[test]
fn services_share_an_address_by_key_if_their_ports_differ() {
    let mut allocator = allocator(&["10.0.0.0/24"]);
    let mut tenant = |name: &str, port: u16, share: &str| {
        let tenant =
            Tenant { ports: BTreeSet::from([(Protocol::Tcp, port)]), share: Some(share.to_owned()), ..lone(name) };
        allocator.allocate(&tenant, Family::V4, &["lan"]).unwrap()
    };
    let http = tenant("http", 80, "front");
    assert_eq!(tenant("https", 443, "front"), http);
    assert_ne!(tenant("other", 80, "front"), http);
    assert_ne!(tenant("stranger", 22, "back"), http);
}

proptest! {
    /// Never one address twice, never outside the pool, never a buggy one if told so; and full means full.
    #[test]
    fn every_address_is_given_once_and_from_the_pool(
        names in collection::btree_set("[a-z]{1,4}", 1..40),
        start in 0_u32..1000, size in 1_u32..40, avoid_buggy: bool,
    ) {
        let first = Ipv4Addr::from(0x0a00_0000 + start);
        let last = Ipv4Addr::from(0x0a00_0000 + start + size - 1);
        let mut pool = pool(&[&format!("{first}-{last}")]);
        pool.avoid_buggy = avoid_buggy;
        let capacity = usize::try_from(pool.size(Family::V4)).unwrap();
        let really = (start..start + size).filter(|n| !avoid_buggy || !matches!(n % 256, 0 | 255)).count();
        prop_assert_eq!(capacity, really);
        let mut allocator = Allocator::new(BTreeMap::from([("lan".to_owned(), pool.clone())]));
        let mut given = BTreeSet::new();
        for name in &names {
            match allocator.allocate(&lone(name), Family::V4, &["lan"]) {
                Ok(address) => {
                    prop_assert!(pool.offers(address));
                    prop_assert!(given.insert(address), "{} is given twice", address);
                }
                Err(error) => {
                    prop_assert_eq!(given.len(), capacity);
                    prop_assert!(error.to_string().contains("pool lan has"));
                }
            }
        }
        prop_assert_eq!(given.len(), capacity.min(names.len()));
    }

    /// A service that comes last moves nobody; one that comes anywhere moves only those it collides with.
    #[test]
    fn adding_a_service_moves_few(names in collection::btree_set("[a-z]{1,6}", 2..30), pick in 0_usize..30) {
        let place = |names: &[&String]| {
            let mut allocator = allocator(&["10.0.0.0/22"]);
            let one = |name: &&String| ((*name).clone(), allocator.allocate(&lone(name), Family::V4, &["lan"]).unwrap());
            names.iter().map(one).collect::<BTreeMap<_, _>>()
        };
        let all: Vec<_> = names.iter().collect();
        let left_out = all[pick % all.len()];
        let without: Vec<_> = all.iter().copied().filter(|name| *name != left_out).collect();
        let (before, after) = (place(&without), place(&all));
        let moved: Vec<_> = before.iter().filter(|(name, address)| after[*name] != **address).collect();
        if let Some((_, address)) = moved.first() {
            prop_assert_eq!(*address, &after[left_out], "the first one that moved made room for the new one");
        }
        prop_assert!(moved.len() <= 3, "{:?}", moved);
    }
}
