//! The JSON of the status is a contract: a golden file.

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn vips() -> Vec<Vip> {
    vec![
        Vip {
            address: [10, 77, 0, 100].into(),
            namespace: "default".into(),
            service: "web".into(),
            owner: Some(node("n1")),
            standby: Some(node("n3")),
            epoch: 4,
            since: Some(at(3300) + Duration::from_millis(250)),
            reason: "highest rank after n2 went down".into(),
        },
        Vip {
            address: "fd00:77::100".parse().unwrap(),
            namespace: "default".into(),
            service: "web".into(),
            owner: None,
            standby: None,
            epoch: 0,
            since: None,
            reason: "no L2Advertisement covers it".into(),
        },
    ]
}

/// A status in which every field has a value that shows.
pub(crate) fn example() -> Status {
    let member = |name, last, state| Member {
        name: node(name),
        address: SocketAddr::new([10, 77, 0, last].into(), 9651),
        state,
        draining: false,
    };
    let backend = |last, on: &str, healthy, reason: &str| Backend {
        namespace: "default".into(),
        service: "web".into(),
        address: [10, 1, 0, last].into(),
        port: 8080,
        node: Some(node(on)),
        ready: true,
        healthy,
        reason: reason.into(),
    };
    Status {
        node: node("n1"),
        version: "0.1.0".into(),
        started: at(0),
        now: at(3600),
        ready: false,
        awaiting: vec!["forwarder: not attached to eth0 yet".into()],
        draining: false,
        members: vec![member("n1", 1, MemberState::Alive), member("n2", 2, MemberState::Down)],
        vips: vips(),
        backends: vec![
            backend(1, "n1", Some(true), "HTTP 200"),
            backend(2, "n2", Some(false), "connection refused"),
            backend(3, "n2", None, ""),
        ],
        source: Source {
            kind: "manifests".into(),
            path: Some("/etc/crier/manifests".into()),
            objects: 4,
            connected: true,
            problems: vec![Problem {
                file: Some("web.yaml:12".into()),
                object: Some("Service default/<b>shop</b>".into()),
                field: Some("spec.ports[0].port".into()),
                message: "99999 is not a port: choose 1 to 65535".into(),
            }],
        },
        forwarder: Forwarder {
            mode: "tc".into(),
            interfaces: vec!["eth0".into()],
            ways: [("eth0".into(), "tc: as configured".into())].into(),
        },
        selftest: SelfTest {
            tested: 1,
            untested: 0,
            problems: vec![VipProblem {
                address: [10, 77, 0, 101].into(),
                owner: node("n3"),
                result: "silent".into(),
                message: "its owner n3 does not answer for it on eth0".into(),
            }],
        },
        conflicts: vec![Conflict {
            vip: "10.77.0.100".parse().unwrap(),
            interface: "eth0".into(),
            mac: "02:00:00:00:00:66".into(),
            first: at(10),
            last: at(20),
            times: 3,
        }],
    }
}

#[test]
fn the_json_is_as_promised() {
    let golden = include_str!("../testdata/status.json");
    let json = serde_json::to_string_pretty(&example()).unwrap();
    assert_eq!(
        json.trim(),
        golden.trim(),
        "if the change is meant and only adds, update testdata/status.json:\n{json}"
    );
    assert_eq!(serde_json::from_str::<Status>(golden).unwrap(), example());
}

#[test]
fn a_newer_agents_fields_are_no_obstacle() {
    let mut json = serde_json::to_value(example()).unwrap();
    json["invented_later"] = 1.into();
    json["members"][0]["invented_later"] = 2.into();
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), example());
}

#[test]
fn a_problem_reads_from_the_file_to_the_field() {
    assert_eq!(
        example().source.problems[0].to_string(),
        "web.yaml:12: Service default/<b>shop</b>: spec.ports[0].port: 99999 is not a port: choose 1 to 65535"
    );
}
