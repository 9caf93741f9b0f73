//! The testbed tests itself, without any agent: if these fail, no scenario can be believed.
#![expect(clippy::disallowed_methods, reason = "edge: measures real networks")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{
    longlived::{Fate, LongLived},
    netns::Netns,
    observe::{eventually, neighbour, throughout},
    pods::{Pod, Received, TCP_PORT, UDP_PORT, received},
    sniffer::{Kind, Sniffer},
    topology::Lan,
    traffic::{Load, Transport, ask},
};

const SECOND: Duration = Duration::from_secs(1);

fn start_pods(lan: &Lan) -> Result<Vec<Pod>> {
    let pods = lan.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    pods.map(|(node, host)| Pod::start(&host.name, &node.host.name, host)).collect()
}

#[test]
fn the_client_reaches_every_pod_and_is_seen_by_its_own_address() -> Result<()> {
    let start = Instant::now();
    let lan = Lan::new().nodes(3).client().pods(2).build()?;
    println!("three nodes, a client and six pods in {:?}", start.elapsed());
    let pods = start_pods(&lan)?;
    assert_eq!(pods.len(), 6);
    for pod in &pods {
        for (address, own) in pod.addresses.into_iter().zip(lan.client().addresses()) {
            for (transport, port) in [(Transport::Tcp, TCP_PORT), (Transport::Udp, UDP_PORT)] {
                let target = SocketAddr::new(address, port);
                let answer = lan.client().ns.run(|| ask(transport, target, "who are you", SECOND))?;
                assert_eq!((answer.pod.as_str(), answer.seen.ip()), (pod.name.as_str(), own), "{target}");
            }
        }
        let counts = pod.counts();
        assert_eq!((counts.connections, counts.lines, counts.datagrams), (2, 2, 2), "{}", pod.name);
        assert_eq!(counts.duplicates, 2, "the same text twice by each transport");
        assert_eq!(counts.clients, BTreeSet::from(lan.client().addresses()));
    }
    Ok(())
}

#[test]
fn pods_reach_pods_of_other_nodes_and_leave_the_cluster_masqueraded() -> Result<()> {
    let lan = Lan::new().nodes(2).client().pods(1).build()?;
    let pods = start_pods(&lan)?;
    let outside = Pod::start("outside", "c1", lan.client())?;
    for family in 0..2 {
        let from = &lan.nodes[0].pods[0];
        let inside = SocketAddr::new(pods[1].addresses[family], TCP_PORT);
        let answer = from.ns.run(|| ask(Transport::Tcp, inside, "x", SECOND))?;
        assert_eq!(answer.seen.ip(), from.addresses()[family], "pods see each other's addresses");
        let target = SocketAddr::new(outside.addresses[family], TCP_PORT);
        let answer = from.ns.run(|| ask(Transport::Tcp, target, "x", SECOND))?;
        assert_eq!(answer.seen.ip(), lan.nodes[0].host.addresses()[family], "outside sees the node");
    }
    Ok(())
}

#[test]
fn a_cut_host_hears_nothing_with_its_link_up_and_a_healed_one_everything() -> Result<()> {
    let lan = Lan::new().nodes(1).client().build()?;
    let node = Pod::start("n1-host", "n1", &lan.nodes[0].host)?;
    let target = SocketAddr::new(node.addresses[0], UDP_PORT);
    let reach = || lan.client().ns.run(|| ask(Transport::Udp, target, "x", Duration::from_millis(200)));
    let carrier = || carrier_of(&lan);
    reach()?;
    lan.cut("n1")?;
    assert!(reach().is_err(), "cut");
    assert!(carrier()?, "its link stays up");
    lan.heal("n1")?;
    reach()?;
    lan.link_down("n1")?;
    assert!(reach().is_err(), "down");
    assert!(!carrier()?, "it sees its carrier go");
    lan.heal("n1")?;
    eventually(SECOND, "a healed link carries again", || reach().map(drop))
}

fn carrier_of(lan: &Lan) -> Result<bool> {
    Ok(lan.nodes[0].host.ns.output("ip", &["link", "show", "eth0"], "")?.contains("LOWER_UP"))
}

#[test]
fn a_partition_separates_sets_and_a_one_way_block_only_one_way() -> Result<()> {
    let lan = Lan::new().nodes(3).client().build()?;
    let hosts: Vec<_> = lan.nodes.iter().map(|node| &node.host).collect();
    let pods = hosts.iter().map(|host| Pod::start(&host.name, &host.name, host)).collect::<Result<Vec<_>>>()?;
    let reaches = |from: usize, to: usize| {
        let target = SocketAddr::new(hosts[to].v6.into(), UDP_PORT);
        hosts[from].ns.run(|| ask(Transport::Udp, target, "x", Duration::from_millis(150))).is_ok()
    };
    assert!(reaches(0, 1) && reaches(1, 2));
    lan.partition(&[&["n1"], &["n2", "n3"]])?;
    assert!(!reaches(0, 1) && !reaches(2, 0), "across");
    assert!(reaches(1, 2), "within");
    lan.heal_all()?;
    assert!(reaches(0, 1));
    let before = pods[1].counts().datagrams;
    lan.block_one_way("n2", "n1")?;
    assert!(!reaches(0, 1), "the answer does not come back");
    assert_eq!(pods[1].counts().datagrams, before + 1, "but the question arrived");
    Ok(())
}

#[test]
fn loss_loses_about_what_it_says() -> Result<()> {
    let lan = Lan::new().nodes(1).client().build()?;
    let node = Pod::start("n1", "n1", &lan.nodes[0].host)?;
    lan.client().ns.run(|| ask(Transport::Udp, SocketAddr::new(node.addresses[0], UDP_PORT), "arp first", SECOND))?;
    lan.loss("n1", 20)?;
    let load = Load::new(Transport::Udp, SocketAddr::new(node.addresses[0], UDP_PORT)).per_second(1000);
    let meter = load.start(&lan.client().ns)?;
    meter.more_answers(600)?;
    let report = meter.stop()?;
    // There and back: 1 - 0.8 * 0.8 = 36 %; the bounds are five standard deviations away.
    let lost = report.lost as f64 / report.sent as f64;
    assert!((0.27..0.45).contains(&lost), "{report:?}");
    Ok(())
}

#[test]
fn the_meter_measures_a_known_gap_and_nothing_without_one() -> Result<()> {
    let lan = Lan::new().nodes(1).client().build()?;
    let node = Pod::start("n1", "n1", &lan.nodes[0].host)?;
    let load = Load::new(Transport::Udp, SocketAddr::new(node.addresses[0], UDP_PORT)).per_second(1000);
    let calm = load.start(&lan.client().ns)?;
    calm.more_answers(500)?;
    let report = calm.stop()?;
    assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    assert_eq!(report.lost_run, Duration::ZERO, "{report:?}");
    assert!(report.outage < Duration::from_millis(50), "{report:?}");
    assert_eq!(received(std::slice::from_ref(&node), report.run), Received { requests: report.sent, duplicates: 0 });

    let meter = load.start(&lan.client().ns)?;
    meter.more_answers(100)?;
    lan.cut("n1")?;
    let cut = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    let before = cut.elapsed();
    lan.heal("n1")?;
    meter.more_answers(100)?;
    let report = meter.stop()?;
    // The prober may have run late when the cut began or ended.
    assert!(report.outage + Duration::from_millis(100) >= before, "{report:?} but cut for {before:?}");
    // Healing takes three commands, on a machine that may be busy.
    assert!(report.outage < before + Duration::from_millis(250), "{report:?} but cut for {before:?}");
    assert!(report.lost > 30, "up to a request each millisecond: {report:?}");
    Ok(())
}

#[test]
fn the_meter_holds_its_rate_and_sees_no_outage_on_a_busy_machine() -> Result<()> {
    let lan = Lan::new().nodes(1).client().pods(2).build()?;
    let pods = start_pods(&lan)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let measured = || -> Result<()> {
            for family in 0..2 {
                let target = SocketAddr::new(pods[0].addresses[family], UDP_PORT);
                let start = Instant::now();
                let load = Load::new(Transport::Udp, target).per_second(1000).sources(64).start(&lan.client().ns)?;
                std::thread::sleep(2 * SECOND);
                let report = load.stop()?;
                let rate =
                    report.sent as f64 / start.elapsed().saturating_sub(Duration::from_millis(300)).as_secs_f64();
                println!("{rate:.0} requests/s, {report:?}");
                ensure!(rate > 900.0, "{rate} requests/s");
                ensure!(report.lost == 0 && report.outage < Duration::from_millis(50), "{report:?}");
                ensure!(received(&pods, report.run) == Received { requests: report.sent, duplicates: 0 });
            }
            Ok(())
        };
        let outcome = measured();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

#[test]
fn a_request_that_reaches_two_pods_or_one_twice_is_a_duplicate() -> Result<()> {
    let lan = Lan::new().nodes(1).client().pods(2).build()?;
    let pods = start_pods(&lan)?;
    let send = |pod: usize, transport: Transport, text: &str| {
        let port = if transport == Transport::Tcp { TCP_PORT } else { UDP_PORT };
        lan.client().ns.run(|| ask(transport, SocketAddr::new(pods[pod].addresses[0], port), text, SECOND))
    };
    for (pod, text) in [(0, "#1000000.0"), (0, "#1000000.1"), (0, "#1000000.1"), (1, "#1000000.0"), (1, "#1000001.7")] {
        send(pod, Transport::Udp, text)?;
    }
    send(1, Transport::Tcp, "#1000000.2")?;
    assert_eq!(received(&pods, 1_000_000), Received { requests: 3, duplicates: 2 });
    assert_eq!(received(&pods, 1_000_001), Received { requests: 1, duplicates: 0 });
    assert_eq!(pods[0].counts().duplicates, 1, "what a pod alone can know");
    Ok(())
}

#[test]
fn two_hundred_long_lived_connections_are_accounted_for() -> Result<()> {
    let lan = Lan::new().nodes(1).client().pods(1).build()?;
    let pods = start_pods(&lan)?;
    let connections = LongLived::open(&lan.client().ns, SocketAddr::new(pods[0].addresses[1], TCP_PORT), 200)?;
    eventually(10 * SECOND, "ten records each", || {
        ensure!(connections.records(&pods[0].name) > 2000);
        Ok(())
    })?;
    let ended = connections.finish()?;
    assert_eq!(ended.len(), 200);
    assert!(ended.iter().all(|end| end.fate == Fate::Survived && end.records > 5), "{ended:?}");
    Ok(())
}

#[test]
fn a_long_lived_connection_survives_a_short_cut_hangs_on_a_long_one_and_breaks_with_its_pod() -> Result<()> {
    let lan = Lan::new().nodes(1).client().pods(1).build()?;
    let pods = start_pods(&lan)?;
    let target = SocketAddr::new(pods[0].addresses[0], TCP_PORT);
    let open = |count| LongLived::open(&lan.client().ns, target, count);

    let connections = open(3)?;
    lan.cut("n1")?;
    std::thread::sleep(Duration::from_millis(100));
    lan.heal("n1")?;
    let before = connections.records(&pods[0].name);
    eventually(5 * SECOND, "records after the cut", || {
        ensure!(connections.records(&pods[0].name) > before + 30);
        Ok(())
    })?;
    for end in connections.finish()? {
        assert_eq!(end.fate, Fate::Survived);
        assert!(end.longest_pause > Duration::from_millis(80), "{end:?}");
    }

    let connections = open(1)?;
    pods[0].pause(true);
    // Until a record waits for its echo.
    let last = || connections.records(&pods[0].name);
    eventually(SECOND, "no more echoes", || {
        let before = last();
        throughout(Duration::from_millis(50), "silence", || {
            ensure!(last() == before);
            Ok(())
        })
    })?;
    assert_eq!(connections.finish()?[0].fate, Fate::Hung);
    pods[0].pause(false);

    let connections = open(1)?;
    drop(pods);
    eventually(SECOND, "the end is noticed", || {
        ensure!(connections.are_over());
        Ok(())
    })?;
    assert!(matches!(connections.finish()?[0].fate, Fate::Broken(_)));
    Ok(())
}

#[test]
fn the_sniffer_sees_who_sends_and_the_neighbour_table_agrees() -> Result<()> {
    let lan = Lan::new().nodes(1).client().build()?;
    let node = Pod::start("n1", "n1", &lan.nodes[0].host)?;
    let sniffer = Sniffer::start(&lan.client().ns, "eth0")?;
    for address in node.addresses {
        assert_eq!(neighbour(lan.client(), address)?, None);
        lan.client().ns.run(|| ask(Transport::Udp, SocketAddr::new(address, UDP_PORT), "x", SECOND))?;
        assert_eq!(neighbour(lan.client(), address)?, Some(lan.nodes[0].host.mac));
    }
    let (mac, client) = (lan.nodes[0].host.mac, lan.client());
    eventually(SECOND, "all frames", || {
        for (from, to) in node.addresses.into_iter().zip(client.addresses()) {
            let answer = |kind: &Kind| matches!(kind, Kind::Ip { source, destination, protocol: 17, .. } if (*source, *destination) == (from, to));
            ensure!(sniffer.count(|f| f.source == mac && f.destination == client.mac && answer(&f.kind)) == 1);
        }
        ensure!(
            sniffer.count(
                |f| matches!(f.kind, Kind::Arp { request: false, sender, .. } if sender == lan.nodes[0].host.v4)
            ) == 1
        );
        ensure!(sniffer.count(|f| f.kind == Kind::Advertisement(lan.nodes[0].host.v6)) >= 1);
        Ok(())
    })
}

#[test]
fn a_pod_can_be_unhealthy_deaf_or_paused() -> Result<()> {
    let lan = Lan::new().nodes(1).client().pods(1).build()?;
    let pods = start_pods(&lan)?;
    let target = SocketAddr::new(pods[0].addresses[1], TCP_PORT);
    let status = || lan.client().ns.run(|| e2e::http::get(target, "/healthz")).map(|response| response.status);
    let asks = || lan.client().ns.run(|| ask(Transport::Tcp, target, "x", Duration::from_millis(200))).map(drop);
    assert_eq!(status()?, 200);
    pods[0].fail_health(true);
    assert_eq!(status()?, 503);
    asks()?;
    pods[0].refuse_connections(true);
    eventually(SECOND, "refused", || {
        ensure!(asks().is_err());
        Ok(())
    })?;
    pods[0].refuse_connections(false);
    eventually(SECOND, "taken again", asks)?;
    pods[0].pause(true);
    eventually(SECOND, "silent", || {
        ensure!(asks().is_err());
        Ok(())
    })?;
    pods[0].pause(false);
    eventually(SECOND, "speaking again", asks)
}

#[test]
fn nothing_stays_behind_after_a_panic_or_a_kill() -> Result<()> {
    let name = std::thread::spawn(|| {
        let ns = Netns::new("panics").expect("root");
        let name = ns.name().to_owned();
        assert!(Path::new("/run/netns").join(&name).exists());
        std::panic::panic_any(name);
    });
    let name = *name.join().expect_err("it panics").downcast::<String>().expect("the name");
    assert!(!Path::new("/run/netns").join(name).exists());

    for signal in ["-INT", "-TERM"] {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "helper_that_waits_to_be_killed", "--ignored", "--nocapture"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let own = format!("cr{}-", child.id());
        let namespaces = || -> Result<usize> {
            let names = std::fs::read_dir("/run/netns")?.filter_map(|e| e.ok()?.file_name().into_string().ok());
            Ok(names.filter(|name| name.starts_with(&own)).count())
        };
        eventually(20 * SECOND, "the helper has built its network", || {
            ensure!(namespaces()? == 5);
            Ok(())
        })?;
        Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        assert!(!child.wait()?.success());
        assert_eq!(namespaces()?, 0, "after {signal}");
    }
    Ok(())
}

/// Not a test: `nothing_stays_behind_after_a_panic_or_a_kill` runs it in a process of its own and kills it.
#[test]
#[ignore = "run by another test"]
fn helper_that_waits_to_be_killed() -> Result<()> {
    let _lan = Lan::new().nodes(1).client().pods(2).build()?;
    std::thread::sleep(60 * SECOND);
    Ok(())
}

#[test]
fn addresses_follow_from_the_names() -> Result<()> {
    let lan = Lan::new().nodes(2).pods(1).build()?;
    let pod = lan.pods().last().expect("a pod");
    assert_eq!(
        (pod.name.as_str(), pod.addresses()),
        ("n2-p1", ["10.78.2.11".parse::<IpAddr>()?, "fd78:2::11".parse()?])
    );
    assert_eq!(lan.host("n2")?.mac.to_string(), "02:c7:00:00:00:02");
    assert!(lan.host("n3").is_err());
    assert!(lan.enter_hints().contains("ip netns exec cr"));
    Ok(())
}
