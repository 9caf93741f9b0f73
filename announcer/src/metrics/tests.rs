//! The registry walked whole, and samples of a snapshot.

use std::collections::BTreeSet;

use membership::MemberState;

use super::*;
use crate::{
    forward::{Connects, Conversation, Labels, Traffic},
    model::{Protocol, ServiceName},
};

fn web() -> ServiceName {
    ServiceName { namespace: "default".into(), name: "web".into() }
}

fn labels() -> Labels {
    Labels { service: web(), port: 80, protocol: Protocol::Tcp }
}

fn conversation() -> Conversation {
    Conversation {
        inbound: Traffic { packets: 5, bytes: 6, flows: 9 },
        outbound: Traffic { packets: 7, bytes: 8, flows: 0 },
        resets_by_clients: 17,
        resets_by_pods: 18,
        retransmits: 19,
    }
}

/// Two within 64 microseconds, one within 128, one longer than all bounds.
fn connects() -> Connects {
    let mut connects = Connects { sum: std::time::Duration::from_millis(5_500), ..Connects::default() };
    [connects.counts[0], connects.counts[1], connects.counts[17]] = [2, 1, 1];
    connects
}

fn full_snapshot() -> Snapshot {
    Snapshot {
        members: [(MemberState::Alive, 3), (MemberState::Down, 1)].into(),
        vips: vec![VipOwned { vip: [10, 77, 0, 100].into(), service: web(), owned: true }],
        backends: vec![BackendHealth { service: web(), backend: "[fd00::1]:8080".parse().unwrap(), healthy: false }],
        gossip: GossipCounts {
            sent: 1,
            received: 2,
            rejected: [("wrong_key", 3)].into(),
            name_conflicts: 15,
            ..GossipCounts::default()
        },
        announcements: [("garp", 4)].into(),
        forwarded: vec![ForwardCount {
            labels: labels(),
            conversation: conversation(),
            forwarded: Traffic { packets: 9, bytes: 10, flows: 0 },
            active: 3,
        }],
        pods: vec![PodCount {
            labels: labels(),
            backend: "[fd00::1]:8080".parse().unwrap(),
            conversation: conversation(),
            active: 2,
        }],
        connects: [(web(), connects()), (ServiceName { name: "idle".into(), ..web() }, Connects::default())].into(),
        flow_table: FlowTable { phases: [("established", 3), ("half_open", 1)].into(), room: 1024 },
        drops: [("ttl", 10)].into(),
        second_hops: 11,
        messages: [("echo_reply", 15)].into(),
        evictions: [("half_open", 16)].into(),
        shadow: ShadowCounts {
            states: [(("n2".parse().unwrap(), "eth0".into()), crate::shadow::State::Armed)].into(),
            packets: [("carried", 12)].into(),
            stand_downs: 13,
            floods: 14,
        },
        pools: vec![PoolAddresses { pool: "lan".into(), used: 2, free: u64::MAX }],
        source: SourceState { connected: true, problems: 2 },
        selftest: SelfTested { rounds: [("silent", 12)].into(), tested: 3, untested: 4, failing: 5 },
    }
}

/// An agent to which everything has happened once.
fn eventful() -> Metrics {
    let metrics = Metrics::new("0.1.0").unwrap();
    metrics.events.member_transition(MemberState::Suspect);
    metrics.events.vip_transition([10, 77, 0, 100].into(), "node-down");
    metrics.events.vip_conflict([10, 77, 0, 100].into());
    metrics.limits.hit("probes_in_flight");
    metrics.probes.observe("tcp", &crate::health::Answer::Success(String::new()), std::time::Duration::ZERO);
    metrics
}

/// A family as it is on the page.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    samples: Vec<&'a str>,
}

fn families(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.push(Family { name, help, kind: "", samples: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let family = families.last_mut().unwrap();
            family.kind = rest.strip_prefix(family.name).unwrap().trim();
        } else {
            let family = families.last_mut().unwrap();
            assert!(line.starts_with(family.name), "{line} is among the samples of {}", family.name);
            family.samples.push(line);
        }
    }
    families
}

#[test]
fn every_metric_follows_the_naming_rules() {
    let page = eventful().render(&full_snapshot()).unwrap();
    let mut names = BTreeSet::new();
    for Family { name, help, kind, samples } in families(&page) {
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        assert!(name.starts_with("crier_"), "{name} lacks the prefix");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(help.len() > 10 && !help.ends_with('.') && !help.contains('\\'), "help of {name}: {help:?}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}: counters and only they end in _total");
        assert_eq!(kind == "histogram", name.ends_with("_seconds"), "{name}: durations are histograms in seconds");
        assert!(!samples.is_empty(), "{name} has no sample");
        let distinct: BTreeSet<_> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(distinct.len(), samples.len(), "{name} has two samples of the same labels");
        for bad in ["millis", "_ms", "_us", "percent"] {
            assert!(!name.contains(bad), "{name} is not in a base unit");
        }
    }
    let promised = [
        "crier_announcements_total",
        "crier_backend_bytes_total",
        "crier_backend_flows_active",
        "crier_backend_flows_total",
        "crier_backend_healthy",
        "crier_backend_packets_total",
        "crier_build_info",
        "crier_connect_seconds",
        "crier_failure_detection_seconds",
        "crier_flow_evictions_total",
        "crier_flow_resets_total",
        "crier_flow_table_flows",
        "crier_flow_table_size",
        "crier_flows_active",
        "crier_flows_total",
        "crier_forward_bytes_total",
        "crier_forward_drops_total",
        "crier_forward_messages_total",
        "crier_forward_packets_total",
        "crier_gossip_name_conflicts_total",
        "crier_gossip_packets_total",
        "crier_gossip_rejected_total",
        "crier_limits_reached_total",
        "crier_member_transitions_total",
        "crier_members",
        "crier_pool_addresses",
        "crier_probe_duration_seconds",
        "crier_probe_results_total",
        "crier_second_hop_packets_total",
        "crier_shadow_floods_total",
        "crier_shadow_packets_total",
        "crier_shadow_stand_downs_total",
        "crier_shadow_state",
        "crier_source_connected",
        "crier_source_problems",
        "crier_syn_retransmits_total",
        "crier_vip_conflicts_total",
        "crier_vip_owned",
        "crier_vip_selftest_total",
        "crier_vip_selftest_vips",
        "crier_vip_transitions_total",
        "crier_watch_false_alarms_total",
        "crier_watch_holdups_total",
        "crier_watch_misrouted_total",
        "crier_watch_retractions_total",
        "crier_watch_signals_total",
        "crier_watch_suspicions_total",
    ];
    assert_eq!(names, promised.map(str::to_owned).into());
}

/// As documented, one row for each: the name, its labels, its meaning.
#[test]
fn every_metric_is_documented_with_its_labels_and_nothing_else_is() {
    let page = include_str!("../../../docs/metrics.md");
    let rows: std::collections::BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("| `crier_")?.split_once('`')).collect();
    let page = eventful().render(&full_snapshot()).unwrap();
    let families = families(&page);
    for Family { name, samples, .. } in &families {
        let row = rows.get(name.trim_start_matches("crier_")).unwrap_or_else(|| panic!("{name} has no row"));
        let labels = samples.iter().flat_map(|line| line.split(['{', ',', '}']).skip(1));
        for label in
            labels.filter_map(|text| text.split_once('=')).map(|(label, _)| label).filter(|label| *label != "le")
        {
            assert!(row.contains(&format!("`{label}`")), "the row of {name} lacks the label {label}");
        }
    }
    assert_eq!(rows.len(), families.len(), "rows of metrics that there are not: {rows:?}");
}

#[test]
fn the_text_has_the_promised_labels() {
    let text = eventful().render(&full_snapshot()).unwrap();
    for line in [
        r#"crier_build_info{version="0.1.0"} 1"#,
        r#"crier_members{state="alive"} 3"#,
        r#"crier_members{state="suspect"} 0"#,
        r#"crier_member_transitions_total{to="suspect"} 1"#,
        r#"crier_vip_owned{vip="10.77.0.100",namespace="default",service="web"} 1"#,
        r#"crier_vip_transitions_total{reason="node-down",vip="10.77.0.100"} 1"#,
        r#"crier_vip_conflicts_total{vip="10.77.0.100"} 1"#,
        r#"crier_announcements_total{kind="garp"} 4"#,
        r#"crier_gossip_packets_total{direction="rx"} 2"#,
        r#"crier_gossip_packets_total{direction="tx"} 1"#,
        r#"crier_gossip_rejected_total{reason="wrong_key"} 3"#,
        r#"crier_gossip_name_conflicts_total 15"#,
        r#"crier_failure_detection_seconds_bucket{le="0.01"} 0"#,
        r#"crier_failure_detection_seconds_count 0"#,
        r#"crier_watch_signals_total{kind="beat",direction="tx"} 0"#,
        r#"crier_backend_healthy{namespace="default",service="web",backend="[fd00::1]:8080"} 0"#,
        r#"crier_probe_results_total{result="success",type="tcp"} 1"#,
        r#"crier_probe_duration_seconds_count{type="tcp"} 1"#,
        r#"crier_forward_packets_total{namespace="default",service="web",port="80",protocol="TCP",direction="ingress"} 5"#,
        r#"crier_forward_bytes_total{namespace="default",service="web",port="80",protocol="TCP",direction="egress"} 8"#,
        r#"crier_flows_total{namespace="default",service="web",port="80",protocol="TCP"} 9"#,
        r#"crier_forward_packets_total{namespace="default",service="web",port="80",protocol="TCP",direction="forwarded"} 9"#,
        r#"crier_flows_active{namespace="default",service="web",port="80",protocol="TCP"} 3"#,
        r#"crier_flow_resets_total{namespace="default",service="web",port="80",protocol="TCP",by="client"} 17"#,
        r#"crier_flow_resets_total{namespace="default",service="web",port="80",protocol="TCP",by="pod"} 18"#,
        r#"crier_syn_retransmits_total{namespace="default",service="web",port="80",protocol="TCP"} 19"#,
        r#"crier_backend_packets_total{namespace="default",service="web",port="80",protocol="TCP",backend="[fd00::1]:8080",direction="ingress"} 5"#,
        r#"crier_backend_bytes_total{namespace="default",service="web",port="80",protocol="TCP",backend="[fd00::1]:8080",direction="egress"} 8"#,
        r#"crier_backend_flows_total{namespace="default",service="web",port="80",protocol="TCP",backend="[fd00::1]:8080"} 9"#,
        r#"crier_backend_flows_active{namespace="default",service="web",port="80",protocol="TCP",backend="[fd00::1]:8080"} 2"#,
        r#"crier_connect_seconds_bucket{namespace="default",service="web",le="0.000064"} 2"#,
        r#"crier_connect_seconds_bucket{namespace="default",service="web",le="0.000128"} 3"#,
        r#"crier_connect_seconds_bucket{namespace="default",service="web",le="4.194304"} 3"#,
        r#"crier_connect_seconds_bucket{namespace="default",service="web",le="+Inf"} 4"#,
        r#"crier_connect_seconds_sum{namespace="default",service="web"} 5.5"#,
        r#"crier_flow_table_flows{state="half_open"} 1"#,
        r#"crier_flow_table_size 1024"#,
        r#"crier_forward_drops_total{reason="ttl"} 10"#,
        r#"crier_second_hop_packets_total 11"#,
        r#"crier_forward_messages_total{kind="echo_reply"} 15"#,
        r#"crier_flow_evictions_total{state="half_open"} 16"#,
        r#"crier_shadow_state{owner="n2",interface="eth0",state="armed"} 1"#,
        r#"crier_shadow_state{owner="n2",interface="eth0",state="watching"} 0"#,
        r#"crier_shadow_packets_total{result="carried"} 12"#,
        r#"crier_shadow_stand_downs_total 13"#,
        r#"crier_shadow_floods_total 14"#,
        r#"crier_pool_addresses{pool="lan",state="used"} 2"#,
        r#"crier_pool_addresses{pool="lan",state="free"} 18446744073709551615"#,
        r#"crier_source_connected 1"#,
        r#"crier_source_problems 2"#,
        r#"crier_limits_reached_total{what="probes_in_flight"} 1"#,
        r#"crier_vip_selftest_total{result="silent"} 12"#,
        r#"crier_vip_selftest_vips{state="untested"} 4"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line}\n{text}");
    }
    assert!(!text.contains("service=\"idle\""), "a service to which nobody connected has no histogram");
}

#[test]
fn what_left_the_state_leaves_no_series() {
    let metrics = Metrics::new("0.1.0").unwrap();
    assert!(metrics.render(&full_snapshot()).unwrap().contains("crier_vip_owned{"));
    assert!(!metrics.render(&Snapshot::default()).unwrap().contains("crier_vip_owned{"));
}
