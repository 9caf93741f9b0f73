//! Opening packets to one VIP, more than the table of flows has room for, and what another VIP's clients notice: nothing.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use announcer::model::Protocol;
use forwarder_ebpf::Eviction;

use crate::{
    Rig,
    frames::{self, V4, from_v4},
    lan::socket,
    rig::{connect, echo, serve, vip4, vip6},
};

/// Places in each node's table of flows: a newcomer's stays its own for as long as its first answer takes.
const FLOWS: u32 = 8_192;
/// Until they must all have been taken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames that are sent at once.
const VOLLEY: u32 = 256;

/// SYNs from everywhere to a VIP.
fn volley(number: u32, to: [u8; 6], vip: IpAddr) -> Vec<Vec<u8>> {
    let syn = |n: u32| {
        let hash = n.wrapping_mul(0x9e37_79b1);
        let payload = frames::tcp(1024 + (hash >> 20) as u16, 80, 2);
        let frame = V4 { to, vip: frames::as_v4(vip), protocol: 6, ttl: 64, fragment: 0, payload }.bytes();
        let [_, b, c, d] = hash.to_be_bytes();
        from_v4(frame, [198, 18 + b % 2, c, d])
    };
    (number * VOLLEY..(number + 1) * VOLLEY).map(syn).collect()
}

#[test]
fn while_opening_packets_flood_one_vip_another_ones_connections_begin_and_go_on_and_nothing_is_dropped() {
    let mut rig = Rig::new();
    let other: IpAddr = "10.77.0.101".parse().unwrap();
    for n in 0..2 {
        // Nobody has the pods' addresses, so nobody answers.
        serve(&mut rig.wanted[n], other, Protocol::Tcp, &[0, 1], &[socket([10, 77, 101 + n as u8, 99].into(), 8080)]);
        rig.agents[n].restart_with(&rig.lan.nodes[n], FLOWS);
        rig.agents[n].apply(&rig.lan.nodes[n], &rig.wanted[n].clone());
    }
    let mut streams: Vec<_> =
        [vip4(), vip6()].repeat(4).into_iter().map(|vip| connect(&rig.lan.client, socket(vip, 80)).0).collect();
    let (to, over) = (rig.lan.nodes[0].mac("eth0"), AtomicBool::new(false));
    thread::scope(|scope| {
        let end = Ending(&over);
        scope.spawn(|| {
            for number in 0.. {
                if over.load(Relaxed) {
                    return;
                }
                frames::send(&rig.lan.client, &volley(number, to, other));
            }
        });
        let pushed_out = |n: usize| rig.agents[n].counters().evictions[&Eviction::HalfOpen];
        // As long as the machine takes: so many cannot be made at once.
        let begun = Instant::now();
        while !(0..2).all(|n| pushed_out(n) > u64::from(FLOWS)) {
            assert!(begun.elapsed() < PATIENCE, "the tables are not full in time");
            thread::yield_now();
        }
        for _ in 0..100 {
            for vip in [vip4(), vip6()] {
                echo(&mut connect(&rig.lan.client, socket(vip, 80)).0, 1 << 10);
            }
        }
        streams.iter_mut().for_each(|stream| echo(stream, 1 << 16));
        drop(end);
    });
    for agent in &rig.agents {
        let counters = agent.counters();
        assert!(counters.drops.values().all(|&count| count == 0), "{:?}", counters.drops);
        assert_eq!(counters.evictions[&Eviction::Quiet], 0);
    }
}

/// Ends the flood, also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
