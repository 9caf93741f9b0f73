//! A node that cannot serve a VIP's segment any more says so itself, at once, and is not taken for dead; when the
//! segment is back, it is announced there again.
#![expect(clippy::disallowed_methods, reason = "edge: measures real networks")]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    manifests::{service, web},
    observe::eventually,
    scenario::{Cluster, ClusterBuilder, DNS, SETTLE, WEB},
    sniffer::{Kind, Sniffer},
    traffic::{Load, Report, Transport},
};

/// Far above what it takes: this tells "handed over" from "found dead", which takes SWIM seconds.
const AT_MOST: Duration = Duration::from_secs(1);

/// Gossip goes by eth1, VIPs are on eth0: nothing that happens to eth0 makes a node look dead.
fn cluster(name: &str) -> ClusterBuilder {
    Cluster::three(name).nothing_moves_by_itself().service(web().tcp(WEB).udp(DNS).dual_stack()).backbone()
}

/// Whether the frame announces `vip` unasked.
fn announces(kind: &Kind, vip: IpAddr) -> bool {
    match kind {
        Kind::Arp { sender, target, .. } => *sender == vip && *target == vip,
        Kind::Advertisement(target) => *target == vip,
        _ => false,
    }
}

/// The new owner took the VIP over from a node that it knew to be alive.
fn was_handed_over(cluster: &Cluster, vip: IpAddr, new: &str) -> Result<()> {
    let status = cluster.agent(new)?.status()?;
    let entry = status.vips.iter().find(|entry| entry.address == vip).context("the VIP is not in the status")?;
    ensure!(entry.reason == "handover", "{new} took {vip} over for another reason: {entry:?}");
    Ok(())
}

/// Does `fault` to the owner of `vip` under load and waits until it is served by another: old and new owner.
fn hands_over(
    cluster: &Cluster,
    vip: IpAddr,
    fault: impl FnOnce(&Cluster, &str) -> Result<()>,
) -> Result<(String, String, Report)> {
    let old = cluster.owner(vip)?;
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    let load = cluster.udp_load(vip).sources(64).start(&cluster.client().ns)?;
    load.more_answers(200)?;
    let at = Instant::now();
    fault(cluster, &old)?;
    let new = cluster.new_owner(vip, &old)?;
    let mac = cluster.lan.host(&new)?.mac;
    cluster.client_sends_to(vip, &new)?;
    load.more_answers(200)?;
    let report = load.stop()?;
    let first = sniffer.frames().into_iter().find(|f| f.at >= at && f.source == mac && announces(&f.kind, vip));
    let after = first.map(|frame| frame.at.duration_since(at));
    println!("{vip}: {old} -> {new}: announced {after:?} after the fault began; {report:?}");
    was_handed_over(cluster, vip, &new)?;
    Ok((old, new, report))
}

#[test]
fn an_owner_that_loses_the_vips_segment_hands_over_while_gossip_goes_on() -> Result<()> {
    let cluster = cluster("segment-lost").start()?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let (old, new, report) = hands_over(&cluster, vip, |cluster, owner| cluster.lan.link_down(owner))?;
        assert!(report.outage < AT_MOST, "{report:?}");
        cluster.lan.heal(&old)?;
        cluster.settle()?;
        assert_eq!(cluster.owner(vip)?, new, "it does not take the VIP back");
    }
    Ok(())
}

#[test]
fn an_owner_whose_address_is_removed_hands_that_familys_vip_over() -> Result<()> {
    let cluster = cluster("address-removed").start()?;
    let (v4, v6) = (cluster.vip4(), cluster.vip6());
    let owner6 = cluster.owner(v6)?;
    let remove = |cluster: &Cluster, owner: &str| {
        let host = cluster.lan.host(owner)?;
        host.ns.ip(&[format!("addr del {}/24 dev eth0", host.v4)])
    };
    let (old, _, report) = hands_over(&cluster, v4, remove)?;
    assert!(report.outage < AT_MOST, "{report:?}");
    assert_eq!(cluster.owner(v6)?, owner6, "the other family's VIP has no reason to move");
    let pods = cluster.ask_many(Transport::Udp, SocketAddr::new(v4, DNS), 200)?;
    assert!(!cluster.by_node(&pods).contains_key(&old), "{old} cannot answer IPv4 clients: {pods:?}");
    let host = cluster.lan.host(&old)?;
    host.ns.ip(&[format!("addr add {}/24 dev eth0", host.v4)])?;
    // Where there is no other node, it comes back.
    for node in cluster.running().into_iter().filter(|node| *node != old) {
        let host = cluster.lan.host(node)?;
        host.ns.ip(&[format!("addr del {}/24 dev eth0", host.v4)])?;
    }
    eventually(SETTLE, "the first owner has the VIP again", || {
        ensure!(cluster.agreed_owner(v4, &cluster.running())? == old);
        Ok(())
    })?;
    cluster.client_sends_to(v4, &old)
}

#[test]
fn a_node_keeps_the_vips_of_the_segment_that_is_left() -> Result<()> {
    const POOL: &str = "\
apiVersion: crier.io/v1alpha1
kind: IPAddressPool
metadata: {name: backbone, namespace: default}
spec:
  addresses: [10.79.0.100-10.79.0.119]
---
apiVersion: crier.io/v1alpha1
kind: L2Advertisement
metadata: {name: backbone, namespace: default}
spec:
  ipAddressPools: [backbone]
";
    // Nine VIPs on three nodes are three each, so whoever owns both of the first segment has one of the other.
    let others: Vec<String> = (100..107).map(|host| format!("10.79.0.{host}")).collect();
    let mut builder = cluster("segment-left").interfaces(&["eth0", "eth1"]);
    for (index, vip) in others.iter().enumerate() {
        builder = builder.service(service(&format!("back{index}")).tcp(WEB).udp(DNS).at(&[vip]));
    }
    let cluster = builder.build()?;
    cluster.manifests.write("backbone.yaml", POOL)?;
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    cluster.settle()?;

    let (front, old) = (cluster.vip4(), cluster.owner(cluster.vip4())?);
    let owners = || others.iter().map(|vip| cluster.owner(vip.parse()?)).collect::<Result<Vec<_>>>();
    let before = owners()?;
    let kept = before.iter().position(|owner| *owner == old);
    let kept: IpAddr = others[kept.context("the VIPs are not spread evenly")?].parse()?;
    let load = Load::new(Transport::Udp, SocketAddr::new(kept, DNS)).per_second(1000).start(&cluster.client().ns)?;
    hands_over(&cluster, front, |cluster, owner| cluster.lan.link_down(owner))?;
    let pods = cluster.ask_many(Transport::Udp, SocketAddr::new(front, DNS), 200)?;
    assert!(!cluster.by_node(&pods).contains_key(&old), "{old} is not on the segment: {pods:?}");
    let report = load.stop()?;
    assert_eq!(owners()?, before, "VIPs of the segment that is left stay where they are");
    assert_eq!(report.lost, 0, "{report:?}");
    Ok(())
}

/// Puts each node's eth0 into a bridge br0, beside the tap of a virtual machine that keeps the bridge's carrier. The
/// testbed's cards are veths, which a host's bridge takes for containers; a macvlan on top is taken for a card.
fn bridged(builder: ClusterBuilder) -> Result<Cluster> {
    let cluster = builder.interfaces(&["br0"]).build()?;
    for node in &cluster.lan.nodes {
        let host = &node.host;
        host.ns.ip(&[
            format!("link add br0 address {} type bridge forward_delay 0 mcast_snooping 0", host.mac),
            "addr flush dev eth0".to_owned(),
            format!("link add card link eth0 address 02:c7:00:03:00:{:02x} type macvlan mode passthru", host.mac.0[5]),
            "link set card master br0 up".to_owned(),
            "link add tap0 type veth peer name vm0".to_owned(),
            "link set tap0 master br0 up".to_owned(),
            "link set vm0 up".to_owned(),
            format!("addr add {}/24 dev br0", host.v4),
            format!("addr add {}/64 dev br0 nodad", host.v6),
            "link set br0 up".to_owned(),
        ])?;
        let _ = host.ns.sysctl(&[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")]);
        for other in cluster.lan.nodes.iter().filter(|other| other.host.name != host.name) {
            let number = other.host.v4.octets()[3];
            host.ns.ip(&[
                format!("route replace 10.78.{number}.0/24 via {}", other.host.v4),
                format!("route replace fd78:{number}::/64 via {}", other.host.v6),
            ])?;
        }
    }
    cluster.agents.iter().try_for_each(e2e::agent::Agent::start)?;
    cluster.settle()?;
    Ok(cluster)
}

#[test]
fn a_bridge_whose_card_has_lost_its_link_hands_over_though_its_carrier_stays() -> Result<()> {
    let cluster = bridged(cluster("bridge-card"))?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let (old, new, report) = hands_over(&cluster, vip, |cluster, owner| cluster.lan.link_down(owner))?;
        let host = cluster.lan.host(&old)?;
        let state = host.ns.output("ip", &["-o", "link", "show", "br0"], "")?;
        assert!(state.contains("LOWER_UP"), "the virtual machine keeps the bridge's carrier: {state}");
        assert!(report.outage < AT_MOST, "{report:?}");
        cluster.lan.heal(&old)?;
        cluster.settle()?;
        assert_eq!(cluster.owner(vip)?, new);
    }
    Ok(())
}

#[test]
fn a_bridge_port_that_does_not_forward_is_a_dead_one() -> Result<()> {
    let cluster = bridged(cluster("bridge-blocked"))?;
    let block = |cluster: &Cluster, owner: &str| {
        let ns = &cluster.lan.host(owner)?.ns;
        // Disabled: without spanning tree the kernel puts a blocked port right again.
        ns.output("bridge", &["link", "set", "dev", "card", "state", "0"], "").map(drop)
    };
    let (_, _, report) = hands_over(&cluster, cluster.vip4(), block)?;
    assert!(report.outage < AT_MOST, "{report:?}");
    Ok(())
}

#[test]
fn an_interface_that_returns_is_announced_again() -> Result<()> {
    let cluster = Cluster::of("return-announces", 1).service(web().tcp(WEB).udp(DNS).dual_stack()).backbone();
    // With a second uplink the node is never deaf: the VIPs stay its own, and the link alone makes it announce.
    let cluster = cluster.interfaces(&["eth0", "eth1"]).start()?;
    let sniffer = Sniffer::start(&cluster.client().ns, "eth0")?;
    cluster.lan.link_down("n1")?;
    eventually(SETTLE, "the agent has seen it", || {
        ensure!(cluster.agent("n1")?.log().contains("uplink changed"));
        Ok(())
    })?;
    sniffer.clear();
    let at = Instant::now();
    cluster.lan.heal("n1")?;
    for vip in [cluster.vip4(), cluster.vip6()] {
        let of_vip = || sniffer.frames().into_iter().filter(|frame| announces(&frame.kind, vip)).collect::<Vec<_>>();
        eventually(SETTLE, "a burst of announcements", || {
            ensure!(of_vip().len() >= 3);
            Ok(())
        })?;
        println!("{vip}: announced {:?} after the link's return", of_vip()[0].at.duration_since(at));
        eventually(SETTLE, "it is served again", || cluster.get(vip).map(drop))?;
    }
    Ok(())
}
