//! The announcer against real kernels and tools: hosts in network namespaces on one switch. Needs root.
//!
//! Host 0 is the client, hosts 1 and 2 run announcers.

#![expect(clippy::disallowed_methods, reason = "edge: waits for other machines' kernels")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod bed;

use std::time::Duration;

use announcer::{
    announce::{self, Conflict, StartError},
    link::{LinkError, Links},
};
use bed::{Bed, Owner, eventually, inside, mac, watch_once};

const VIP4: &str = "10.77.0.100";
const VIP6: &str = "fd77::100";
const CLIENT: u8 = 0;

fn resolved(bed: &Bed, vip: &str, owner: u8) {
    eventually(&format!("{vip} is at host {owner}"), || {
        bed.resolve(CLIENT, vip);
        bed.neighbour(CLIENT, vip).contains(&mac(owner))
    });
}

#[test]
fn a_clients_kernel_finds_the_owner() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    owner.set(&[VIP4, VIP6], 1);
    resolved(&bed, VIP4, 1);
    resolved(&bed, VIP6, 1);
    let counters = owner.announcer.counters();
    assert!(counters.arp_reply > 0 && counters.na > 0, "{counters:?}");
    assert!(counters.garp > 0 && counters.unsolicited_na > 0, "{counters:?}");
    assert_eq!((counters.malformed, counters.conflicts, counters.send_errors), (0, 0, 0), "{counters:?}");
}

#[test]
fn an_entry_confirmed_a_moment_ago_moves_to_the_new_owner() {
    let bed = Bed::new();
    let (old, new) = (Owner::new(&bed, 1), Owner::new(&bed, 2));
    old.set(&[VIP4, VIP6], 1);
    // Each frame sent after the entry's locktime would move it, so count what had been sent when it moved.
    for (vip, before_locktime) in [(VIP4, 6), (VIP6, 4)] {
        bed.sh(CLIENT, "ip neigh flush dev eth0");
        resolved(&bed, vip, 1);
        let sent = || new.announcer.counters().garp + new.announcer.counters().unsolicited_na;
        let before = sent();
        old.set(&[], 1);
        new.set(&[vip], 2);
        eventually("the entry moves", || bed.neighbour(CLIENT, vip).contains(&mac(2)));
        assert!(sent() - before <= before_locktime, "{vip} moved after {} frames only", sent() - before);
        new.set(&[], 2);
        old.set(&[VIP4, VIP6], 3);
    }
}

#[test]
fn unreachability_probes_are_answered() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    owner.set(&[VIP4, VIP6], 1);
    for vip in [VIP4, VIP6] {
        resolved(&bed, vip, 1);
        bed.sh(CLIENT, &format!("ip neigh replace {vip} lladdr {} nud probe dev eth0", mac(1)));
        eventually("the entry is reachable again", || bed.neighbour(CLIENT, vip).contains("REACHABLE"));
    }
}

#[test]
fn arping_and_ndisc6_get_answers() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    owner.set(&[VIP4, VIP6], 1);
    bed.sh(CLIENT, &format!("arping -c1 -i eth0 {VIP4}"));
    // Sender 0.0.0.0: the probe of RFC 5227.
    bed.sh(CLIENT, &format!("arping -0 -c1 -i eth0 {VIP4}"));
    let answer = bed.sh(CLIENT, &format!("ndisc6 -1 {VIP6} eth0"));
    assert!(answer.to_lowercase().contains(&mac(1)), "{answer}");
    owner.set(&[], 1);
    assert!(!bed.try_sh(CLIENT, &format!("arping -c1 -w1 -i eth0 {VIP4}")).status.success());
}

#[test]
fn a_host_that_wants_the_vip_for_itself_finds_it_taken() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    owner.set(&[VIP6], 1);
    eventually("the burst is over", || owner.announcer.counters().unsolicited_na >= 6);
    bed.sh(CLIENT, "sysctl -qw net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.eth0.accept_dad=1");
    bed.sh(CLIENT, &format!("ip addr add {VIP6}/64 dev eth0"));
    eventually("duplicate address detection fails", || {
        bed.sh(CLIENT, "ip -6 addr show dev eth0").contains("dadfailed")
    });
}

#[test]
fn a_second_owner_is_noticed_by_the_first() {
    let bed = Bed::new();
    let (mut first, second) = (Owner::new(&bed, 1), Owner::new(&bed, 2));
    let mut conflicts = first.announcer.conflicts();
    first.set(&[VIP4, VIP6], 1);
    eventually("the first announces", || first.announcer.counters().unsolicited_na > 0);
    for vip in [VIP4, VIP6] {
        second.set(&[vip], 2);
        let mut seen = None;
        eventually("a conflict is reported", || {
            seen = conflicts.try_recv().ok().filter(|conflict| conflict.vip.to_string() == vip);
            seen.is_some()
        });
        let other = [2, 0, 0, 0, 0x77, 2];
        assert_eq!(seen, Some(Conflict { vip: vip.parse().unwrap(), interface: "eth0".into(), mac: other }));
    }
    assert!(first.announcer.counters().conflicts >= 2);
}

#[test]
fn the_solicited_node_group_is_joined_and_left() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    let joined = || bed.sh(1, "ip maddr show dev eth0");
    owner.set(&[VIP6], 1);
    eventually("joined", || joined().contains("ff02::1:ff00:100") && joined().contains("33:33:ff:00:01:00"));
    owner.set(&[], 1);
    eventually("left", || !joined().contains("ff02::1:ff00:100"));
}

#[test]
fn more_groups_than_a_socket_holds_are_joined() {
    let bed = Bed::new();
    bed.try_sh(1, "sysctl -qw net.core.optmem_max=20480");
    let owner = Owner::new(&bed, 1);
    let vips: Vec<String> = (0..2500).map(|n| format!("fd77::1:{n:x}")).collect();
    owner.set(&vips.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    eventually("all joined", || bed.sh(1, "ip -6 maddr show dev eth0").matches("ff02::1:ff01:").count() == 2500);
    assert_eq!(owner.announcer.counters().group_errors, 0);
}

#[test]
fn vips_are_announced_again_when_the_cable_is_back_and_when_the_interface_is_another() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    let carrier = || owner.links.borrow().uplinks.get("eth0").map(|uplink| uplink.carrier);
    owner.set(&[VIP4, VIP6], 1);
    eventually("the burst is over", || owner.announcer.counters().garp >= 10);
    bed.sh("s", "ip link set port1 down");
    eventually("carrier is lost", || carrier() == Some(false));
    let before = owner.announcer.counters();
    bed.sh("s", "ip link set port1 up");
    eventually("announced again", || owner.announcer.counters().garp > before.garp);
    eventually("announced again", || owner.announcer.counters().unsolicited_na > before.unsolicited_na);
    resolved(&bed, VIP4, 1);

    bed.sh(1, "ip link del eth0");
    eventually("the uplink is gone", || carrier().is_none());
    let before = owner.announcer.counters();
    bed.plug(1);
    eventually("announced again", || owner.announcer.counters().garp > before.garp);
    bed.sh(CLIENT, "ip neigh flush dev eth0");
    resolved(&bed, VIP4, 1);
    resolved(&bed, VIP6, 1);
}

#[test]
fn a_changed_mac_is_announced() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    owner.set(&[VIP4], 1);
    resolved(&bed, VIP4, 1);
    bed.sh(1, &format!("ip link set eth0 address {}", mac(9)));
    eventually("the client has the new address", || bed.neighbour(CLIENT, VIP4).contains(&mac(9)));
}

#[test]
fn again_moves_the_entry_back() {
    let bed = Bed::new();
    let (first, second) = (Owner::new(&bed, 1), Owner::new(&bed, 2));
    first.set(&[VIP4], 1);
    resolved(&bed, VIP4, 1);
    second.set(&[VIP4], 2);
    eventually("the second has it", || bed.neighbour(CLIENT, VIP4).contains(&mac(2)));
    second.set(&[], 2);
    first.announcer.again(VIP4.parse().unwrap());
    eventually("the first has it again", || bed.neighbour(CLIENT, VIP4).contains(&mac(1)));
}

#[test]
fn uplinks_are_those_with_a_default_route_unless_named() {
    let bed = Bed::new();
    assert_eq!(watch_once(&bed, 1, None).unwrap(), Links::default());
    bed.sh(1, "ip route add default via 10.77.0.254");
    let links = watch_once(&bed, 1, None).unwrap();
    let uplink = &links.uplinks["eth0"];
    let prefixes: Vec<String> = uplink.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.77.0.2/24", "fd77::2/64"]);
    assert!(uplink.usable());
    assert_eq!(uplink.mac, [2, 0, 0, 0, 0x77, 1]);

    bed.sh(1, "ip route del default && ip -6 route add default via fd77::ff");
    assert!(watch_once(&bed, 1, None).unwrap().uplinks.contains_key("eth0"));
}

#[test]
fn a_missing_interface_is_an_error_only_if_none_is_there() {
    let bed = Bed::new();
    let error = watch_once(&bed, 1, Some(vec!["wan0".into(), "wan1".into()])).unwrap_err();
    assert!(matches!(error, LinkError::Missing(_)));
    assert!(error.to_string().contains("wan0, wan1"), "{error}");
    let links = watch_once(&bed, 1, Some(vec!["wan0".into(), "eth0".into()])).unwrap();
    assert_eq!(links.uplinks.keys().collect::<Vec<_>>(), ["eth0"]);
}

#[test]
fn address_changes_are_seen() {
    let bed = Bed::new();
    let owner = Owner::new(&bed, 1);
    let has = |net: &str| owner.links.borrow().uplinks["eth0"].prefixes.contains(&net.parse().unwrap());
    bed.sh(1, "ip addr add 10.78.0.1/16 dev eth0");
    eventually("the new address is seen", || has("10.78.0.1/16"));
    bed.sh(1, "ip addr del 10.78.0.1/16 dev eth0");
    eventually("its removal is seen", || !has("10.78.0.1/16"));
}

#[test]
fn without_the_capability_the_error_says_what_to_do() {
    let bed = Bed::new();
    let error = inside(&bed, 1, || {
        drop_capabilities();
        let (_sender, links) = tokio::sync::watch::channel(std::sync::Arc::new(Links::default()));
        announce::start(links, Duration::from_secs(60)).map(drop).unwrap_err()
    })
    .join()
    .unwrap();
    assert!(matches!(error, StartError::Permission(_)), "{error}");
    assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
}

/// Takes all capabilities from the calling thread.
fn drop_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 of the call reads a header of two and data of six 32-bit words, which outlive it.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0);
}
