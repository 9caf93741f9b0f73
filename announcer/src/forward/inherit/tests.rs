//! Flows from one layout into another and back: none is lost, none leads elsewhere.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use forwarder_ebpf::{
    Address, Flow, Grant, Pod, TCP, UDP, mapped,
    table::{State, WAYS},
};
use proptest::prelude::*;

use super::{layout::tests_support::permuted, *};

const NOW: u32 = 1_000_000;
const PODS: usize = 64;
const POD_WORDS: usize = size_of::<Pod>() / 4;
const ESTABLISHED: u32 = State::FORWARD | State::REVERSE | State::TCP;

/// This agent's table in this process's memory.
struct Own {
    flows: Vec<AtomicU64>,
    states: Vec<AtomicU32>,
    pods: Vec<AtomicU32>,
}

impl Own {
    fn new(buckets: u32) -> Self {
        let places = (buckets * WAYS) as usize;
        let words = |count: usize| std::iter::repeat_with(AtomicU32::default).take(count).collect();
        let flows = std::iter::repeat_with(AtomicU64::default).take(places * 8).collect();
        Self { flows, states: words(places), pods: words(PODS * POD_WORDS) }
    }

    fn table(&self) -> Table<'_> {
        Table { flows: &self.flows, states: &self.states, pods: &self.pods }
    }

    /// All flows, with their pods in the place of their numbers.
    fn all(&self) -> Vec<(Flow, u32, Address)> {
        let flow = |place: usize| {
            let words = std::array::from_fn(|at| self.flows[place * 8 + at].load(Ordering::Relaxed));
            Flow::from_words(words)
        };
        let used = self.states.iter().enumerate().filter(|(_, word)| word.load(Ordering::Relaxed) != 0);
        let entry = |(place, word): (usize, &AtomicU32)| {
            let (flow, grant) = (flow(place), Grant::from_word(flow(place).grant));
            let flags = word.load(Ordering::Relaxed) & !(State::TAG | State::HEARD);
            let address = self.pod(usize::from(grant.pod));
            (Flow { grant: Grant { pod: 0, ..grant }.word(), ..flow }, flags, address)
        };
        let mut all: Vec<_> = used.map(entry).collect();
        all.sort_unstable_by_key(|(flow, flags, _)| (flow.client, flow.client_port, flow.vip, *flags));
        all
    }

    fn pod(&self, number: usize) -> Address {
        const ADDRESS: usize = core::mem::offset_of!(Pod, address) / 4;
        let bytes: Vec<u8> = (0..4)
            .flat_map(|at| self.pods[number * POD_WORDS + ADDRESS + at].load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.try_into().unwrap()
    }

    fn enter(&self, wanted: &[Wanted]) -> Vec<Entered> {
        let table = self.table();
        wanted.iter().map(|wanted| wanted.enter(table)).collect()
    }

    /// The same maps as another layout has them.
    fn as_legacy(&self, layout: &Layout, ways: u32) -> Legacy {
        let record = |name: &str, own: &[u8]| layout.written(name, own);
        let flow_bytes = layout.record(FLOW).unwrap().bytes.div_ceil(8) as usize * 8;
        let bytes = |words: &[AtomicU64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
        };
        let mut flows: Vec<u8> = Vec::new();
        for flow in bytes(&self.flows).chunks_exact(64) {
            let mut written = record(FLOW, flow);
            let grant = record(layout::GRANT, &flow[core::mem::offset_of!(Flow, grant)..][..8]);
            let at = layout.record(FLOW).unwrap().fields["grant"].0 as usize / 8;
            written[at..at + 8].copy_from_slice(&grant);
            written.resize(flow_bytes, 0);
            flows.extend(written);
        }
        let mut states: Vec<u8> = Vec::new();
        for bucket in self.states.chunks(ways as usize) {
            let words =
                bucket.iter().flat_map(|word| record(layout::STATE, &word.load(Ordering::Relaxed).to_le_bytes()));
            let end = states.len() + (ways as usize * 4).next_multiple_of(8);
            states.extend(words);
            states.resize(end, 0);
        }
        let mut pods: Vec<u8> = Vec::new();
        for pod in self.pods.chunks_exact(POD_WORDS) {
            let own: Vec<u8> = pod.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
            pods.extend(record(POD, &own));
            pods.resize(pods.len().next_multiple_of(8), 0);
        }
        let words = |bytes: Vec<u8>| {
            bytes.chunks_exact(8).map(|word| AtomicU64::new(u64::from_le_bytes(word.try_into().unwrap()))).collect()
        };
        Legacy { layout: layout.clone(), flows: words(flows), states: words(states), pods: words(pods) }
    }
}

/// A predecessor's maps.
struct Legacy {
    layout: Layout,
    flows: Vec<AtomicU64>,
    states: Vec<AtomicU64>,
    pods: Vec<AtomicU64>,
}

impl Legacy {
    fn heir<'a>(&'a self, own: &'a Own) -> Heir<'a> {
        let maps = Maps::new(&self.layout, &self.flows, &self.states, &self.pods).unwrap();
        Heir::new(&self.layout, maps, own.table()).unwrap()
    }
}

/// A flow that is to be there.
#[derive(Debug, Clone)]
struct Wanted {
    client: Address,
    port: u16,
    vip: u8,
    protocol: u8,
    pod: u8,
    known_by: u16,
    flags: u32,
    silent: u32,
}

impl Wanted {
    /// Every fourth pod is one whose connections are translated.
    fn pod(&self) -> Pod {
        let (way, own) =
            if self.pod % 4 == 3 { (Pod::TRANSLATED, mapped([10, 77, 0, 1])) } else { (Pod::DIRECT, [0; 16]) };
        let address = mapped([10, 88, 0, self.pod]);
        let seen = NOW - self.silent;
        Pod { address, port: [31, 144], way, own, seen, state: Pod::THERE, ..Pod::from_words([0; _]) }
    }

    fn enter(&self, table: Table<'_>) -> Entered {
        let pod = self.pod();
        let flow = Flow {
            client: self.client,
            vip: mapped([10, 77, 0, self.vip]),
            client_port: self.port.to_be_bytes(),
            port: 80_u16.to_be_bytes(),
            protocol: self.protocol,
            backend: u16::from(self.pod) + 1,
            tag: 0x0102_0304,
            counted: 7,
            seen: pod.seen,
            ..Flow::from_words([0; _])
        };
        let number = table.number(&pod, NOW).unwrap();
        let client_port = self.known_by.to_be_bytes();
        let grant = Grant { pod: number, client_port, guard: table::guard(&flow) }.word();
        table.enter(Flow { grant, ..flow }, &pod, self.flags, NOW)
    }

    fn tcp(port: u16) -> Self {
        let client = mapped([10, 77, 0, 9]);
        Self { client, port, vip: 100, protocol: TCP, pod: 1, known_by: port, flags: ESTABLISHED, silent: 0 }
    }
}

/// Of any kind, with an entry of its own for the way back where the pod knows the client by another port.
fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
    let one =
        (any::<[u8; 16]>(), 1024_u16.., 100_u8..104, any::<bool>(), 0_u8..8, any::<Option<u16>>(), 0_u32..8, 0_u32..50);
    let one = one.prop_map(|(client, port, vip, tcp, pod, known_by, closed, silent)| {
        let protocol = if tcp { TCP } else { UDP };
        let closed = [0, State::BY_CLIENT, State::BY_POD, State::HALF_OPEN].get(closed as usize).copied().unwrap_or(0);
        let flags = closed | if tcp { State::TCP } else { 0 };
        let known_by = known_by.unwrap_or(port);
        let entry = Wanted { client, port, vip, protocol, pod, known_by, flags: flags | State::FORWARD, silent };
        if known_by == port && pod % 4 != 3 {
            vec![Wanted { flags: flags | State::FORWARD | State::REVERSE, ..entry }]
        } else {
            vec![entry.clone(), Wanted { flags: flags | State::REVERSE, ..entry }]
        }
    });
    prop::collection::vec(one, 1..60).prop_map(|flows| flows.into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flows_that_go_to_another_layout_and_back_are_all_there_and_as_they_were(
        flows in wanted(), ways in 1_u32..40, seed: u64, buckets in 16_u32..40
    ) {
        let first = Own::new(32);
        first.enter(&flows);
        let before = first.all();
        let there = permuted(seed, ways);
        let second = Own::new(buckets);
        let legacy = first.as_legacy(&there, ways);
        let tally = legacy.heir(&second).pass(NOW);
        prop_assert_eq!((tally.taken as usize, tally.left_out), (before.len(), 0));
        prop_assert_eq!(second.all(), before.clone());
        let third = Own::new(32);
        let back = second.as_legacy(&Layout::own(), WAYS);
        back.heir(&third).pass(NOW);
        prop_assert_eq!(third.all(), before);
    }

    #[test]
    fn whatever_lies_in_a_predecessors_maps_nothing_panics_and_only_flows_are_entered(
        words in prop::collection::vec(any::<u64>(), 256), seed: u64, ways in 1_u32..9
    ) {
        let maps = |count: usize| words.iter().cycle().take(count).map(|word| AtomicU64::new(*word)).collect();
        let legacy = Legacy { layout: permuted(seed, ways), flows: maps(200), states: maps(33), pods: maps(64) };
        let own = Own::new(16);
        legacy.heir(&own).pass(NOW);
        prop_assert!(own.all().iter().all(|(_, flags, _)| flags & State::BUSY == 0));
    }
}

#[test]
fn a_second_pass_takes_what_has_come_since_and_brings_nothing_back() {
    let (first, second) = (Own::new(16), Own::new(16));
    first.enter(&(2000..2040).map(Wanted::tcp).collect::<Vec<_>>());
    let legacy = first.as_legacy(&Layout::own(), WAYS);
    let mut heir = legacy.heir(&second);
    assert_eq!(heir.pass(NOW).taken, 40);
    // Forgotten here since.
    second.states.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    first.enter(&[Wanted::tcp(3000)]);
    let newer = first.as_legacy(&Layout::own(), WAYS);
    for (to, from) in legacy.flows.iter().zip(&newer.flows).chain(legacy.states.iter().zip(&newer.states)) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    assert_eq!(heir.pass(NOW), Tally { taken: 1, ..Tally::default() });
    assert_eq!(second.all()[0].0.client_port, 3000_u16.to_be_bytes());
    assert_eq!(heir.pass(NOW), Tally::default());
}

#[test]
fn what_is_known_here_stays_as_it_is_and_who_has_the_replies_keeps_them() {
    let (first, second) = (Own::new(16), Own::new(16));
    first.enter(&[Wanted::tcp(2000), Wanted::tcp(2001)]);
    // The same connection, begun anew here, to another pod; and another connection that one pod takes for the same.
    let here = [Wanted { pod: 2, ..Wanted::tcp(2000) }, Wanted { vip: 101, ..Wanted::tcp(2001) }];
    second.enter(&here);
    let legacy = first.as_legacy(&Layout::own(), WAYS);
    assert_eq!(legacy.heir(&second).pass(NOW), Tally { taken: 1, known: 1, ..Tally::default() });
    let seen: Vec<_> = second.all().into_iter().map(|(flow, flags, pod)| (flow.vip[15], flags, pod[15])).collect();
    let forward = ESTABLISHED & !State::REVERSE;
    assert_eq!(seen, [(100, ESTABLISHED, 2), (100, forward, 1), (101, ESTABLISHED, 1)]);
}

#[test]
fn in_a_table_that_is_too_small_those_stay_whose_loss_would_cost_most() {
    let (first, second) = (Own::new(64), Own::new(8));
    let kinds =
        [ESTABLISHED, ESTABLISHED | State::HALF_OPEN, ESTABLISHED | State::CLOSED, State::FORWARD | State::REVERSE];
    let places = 8 * u16::try_from(WAYS).unwrap();
    let flows = (0..4 * places).map(|n| Wanted {
        flags: kinds[usize::from(n % 4)],
        protocol: if n % 4 == 3 { UDP } else { TCP },
        silent: if n % 4 == 2 { 10 } else { 0 },
        ..Wanted::tcp(2000 + n)
    });
    first.enter(&flows.collect::<Vec<_>>());
    let there = first.all().len();
    let legacy = first.as_legacy(&Layout::own(), WAYS);
    let tally = legacy.heir(&second).pass(NOW);
    let mut left: BTreeMap<u32, usize> = BTreeMap::new();
    second.all().iter().for_each(|(_, flags, _)| *left.entry(*flags).or_default() += 1);
    let [established, half_open, closed, _] = kinds.map(|kind| left.get(&kind).copied().unwrap_or_default());
    assert!(established > usize::from(places) * 8 / 10 && half_open + closed == 0, "{left:?}");
    assert_eq!(tally.left_out as usize + second.all().len(), there, "all are accounted for");
}

#[test]
fn flows_that_are_over_or_lead_nowhere_are_not_taken() {
    let (first, second) = (Own::new(16), Own::new(16));
    let closed = Wanted { flags: ESTABLISHED | State::CLOSED, silent: 100, ..Wanted::tcp(2000) };
    first.enter(&[closed, Wanted::tcp(2001)]);
    first.pods.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let legacy = first.as_legacy(&Layout::own(), WAYS);
    assert_eq!(legacy.heir(&second).pass(NOW), Tally { over: 2, ..Tally::default() });
    assert!(second.all().is_empty());
}

#[test]
fn a_description_without_what_flows_need_is_refused() {
    for (record, field) in [(FLOW, "client"), (layout::GRANT, "pod"), (layout::STATE, "busy"), (POD, "state")] {
        let layout = Layout::own().without(record, field);
        let empty: [AtomicU64; 0] = [];
        let maps = Maps::new(&layout, &empty, &empty, &empty).unwrap();
        let own = Own::new(1);
        let refused = Heir::new(&layout, maps, own.table()).unwrap_err();
        assert_eq!(refused, Unreadable::Lacks(format!("{record}.{field}")));
    }
}

#[test]
fn a_pod_has_one_number_for_each_address_it_is_translated_to() {
    let own = Own::new(1);
    let number = |pod: &Pod| own.table().number(pod, NOW).unwrap();
    let direct = Wanted { pod: 1, ..Wanted::tcp(1) }.pod();
    let translated = Pod { way: Pod::TRANSLATED, own: mapped([10, 77, 0, 1]), ..direct };
    let other = Pod { own: mapped([10, 77, 0, 2]), ..translated };
    let numbers = [&direct, &translated, &other].map(number);
    assert_eq!([&direct, &translated, &other].map(number), numbers);
    assert!((1..3).all(|at| !numbers[..at].contains(&numbers[at])), "{numbers:?}");
    assert_eq!(own.pod(usize::from(numbers[0])), direct.address);
}
