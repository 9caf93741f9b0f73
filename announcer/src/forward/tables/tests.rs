//! Tables: after each single map write no service is half there, and history is kept.

use std::collections::BTreeMap;

use forwarder_ebpf::{Bucket, NodeSlot, ROW_SLOTS, Row, ServiceEntry};
use proptest::prelude::*;

use super::*;
use crate::{
    forward::{
        maglev,
        wanted::{Node, Targets, Uplink as WantedUplink},
    },
    model::ServiceName,
};

mod accounts;
mod full;

/// The maps as the kernel would hold them, checked after every single write.
#[derive(Default)]
struct Kernel {
    rows: BTreeMap<u32, Row>,
    nodes: BTreeMap<u32, NodeEntry>,
    backends: BTreeMap<u32, BackendEntry>,
    entries: BTreeMap<u32, ServiceEntry>,
    directory: BTreeMap<u32, Bucket>,
    vips: BTreeSet<Address>,
    sources: BTreeSet<(u32, ipnet::IpNet)>,
    uplinks: Uplinks,
}

impl Kernel {
    fn carry_out(&mut self, plan: &Plan) {
        for write in &plan.writes {
            self.write(write);
            self.check(write);
        }
    }

    fn write(&mut self, write: &Write) {
        match write.clone() {
            Write::Row(index, row) => drop(self.rows.insert(index, *row)),
            Write::Node(place, entry) => drop(self.nodes.insert(place, entry)),
            Write::Backend(index, entry) => drop(self.backends.insert(index, entry)),
            Write::ResetCounters(_)
            | Write::OpenAccount { .. }
            | Write::ResumeAccount { .. }
            | Write::CloseAccount { .. } => {}
            Write::Source(set, net) => assert!(self.sources.insert((set, net))),
            Write::RemoveSource(set, net) => assert!(self.sources.remove(&(set, net))),
            Write::Service(place, entry) => drop(self.entries.insert(place, entry)),
            Write::Bucket(place, bucket) => drop(self.directory.insert(place, *bucket)),
            Write::Vip(address) => drop(self.vips.insert(address)),
            Write::RemoveVip(address) => assert!(self.vips.remove(&address)),
            Write::VipBits(..) => {}
            Write::Uplinks(uplinks) => self.uplinks = uplinks,
        }
    }

    fn services(&self) -> BTreeMap<ServiceKey, ServiceEntry> {
        let places = self.directory.values().flat_map(|bucket| bucket.places).filter(|place| place.entry != 0);
        places.map(|place| (place.key, self.entries[&(place.entry - 1)])).collect()
    }

    fn slots(&self, row: u32, slots: u32) -> impl Iterator<Item = u64> {
        (0..slots).map(move |slot| self.rows[&(row + slot / ROW_SLOTS)].slots[(slot % ROW_SLOTS) as usize])
    }

    /// Every slot of every service leads to a node that is there, and to a pod that is its own.
    fn check(&self, after: &Write) {
        for (key, service) in &self.services() {
            for slot in self.slots(service.node_row, service.node_slots).map(NodeSlot) {
                let current = slot.current();
                let entry = self.nodes.get(&(u32::from(current) * limits::UPLINKS)).copied().unwrap_or(NodeEntry::NONE);
                assert!(
                    current == 0 || entry.flags & NodeEntry::PRESENT != 0,
                    "{key:?} leads to no node after {after:?}"
                );
                assert!(current == 0 || !slot.before().contains(&current));
            }
            for index in self.slots(service.local_row, service.local_slots) {
                let pod = self.backends.get(&(index as u32)).copied().unwrap_or(BackendEntry::NONE);
                assert!(pod.flags & BackendEntry::USABLE != 0, "{key:?} leads to no pod after {after:?}");
                assert_eq!(pod.port, key.port, "{key:?} leads to a pod of another service after {after:?}");
            }
        }
    }

    /// A service's whole node table.
    fn node_slots(&self, socket: &Socket) -> Option<Vec<u64>> {
        let services = self.services();
        let service = services.get(&key(socket))?;
        Some(self.slots(service.node_row, service.node_slots).collect())
    }

    /// How many services have a node table.
    fn with_nodes(&self) -> usize {
        self.services().values().filter(|service| service.node_slots > 0).count()
    }

    fn shares(&self, socket: &Socket) -> BTreeMap<u64, usize> {
        let service = self.services()[&key(socket)];
        let mut shares = BTreeMap::new();
        for slot in self.slots(service.node_row, service.node_slots) {
            *shares.entry(slot).or_default() += 1;
        }
        shares
    }
}

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn socket(port: u16) -> Socket {
    Socket { vip: IpAddr::from([10, 77, 0, 100]), port, protocol: Protocol::Tcp }
}

/// Services by port: the nodes that serve, and the last bytes of this node's pods. A pod's port is its service's.
fn wanted(nodes: &[u8], services: &[(u16, Vec<u8>, Vec<u8>)]) -> Wanted {
    let service = ServiceName { namespace: "default".into(), name: "web".into() };
    let node = |n: &u8| (name(*n), Node { me: *n == 1, macs: [(7, [2, 0, 0, 0, 0, *n])].into() });
    let targets = |(port, serving, pods): &(u16, Vec<u8>, Vec<u8>)| {
        let labels = Labels { service: service.clone(), port: *port, protocol: Protocol::Tcp };
        let nodes = serving.iter().filter(|n| nodes.contains(n)).map(|n| (name(*n), 1)).collect();
        let local = pods.iter().map(|pod| ((IpAddr::from([10, 1, 1, *pod]), *port), 1)).collect();
        (
            socket(*port),
            Targets {
                labels,
                nodes,
                standby: BTreeMap::new(),
                local,
                translated: BTreeMap::new(),
                affinity: 0,
                sources: BTreeSet::new(),
            },
        )
    };
    Wanted {
        uplinks: [(7, WantedUplink { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1] })].into(),
        nodes: nodes.iter().map(node).collect(),
        vips: services.iter().map(|_| IpAddr::from([10, 77, 0, 100])).collect(),
        services: services.iter().map(targets).collect(),
    }
}

fn word(current: u32, before: u32, mine: bool) -> u64 {
    NodeSlot::new(number(current), [number(before), 0, 0], mine).0
}

#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let (mut tables, now) = (Tables::default(), start());
    let wanted = wanted(&[1, 2], &[(80, vec![1, 2], vec![2])]);
    assert!(!tables.plan(&wanted, now).writes.is_empty());
    assert_eq!(tables.plan(&wanted, now), Plan::default());
}

#[test]
fn a_vip_appears_after_its_services_and_goes_before_them() {
    let (mut tables, now) = (Tables::default(), start());
    let position = |plan: &Plan, wanted: fn(&Write) -> bool| plan.writes.iter().position(wanted).unwrap();
    let plan = tables.plan(&wanted(&[1], &[(80, vec![1], vec![2])]), now);
    assert!(position(&plan, |w| matches!(w, Write::Vip(_))) > position(&plan, |w| matches!(w, Write::Service(..))));
    assert!(matches!(plan.writes.last(), Some(Write::Uplinks(..))), "the uplink last of all: {plan:?}");
    let plan = tables.plan(&wanted(&[1], &[]), now);
    let removed = position(&plan, |w| matches!(w, Write::RemoveVip(_)));
    assert!(removed < position(&plan, |w| matches!(w, Write::Bucket(..))));
}

#[test]
fn when_a_node_dies_the_tables_of_this_nodes_pods_stay_where_they_are() {
    let mut bench = (Tables::default(), Kernel::default());
    let services = |nodes: &[u8]| wanted(nodes, &[(80, vec![1, 2, 3], vec![11, 12]), (81, vec![1, 2, 3], vec![13])]);
    let local = |kernel: &Kernel| [80, 81].map(|port| kernel.services()[&key(&socket(port))].local_row);
    bench.1.carry_out(&bench.0.plan(&services(&[1, 2, 3]), start()));
    let before = local(&bench.1);
    let plan = bench.0.plan(&services(&[1, 2]), start());
    bench.1.carry_out(&plan);
    let rows = plan.writes.iter().filter(|write| matches!(write, Write::Row(..))).count();
    let of_one_table = maglev::size(2).div_ceil(ROW_SLOTS) as usize;
    assert_eq!((rows, local(&bench.1)), (of_one_table, before), "and both services share one new table");
}

#[test]
fn a_table_that_services_share_is_given_back_with_the_last_of_them() {
    let mut tables = Tables::default();
    let mut plan = |services: &[(u16, Vec<u8>, Vec<u8>)]| {
        drop(tables.plan(&wanted(&[1, 2], services), start()));
        (tables.node_tables.users(), tables.next_wake().is_some())
    };
    let [first, second, without] = [(80, vec![1, 2], vec![]), (81, vec![1, 2], vec![]), (82, vec![], vec![])];
    assert_eq!(plan(&[without.clone(), first.clone(), second.clone()]), (vec![2], false));
    assert_eq!(plan(&[without.clone(), second]).0, [1]);
    assert_eq!(plan(&[without]), (vec![], true));
}

#[test]
fn a_nodes_own_pods_get_what_they_weigh_and_a_change_of_that_is_written() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    for shares in [[8, 8, 8], [1, 8, 24], [8, 8, 24]] {
        let mut wanted = wanted(&[1, 2], &[(80, vec![1, 2], vec![2, 3, 4])]);
        let targets = wanted.services.get_mut(&socket(80)).unwrap();
        targets.local.values_mut().zip(shares).for_each(|(share, wanted)| *share = wanted);
        kernel.carry_out(&tables.plan(&wanted, now));
        let service = kernel.services()[&key(&socket(80))];
        for ((ip, port), share) in wanted.services[&socket(80)].local.keys().zip(shares) {
            let pod = tables.backends.get(&(socket(80), *ip, *port, None)).unwrap();
            let slots = kernel.slots(service.local_row, service.local_slots).filter(|slot| *slot == u64::from(pod));
            let fair = f64::from(service.local_slots) * f64::from(share) / f64::from(shares.iter().sum::<u32>());
            assert!((slots.count() as f64 - fair).abs() <= 2.0, "{ip} of {shares:?}");
        }
    }
}

#[test]
fn services_that_come_one_after_another_share_the_table_that_is_there() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    let services =
        |ports: std::ops::RangeInclusive<u16>| ports.map(|port| (port, vec![2, 3], vec![])).collect::<Vec<_>>();
    let rows = |plan: &Plan| plan.writes.iter().filter(|write| matches!(write, Write::Row(..))).count();
    let mut written = Vec::new();
    for last in 80..=83 {
        let plan = tables.plan(&wanted(&[1, 2, 3], &services(80..=last)), now);
        written.push(rows(&plan));
        kernel.carry_out(&plan);
    }
    assert_eq!(written, [maglev::size(2).div_ceil(ROW_SLOTS) as usize, 0, 0, 0]);
    assert_eq!(tables.node_tables.users(), [4]);
    // All lose a node, and its number, once it may be another's, is forgotten in the one table they have.
    kernel.carry_out(&tables.plan(&wanted(&[1, 2], &services(80..=83)), now));
    let plan = tables.plan(&wanted(&[1, 2], &services(80..=83)), now + REST);
    assert_eq!(tables.node_tables.users(), [4]);
    kernel.carry_out(&plan);
    kernel.carry_out(&tables.plan(&wanted(&[1, 2], &services(80..=84)), now + REST));
    assert_eq!(tables.node_tables.users(), [5], "a newcomer has no history, and they have none any more");
}

#[test]
fn slots_that_moved_remember_a_living_node_and_forget_a_dead_one() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    kernel.carry_out(&tables.plan(&wanted(&[1, 2, 3], &[(80, vec![2], vec![])]), now));
    kernel.carry_out(&tables.plan(&wanted(&[1, 2, 3], &[(80, vec![3], vec![])]), now));
    let (two, three) = (tables.nodes.get(&name(2)).unwrap(), tables.nodes.get(&name(3)).unwrap());
    assert_eq!(kernel.shares(&socket(80)), [(word(three, two, false), 1021)].into());

    kernel.carry_out(&tables.plan(&wanted(&[1, 3], &[(80, vec![3], vec![])]), now));
    assert_eq!(kernel.nodes[&(two * limits::UPLINKS)], NodeEntry::NONE);
    kernel.carry_out(&tables.plan(&wanted(&[1, 3], &[(80, vec![3], vec![])]), now + REST));
    assert_eq!(kernel.shares(&socket(80)), [(word(three, 0, false), 1021)].into(), "before its number is another's");
}

#[test]
fn this_nodes_slots_have_an_alternate_until_its_number_may_be_anothers() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    let mut alone = wanted(&[1, 2], &[(80, vec![1], vec![2])]);
    alone.services.values_mut().for_each(|targets| targets.standby = [(name(2), 1)].into());
    kernel.carry_out(&tables.plan(&alone, now));
    let (one, two) = (tables.nodes.get(&name(1)).unwrap(), tables.nodes.get(&name(2)).unwrap());
    assert_eq!(kernel.shares(&socket(80)), [(word(one, two, true), 1021)].into());

    alone.nodes.remove(&name(2));
    kernel.carry_out(&tables.plan(&alone, now));
    kernel.carry_out(&tables.plan(&alone, now + REST));
    assert_eq!(kernel.shares(&socket(80)), [(word(one, 0, true), 1021)].into());
}

#[test]
fn a_slot_that_came_to_this_node_remembers_where_from_before_its_alternate() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    kernel.carry_out(&tables.plan(&wanted(&[1, 2, 3], &[(80, vec![3], vec![])]), now));
    let mut change = wanted(&[1, 2, 3], &[(80, vec![1], vec![2])]);
    change.services.values_mut().for_each(|targets| targets.standby = [(name(2), 1)].into());
    kernel.carry_out(&tables.plan(&change, now));
    let [one, two, three] = [1, 2, 3].map(|node| number(tables.nodes.get(&name(node)).unwrap()));
    assert_eq!(kernel.shares(&socket(80)), [(NodeSlot::new(one, [three, two, 0], true).0, 1021)].into());
}

#[test]
fn the_ranges_of_a_service_change_as_a_whole_and_go_with_it() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    for ranges in [&["10.0.0.0/8"][..], &["10.0.0.0/8", "fd00::/8"], &["192.0.2.1/32"], &[], &["0.0.0.0/0"]] {
        let mut wanted = wanted(&[1, 2], &[(80, vec![2], vec![])]);
        let ranges: BTreeSet<ipnet::IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        wanted.services.values_mut().for_each(|targets| targets.sources.clone_from(&ranges));
        kernel.carry_out(&tables.plan(&wanted, now));
        let set = kernel.services()[&key(&socket(80))].sources;
        assert_eq!(kernel.sources, ranges.iter().map(|net| (set, *net)).collect());
        assert_eq!(set == 0, ranges.is_empty());
    }
    kernel.carry_out(&tables.plan(&wanted(&[1, 2], &[]), now));
    assert!(kernel.sources.is_empty() && tables.sources == 0);
}

/// Not a check of time, which a busy machine would fail: prints it. Run with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn planning_a_thousand_services_from_nothing() {
    let services: Vec<_> = (1..=1000).map(|port| (port, vec![1, 2, 3], vec![2, 3])).collect();
    let wanted = wanted(&[1, 2, 3], &services);
    let (mut tables, now) = (Tables::default(), start());
    let plan = tables.plan(&wanted, now);
    println!("{} writes planned in {:?}", plan.writes.len(), now.elapsed());
    assert!(plan.limits.is_empty());
}

#[test]
fn what_does_not_fit_is_reported_and_what_is_there_stays() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    tables.rows = Rows::new(20, REST);
    kernel.carry_out(&tables.plan(&wanted(&[1, 2], &[(80, vec![1], vec![])]), now));
    let before = kernel.services();
    let changed = wanted(&[1, 2], &[(80, vec![2], vec![])]);
    let plan = tables.plan(&changed, now);
    assert_eq!(plan.limits, [(Limit::Rows, 1)].into());
    kernel.carry_out(&plan);
    assert_eq!(kernel.services(), before);
}

#[test]
fn rows_that_rest_are_used_again_when_their_rest_is_over() {
    let (mut tables, now) = (Tables::default(), start());
    // Two tables, and the row that is nobody's.
    tables.rows = Rows::new(33, REST);
    for (turn, node) in [1, 2].into_iter().enumerate() {
        let plan = tables.plan(&wanted(&[1, 2], &[(80, vec![node], vec![])]), now);
        assert!(plan.limits.is_empty(), "turn {turn}");
    }
    let third = wanted(&[1, 2], &[(80, vec![1], vec![])]);
    assert!(!tables.plan(&third, now).limits.is_empty());
    let later = tables.next_wake().unwrap();
    assert!(tables.plan(&third, later).limits.is_empty());
}

fn services() -> impl Strategy<Value = Vec<(u16, Vec<u8>, Vec<u8>)>> {
    let service = (prop::collection::vec(1_u8..6, 0..4), prop::collection::vec(2_u8..6, 0..3));
    prop::collection::btree_map(80_u16..84, service, 0..4)
        .prop_map(|map| map.into_iter().map(|(port, (nodes, pods))| (port, nodes, pods)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_write_of_any_change_leaves_a_service_half_there(
        changes in prop::collection::vec((prop::collection::btree_set(2_u8..6, 0..4), services(), 0_u64..20), 1..12)
    ) {
        let (mut tables, mut kernel, mut now) = (Tables::default(), Kernel::default(), start());
        for (peers, services, seconds) in changes {
            now += Duration::from_secs(seconds);
            let nodes: Vec<u8> = peers.into_iter().chain([1]).collect();
            let wanted = wanted(&nodes, &services);
            kernel.carry_out(&tables.plan(&wanted, now));
            prop_assert_eq!(kernel.services().len(), wanted.services.len());
            for (socket, targets) in &wanted.services {
                let slots = kernel.shares(socket);
                let nodes: BTreeSet<u32> = slots.keys().map(|slot| NodeSlot(*slot).current().into()).collect();
                let none = BTreeSet::from([0]);
                let nodes = if nodes == none { BTreeSet::new() } else { nodes };
                let expected = targets.nodes.keys().map(|name| tables.nodes.get(name).unwrap()).collect();
                prop_assert_eq!(nodes, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn services_that_share_tables_have_what_each_would_have_alone(
        changes in prop::collection::vec((prop::collection::btree_set(2_u8..6, 0..4), services(), 0_u64..20), 1..10)
    ) {
        let (mut tables, mut kernel, mut now) = (Tables::default(), Kernel::default(), start());
        let mut alone: BTreeMap<u16, (Tables, Kernel)> = BTreeMap::new();
        for (peers, services, seconds) in changes {
            now += Duration::from_secs(seconds);
            let nodes: Vec<u8> = peers.into_iter().chain([1]).collect();
            kernel.carry_out(&tables.plan(&wanted(&nodes, &services), now));
            for port in 80..84 {
                let (its, kernel_of_its) = alone.entry(port).or_default();
                let only: Vec<_> = services.iter().filter(|service| service.0 == port).cloned().collect();
                kernel_of_its.carry_out(&its.plan(&wanted(&nodes, &only), now));
                prop_assert_eq!(kernel.node_slots(&socket(port)), kernel_of_its.node_slots(&socket(port)));
            }
            prop_assert_eq!(tables.node_tables.users().iter().sum::<usize>(), kernel.with_nodes());
        }
    }
}

#[test]
fn slots_remember_three_nodes_in_the_order_in_which_they_had_them() {
    let (mut tables, mut kernel, now) = (Tables::default(), Kernel::default(), start());
    for serving in [vec![1, 2, 3, 4], vec![2], vec![3], vec![4], vec![1]] {
        kernel.carry_out(&tables.plan(&wanted(&[1, 2, 3, 4], &[(80, serving, vec![2])]), now));
    }
    let [one, two, three, four] = [1, 2, 3, 4].map(|node| number(tables.nodes.get(&name(node)).unwrap()));
    assert_eq!(kernel.shares(&socket(80)), [(NodeSlot::new(one, [four, three, two], true).0, 1021)].into());
}
