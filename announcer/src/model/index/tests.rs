//! Golden cases: a folder of manifests under `tests/manifests/` each, and in its `expected` what they come to and
//! every message. `CRIER_BLESS=1 cargo test` writes them anew; read the difference before it is committed.

use std::{fmt::Write, fs, path::Path};

use proptest::{collection, prelude::*};

use super::*;
use crate::{model::parse::parse_file, source::manifests::read_once};

/// A case as text: what is desired, then the problems.
fn render(folder: &Path) -> String {
    let snapshot = read_once(folder);
    let mut text = String::new();
    for (name, service) in &snapshot.desired.services {
        let _ = writeln!(text, "{name} {:?}", service.traffic_policy);
        for vip in &service.vips {
            let _ = writeln!(text, "  vip {}", vip.address);
            for one in &vip.advertise {
                let _ = writeln!(text, "    on {:?} {:?}", one.nodes, one.interfaces);
            }
        }
        for port in &service.ports {
            let _ = writeln!(text, "  port {:?} {:?} {} check {:?}", port.name, port.protocol, port.port, port.check);
            for pod in &port.backends {
                let node = pod.node.as_ref().map_or("-", |node| node.as_str());
                let ready = if pod.ready { " ready" } else { "" };
                let terminating = match (pod.terminating, pod.serving) {
                    (true, true) => " terminating, serving",
                    (true, false) => " terminating",
                    (false, _) => "",
                };
                let weight = if pod.weight == 1 { String::new() } else { format!(" weight {}", pod.weight) };
                let _ = writeln!(text, "    {} {} on {node}{ready}{terminating}{weight}", pod.address, pod.port);
            }
        }
    }
    for (name, usage) in &snapshot.pools {
        let _ = writeln!(text, "pool {name}: {} of {}", usage.used, usage.addresses);
    }
    for problem in &snapshot.problems {
        let _ = writeln!(text, "! {problem}");
    }
    text.replace(&format!("{}", folder.display()), "FOLDER")
}

#[test]
fn manifests_come_to_what_is_expected_and_every_mistake_gets_its_message() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()) {
        count += 1;
        let said = render(&case);
        let expected = case.join("expected");
        if std::env::var_os("CRIER_BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", case.display()));
        }
    }
    assert!(count >= 17, "only {count} cases were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn manifest(name: &str, extra: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]{extra}}}}}"
    )
}

const POOL: &str =
    "{apiVersion: crier.io/v1alpha1, kind: IPAddressPool, metadata: {name: p}, spec: {addresses: [10.0.0.0/24]}}";

#[test]
fn the_order_in_which_files_arrive_and_their_names_do_not_change_the_answer() {
    let services: Vec<_> = (0..40).map(|i| manifest(&format!("s{i}"), "")).collect();
    let build = |files: &[(&str, &[String])]| {
        let mut index = Index::default();
        for (file, manifests) in files {
            index.apply(file, parse_file(file, &manifests.join("\n---\n")).unwrap());
        }
        index.apply("pool", parse_file("pool", POOL).unwrap());
        index.resolve().desired
    };
    let one = build(&[("a", &services)]);
    assert_eq!(one.services.len(), 40);
    assert_eq!(one, build(&[("z", &services[..9]), ("b", &services[9..])]));
    let reversed: Vec<_> = services.iter().rev().cloned().collect();
    assert_eq!(one, build(&[("c", &reversed[30..]), ("d", &reversed[..30])]));
}

#[test]
fn a_version_that_conflicts_falls_back_to_the_last_good_one_and_a_newcomer_has_none() {
    let mut index = Index::default();
    index.apply("pool", parse_file("pool", POOL).unwrap());
    let put = |index: &mut Index, name: &str, ip: &str| {
        let text = manifest(name, &format!(", loadBalancerIP: {ip}"));
        index.apply(name, parse_file(name, &text).unwrap());
        let resolved = index.resolve();
        index.settle(&resolved);
        let vips = resolved.desired.services.values().map(|service| service.vips[0].address.to_string());
        (vips.collect::<Vec<_>>(), resolved.problems.iter().filter(|one| one.severity == Severity::Error).count())
    };
    assert_eq!(put(&mut index, "a", "10.0.0.1"), (vec!["10.0.0.1".to_owned()], 0));
    assert_eq!(put(&mut index, "b", "10.0.0.2"), (vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()], 0));
    assert_eq!(put(&mut index, "b", "10.0.0.1"), (vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()], 1));
    assert_eq!(put(&mut index, "c", "10.0.0.1"), (vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()], 2));
    assert_eq!(put(&mut index, "b", "10.0.0.3"), (vec!["10.0.0.1".to_owned(), "10.0.0.3".to_owned()], 1));
    index.delete("a");
    assert_eq!(index.resolve().desired.services.len(), 2, "c gets what a had");
    index.reset();
    assert_eq!(index.resolve().desired.services.len(), 0);
}

/// Applies a file, and says who has which addresses then, and every error.
fn put(index: &mut Index, file: &str, text: &str) -> (Vec<String>, Vec<String>) {
    index.apply(file, parse_file(file, text).unwrap());
    answer(index)
}

fn answer(index: &mut Index) -> (Vec<String>, Vec<String>) {
    let resolved = index.resolve();
    index.settle(&resolved);
    let line = |(name, service): (&ServiceName, &crate::model::Service)| {
        let vips: Vec<_> = service.vips.iter().map(|vip| vip.address.to_string()).collect();
        format!("{} {}", name.name, vips.join(" "))
    };
    let errors = resolved.problems.iter().filter(|one| one.severity == Severity::Error);
    (resolved.desired.services.iter().map(line).collect(), errors.map(ToString::to_string).collect())
}

fn with_pool() -> Index {
    let mut index = Index::default();
    index.apply("pool", parse_file("pool", POOL).unwrap());
    index
}

#[test]
fn who_is_served_at_an_address_keeps_it_and_the_newcomer_is_told() {
    let mut index = with_pool();
    put(&mut index, "web", &manifest("web", ", loadBalancerIP: 10.0.0.1"));
    // Older by name, and by the API's clock.
    for newcomer in [manifest("api", ", loadBalancerIP: 10.0.0.1"), {
        manifest("api", ", loadBalancerIP: 10.0.0.1")
            .replace("name: api", "name: api, creationTimestamp: '2020-01-01T00:00:00Z'")
    }] {
        let (served, errors) = put(&mut index, "api", &newcomer);
        assert_eq!(served, ["web 10.0.0.1"]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("Service default/api") && errors[0].contains("belongs to Service default/web"));
    }
    // Without an incumbent, age decides, then the name.
    let mut fresh = index.clone();
    fresh.incumbents = Incumbents::default();
    assert_eq!(answer(&mut fresh).0, ["api 10.0.0.1"]);
    // Who is gone keeps nothing.
    index.delete("web");
    assert_eq!(answer(&mut index).0, ["api 10.0.0.1"]);
    assert_eq!(put(&mut index, "web", &manifest("web", ", loadBalancerIP: 10.0.0.1")).0, ["api 10.0.0.1"]);
}

#[test]
fn a_pools_choice_that_is_served_is_not_taken_away_by_one_who_asks_for_it() {
    let mut index = with_pool();
    let (served, _) = put(&mut index, "web", &manifest("web", ""));
    let address = served[0].strip_prefix("web ").unwrap().to_owned();
    let (after, errors) = put(&mut index, "api", &manifest("api", &format!(", loadBalancerIP: {address}")));
    assert_eq!(after, served);
    assert!(errors[0].contains("belongs to Service default/web"), "{errors:?}");
}

#[test]
fn what_is_missing_from_a_file_with_a_mistake_stays_until_that_is_corrected() {
    let mut index = with_pool();
    let (a, b) = (manifest("a", ", loadBalancerIP: 10.0.0.1"), manifest("b", ", loadBalancerIP: 10.0.0.2"));
    let both = ["a 10.0.0.1", "b 10.0.0.2"];
    assert_eq!(put(&mut index, "f", &format!("{a}\n---\n{b}")).0, both);
    // Torn so that the rest is well-formed, twice; what only mistaken versions had does not pile up.
    let torn = a.replace("80", "0");
    assert_eq!(put(&mut index, "f", &torn).0, both);
    let c = manifest("c", ", loadBalancerIP: 10.0.0.3");
    assert_eq!(put(&mut index, "f", &format!("{torn}\n---\n{c}")).0.len(), 3);
    assert_eq!(put(&mut index, "f", &torn).0, both);
    let said: Vec<_> = index.resolve().problems.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|said| said.starts_with("f: warning: Service default/b is no longer in it")), "{said:?}");
    // Without a mistake, what is gone is gone.
    assert_eq!(put(&mut index, "f", &a).0, ["a 10.0.0.1"]);
    assert_eq!(index.count_without("pool"), 1);
}

#[test]
fn a_pool_that_is_too_small_for_all_serves_those_it_served() {
    let mut index = with_pool();
    put(&mut index, "pool", &POOL.replace("10.0.0.0/24", "10.0.0.8/31"));
    put(&mut index, "y", &manifest("y", ""));
    let (served, errors) = put(&mut index, "z", &manifest("z", ""));
    assert_eq!((served.len(), errors.len()), (2, 0));
    // First by name, and too much.
    let (after, errors) = put(&mut index, "a", &manifest("a", ""));
    assert_eq!(after, served);
    assert!(
        errors.len() == 1 && errors[0].contains("Service default/a: spec.ipFamilies: no IPv4 address is left"),
        "{errors:?}"
    );
    assert_eq!(answer(&mut index).0, served);
}

#[test]
fn a_status_speaks_for_a_service_where_no_memory_does() {
    let mut index = with_pool();
    let had = manifest("web", ", loadBalancerIP: 10.0.0.1");
    let had =
        format!("{}, status: {{loadBalancer: {{ingress: [{{ip: 10.0.0.1}}]}}}}}}", had.strip_suffix('}').unwrap());
    index.apply("api", parse_file("api", &manifest("api", ", loadBalancerIP: 10.0.0.1")).unwrap());
    assert_eq!(put(&mut index, "web", &had).0, ["web 10.0.0.1"]);
}

#[test]
fn who_shares_an_address_keeps_its_port_against_a_newcomer_and_against_a_change_of_the_other() {
    let mut index = with_pool();
    let share = |name: &str, port: u16, key: &str| {
        manifest(name, ", loadBalancerIP: 10.0.0.1").replace("port: 80", &format!("port: {port}")).replace(
            &format!("name: {name}"),
            &format!("name: {name}, annotations: {{crier.io/allow-shared-ip: {key}}}"),
        )
    };
    let both = ["x 10.0.0.1", "y 10.0.0.1"];
    put(&mut index, "x", &share("x", 80, "k"));
    assert_eq!(put(&mut index, "y", &share("y", 81, "k")).0, both);
    // A newcomer that is first by name wants a port that is taken, then another key.
    for newcomer in [share("a", 81, "k"), share("a", 82, "other")] {
        let (served, errors) = put(&mut index, "a", &newcomer);
        assert_eq!(served, both);
        assert!(errors.len() == 1 && errors[0].contains("Service default/a"), "{errors:?}");
    }
    assert_eq!(put(&mut index, "a", &share("a", 82, "k")).0.len(), 3);
    index.delete("a");
    // x, first by name, changes to the port of y: x keeps its last good version, y notices nothing.
    let (served, errors) = put(&mut index, "x", &share("x", 81, "k"));
    assert_eq!(served, both);
    assert!(
        errors.len() == 1 && errors[0].contains("Service default/x: spec.loadBalancerIP: 10.0.0.1 port 81/TCP"),
        "{errors:?}"
    );
    let resolved = index.resolve().desired;
    let ports: Vec<_> = resolved.services.values().map(|service| service.ports[0].port).collect();
    assert_eq!(ports, [80, 81]);
}

#[test]
fn falling_back_goes_on_until_nobody_is_pushed_out() {
    let mut index = with_pool();
    put(&mut index, "b", &manifest("b", ", loadBalancerIP: 10.0.0.1"));
    put(&mut index, "a", &manifest("a", ", loadBalancerIP: 10.0.0.2"));
    // b moves out of every pool, so it stays at .1; a, which moves to .1 at the same time, stays at .2.
    index.apply("b", parse_file("b", &manifest("b", ", loadBalancerIP: 10.9.9.9")).unwrap());
    let (served, errors) = put(&mut index, "a", &manifest("a", ", loadBalancerIP: 10.0.0.1"));
    assert_eq!(served, ["a 10.0.0.2", "b 10.0.0.1"]);
    assert_eq!(errors.len(), 2, "{errors:?}");
}

proptest! {
    /// Whatever single object is added, nobody who is served with a requested address loses it.
    #[test]
    fn a_newcomer_takes_nothing_from_who_is_served(
        wishes in collection::vec(("[a-f]", 0_u8..6, 1_u16..4, any::<bool>()), 1..12),
    ) {
        let mut index = with_pool();
        let mut seen: Vec<String> = Vec::new();
        let (mut before, mut asked): (Vec<String>, Vec<String>) = Default::default();
        for (name, last, port, shared) in wishes {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let ip = if last == 0 { String::new() } else { format!(", loadBalancerIP: 10.0.0.{last}") };
            let mut text = manifest(&name, &ip).replace("port: 80", &format!("port: {port}"));
            if shared {
                text = text.replace(&format!("name: {name}"), &format!("name: {name}, annotations: {{crier.io/allow-shared-ip: k}}"));
            }
            let (after, _) = put(&mut index, &name, &text);
            // Those that a pool chose for may make room for another choice.
            for line in before.iter().filter(|line| asked.contains(line)) {
                prop_assert!(after.contains(line), "{} was served; now {:?}", line, after);
            }
            prop_assert_eq!(&answer(&mut index).0, &after, "deciding again changes nothing");
            if last > 0 {
                asked.push(format!("{name} 10.0.0.{last}"));
            }
            before = after;
        }
    }

    /// Whatever a file holds, and whichever field a problem names, reading it ends without a panic.
    #[test]
    fn no_text_makes_the_parser_panic(
        tokens in collection::vec(prop_oneof![
            Just("apiVersion: v1\n"), Just("kind: Service\n"), Just("kind: List\n"), Just("metadata: {name: a}\n"),
            Just("items:\n"), Just("- "), Just("  "), Just("---\n"), Just("&a "), Just("*a "), Just("!x "), Just("{"),
            Just("}"), Just("[1, "), Just("]"), Just("spec:\n"), Just("  ports: [{port: 80}]\n"), Just("\t"),
            Just("\""), Just("\n"), Just("? "), Just("<<: "), Just("\u{0}"), Just("\u{e9}"), Just("|\n"),
        ], 0..30),
        field in "[a-z.\\[\\]0-9é]{0,12}", json: bool,
    ) {
        let text = tokens.concat();
        let name = if json { "x.json" } else { "x.yaml" };
        if let Ok(documents) = parse_file(name, &text) {
            let mut index = Index::default();
            for problem in documents.iter().flat_map(|document| &document.problems) {
                let _ = crate::model::parse::line_of(&text, problem.origin.as_ref().unwrap(), &problem.field);
            }
            index.apply(name, documents);
            let resolved = index.resolve();
            index.settle(&resolved);
        }
        let origin = Origin { file: name.to_owned(), document: 1, item: None };
        let _ = crate::model::parse::line_of(&text, &origin, &field);
    }
}
