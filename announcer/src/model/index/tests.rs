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
                let terminating = if pod.terminating { " terminating" } else { "" };
                let _ = writeln!(text, "    {} {} on {node}{ready}{terminating}", pod.address, pod.port);
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
        index.settle(&resolved.problems);
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

proptest! {
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
            index.settle(&resolved.problems);
        }
        let origin = Origin { file: name.to_owned(), document: 1, item: None };
        let _ = crate::model::parse::line_of(&text, &origin, &field);
    }
}
