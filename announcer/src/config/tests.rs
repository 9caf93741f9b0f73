//! The messages people get, as a table; and what the defaults and overrides come to.

use super::{args::Overrides, *};
use clap::{CommandFactory, Parser};

fn read(text: &str, overrides: &Overrides) -> Result<Settings, String> {
    let path = Path::new("crier.yaml");
    let raw = raw::parse(path, text).map_err(|error| error.to_string())?;
    resolve(&raw, overrides, "Worker-1").map_err(|fault| fault.at(path, text).to_string())
}

#[test]
fn every_key_has_a_default() {
    for text in ["", "# nothing\n", "---\n", "gossip: {}\n"] {
        let settings = read(text, &Overrides::default()).unwrap();
        assert_eq!(settings.node.as_str(), "worker-1");
        assert_eq!(settings.interfaces, None);
        assert_eq!(settings.gossip.bind.to_string(), "0.0.0.0:9651");
        assert_eq!(settings.gossip.watch, WatchSettings { interval: std::time::Duration::from_millis(50), misses: 3 });
        assert_eq!(settings.http.map(|http| http.to_string()).as_deref(), Some("0.0.0.0:9650"));
        assert_eq!(settings.source, SourceSettings::Manifests("/etc/crier/manifests".into()));
        assert!(settings.rebalance && settings.restart_grace.is_zero());
        assert_eq!(settings.forwarder, ForwarderMode::Auto);
        assert_eq!((settings.flows, settings.rows), (524_288, 65_536));
        assert_eq!(settings.log, LogSettings { level: LogLevel::Info, format: LogFormat::Text });
    }
}

#[test]
fn the_whole_file_is_read() {
    let text = "\
node: n1
interfaces: [eth0, eth1]
gossip:
  bind: 10.77.0.1:9651
  advertise: 10.77.0.1:9651
  join: ['10.77.0.2:9651', 'n3.example:9651', '[fd00::3]:9651']
  keyFile: /tmp/key
  watch: {interval: 20ms, misses: 5}
source: {manifests: /tmp/manifests}
rebalance: off
forwarder: {mode: tc, flows: 1048576, rows: 262144}
http: {bind: off}
stateDir: /tmp/state
socket: /tmp/sock
pinDir: /sys/fs/bpf/n1
log: {level: debug, format: json}
";
    let settings = read(text, &Overrides::default()).unwrap();
    assert_eq!(settings.node.as_str(), "n1");
    assert_eq!(settings.interfaces.as_deref(), Some(["eth0".to_owned(), "eth1".to_owned()].as_slice()));
    let join: Vec<_> = settings.gossip.join.iter().map(ToString::to_string).collect();
    assert_eq!(join, ["10.77.0.2:9651", "n3.example:9651", "[fd00::3]:9651"]);
    assert!(!settings.rebalance);
    assert_eq!(settings.http, None);
    assert_eq!(settings.forwarder, ForwarderMode::Tc);
    assert_eq!((settings.flows, settings.rows), (1 << 20, 1 << 18));
    assert_eq!(settings.pin_dir, Path::new("/sys/fs/bpf/n1"));
}

#[test]
fn flags_override_the_file() {
    let args = Args::parse_from(["crier", "--node", "n7", "--gossip-join", "a:1,b:2", "--http-bind", "[::1]:80"]);
    let text = "node: n1\ngossip: {join: ['c:3']}\n";
    let settings = read(text, &args.overrides).unwrap();
    assert_eq!(settings.node.as_str(), "n7");
    assert_eq!(settings.gossip.join.len(), 2);
    assert_eq!(settings.http.map(|http| http.to_string()).as_deref(), Some("[::1]:80"));
    let wrong = Args::parse_from(["crier", "--log-level", "inf"]);
    let error = read(text, &wrong.overrides).unwrap_err();
    assert!(error.starts_with("--log-level or CRIER_LOG_LEVEL: log.level: \"inf\""), "{error}");
    assert!(error.ends_with("did you mean \"info\"?"), "{error}");
}

#[test]
fn the_fast_preset_is_a_word() {
    let settings = read("gossip: {watch: fast}\n", &Overrides::default()).unwrap();
    let expected = WatchSettings { interval: std::time::Duration::from_millis(10), misses: 3 };
    assert_eq!(settings.gossip.watch, expected);
}

/// A file, and the message it gets.
const MISTAKES: &[(&str, &str)] = &[
    ("nod: n1\n", "crier.yaml:1:1: nod: unknown key; did you mean \"node\"?"),
    (
        "gossip:\n  watch:\n    intervall: 1s\n",
        "crier.yaml:3:5: gossip.watch.intervall: unknown key; did you mean \"interval\"?",
    ),
    ("log: {colour: red}\n", "crier.yaml:1:7: log.colour: unknown key; known are format, level"),
    ("node: N_1\n", "crier.yaml:1: node: \"N_1\" is not a node name"),
    ("node: n1\ngossip:\n  watch: {interval: 1ms}\n", "crier.yaml:3: gossip.watch.interval: must be 10ms to 10s"),
    ("gossip:\n  watch:\n    interval: soon\n", "crier.yaml:3: gossip.watch.interval: \"soon\" is not a duration"),
    ("gossip:\n  watch: slow\n", "crier.yaml:2: gossip.watch: \"slow\" is no preset; give \"fast\""),
    ("gossip: {watch: {misses: 1}}\n", "crier.yaml:1: gossip.watch.misses: must be 2 to 20"),
    (
        "gossip: {watch: {misses: many}}\n",
        "crier.yaml:1:26: gossip.watch.misses: invalid type: string \"many\", expected u32",
    ),
    ("gossip:\n  bind: 9651\n", "crier.yaml:2: gossip.bind: \"9651\" is not ADDRESS:PORT"),
    ("gossip:\n  bind: '0.0.0.0:0'\n", "crier.yaml:2: gossip.bind: \"0.0.0.0:0\": the port must be 1 to 65535"),
    ("gossip:\n  join:\n  - a:1\n  - 10.77.0.2\n", "crier.yaml:4: gossip.join[1]: \"10.77.0.2\" is not HOST:PORT"),
    ("gossip:\n  join: ['fd00::2:9651']\n", "crier.yaml:2: gossip.join[0]: \"fd00::2:9651\" is not HOST:PORT"),
    ("gossip: {advertise: '0.0.0.0:1'}\n", "crier.yaml:1: gossip.advertise: 0.0.0.0 is no address of a node"),
    ("gossip: {advertise: '[fd00::1]:1'}\n", "crier.yaml:1: gossip.advertise: [fd00::1]:1 is IPv6 while gossip.bind"),
    ("interfaces: []\n", "crier.yaml:1: interfaces: empty"),
    ("interfaces: [eth0, eth0]\n", "crier.yaml:1: interfaces[1]: \"eth0\" is there twice"),
    ("interfaces: [a-name-that-is-too-long]\n", "crier.yaml:1: interfaces[0]: "),
    ("forwarder: {mode: xpd}\n", "crier.yaml:1: forwarder.mode: \"xpd\" is none of auto, xdp, tc, off"),
    ("restartGrace: soon\n", "crier.yaml:1: restartGrace: \"soon\" is not a duration like 10s"),
    ("restartGrace: 2m\n", "crier.yaml:1: restartGrace: must be 0s to 60s"),
    ("forwarder:\n  rows: 1000\n", "crier.yaml:2: forwarder.rows: must be 1024 to 1048576; each costs 512 bytes"),
    ("forwarder:\n  flows: 1000\n", "crier.yaml:2: forwarder.flows: must be 1024 to 16777216; each costs 68 bytes"),
    ("source: {kubernetes: {kubeconfig: ''}}\n", "crier.yaml:1: source.kubernetes.kubeconfig: empty; give a path"),
    ("source: {kubernetes: {}, manifests: /x}\n", "crier.yaml:1: source.manifests: there is source.kubernetes too"),
    ("http: {bind: 'localhost'}\n", "crier.yaml:1: http.bind: \"localhost\" is not ADDRESS:PORT"),
    ("stateDir: ''\n", "crier.yaml:1: stateDir: empty; give a path"),
    ("gossip:\n  watch: {interval: 1s\n", "crier.yaml:3:1: did not find expected ',' or '}'"),
    ("node: n1\nnode: n2\n", "crier.yaml:1:1: duplicate field `node`"),
];

#[test]
fn every_mistake_gets_its_message() {
    let mut wrong = Vec::new();
    for (text, expected) in MISTAKES {
        let said = read(text, &Overrides::default()).map_or_else(|error| error, |_| "(accepted)".to_owned());
        if !said.starts_with(expected) {
            wrong.push(format!("{text:?}\n  said     {said}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_help_teaches() {
    Args::command().debug_assert();
    let help = Args::command().render_help().to_string();
    for word in ["--check", "cleanup", "CRIER_NODE", "crier --check --config", "SIGHUP"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    let args = Args::parse_from(["crier", "cleanup", "--config", "x.yaml"]);
    assert_eq!((args.command, args.config), (Some(args::Command::Cleanup), Some("x.yaml".into())));
}

#[test]
fn a_check_prints_all_problems_and_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("node: n1\nsource: {{manifests: {}}}\n", folder.path().display());
    let settings = read(&text, &Overrides::default()).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: LoadBalancer\n  prots: []\n";
    fs::write(folder.path().join("web.yaml"), service).unwrap();
    fs::write(folder.path().join("x.yaml"), "kind: Service\n").unwrap();
    let report = check(&settings);
    assert!(!report.ok);
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
    let expected = "/web.yaml:6 (document 1): Service default/web: spec.prots: unknown field";
    assert!(report.problems[0].contains(expected), "{:?}", report.problems);
    fs::remove_file(folder.path().join("web.yaml")).unwrap();
    fs::write(folder.path().join("x.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n").unwrap();
    let report = check(&settings);
    assert!(report.ok && report.problems.is_empty(), "{report:?}");
    assert!(report.summary.contains("1 Node\n0 services") && report.summary.ends_with("good"), "{}", report.summary);
}

/// The keys that the file may have, below one that has keys itself; none: it has a value.
fn keys_below(path: &[&str]) -> Vec<String> {
    let text = path.iter().rev().fold("{zzz: 1}".to_owned(), |inner, key| format!("{{{key}: {inner}}}"));
    let error = serde_norway::from_str::<Raw>(&text).unwrap_err().to_string();
    let Some((_, expected)) = error.split_once("unknown field `zzz`, expected") else { return Vec::new() };
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn leaves(path: &[&str], found: &mut Vec<String>) {
    let keys = keys_below(path);
    for key in &keys {
        leaves(&[path, &[key]].concat(), found);
    }
    if keys.is_empty() {
        found.push(path.join("."));
    }
}

#[test]
fn every_key_variable_and_flag_is_documented() {
    let page = include_str!("../../../docs/configuration.md");
    let mut keys = Vec::new();
    leaves(&[], &mut keys);
    assert!(keys.len() >= 17 && keys.contains(&"gossip.watch.misses".to_owned()), "{keys:?}");
    for key in &keys {
        assert!(page.contains(&format!("\n| `{key}` |")), "{key} has no row in docs/configuration.md");
    }
    let command = Args::command();
    for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
        for name in [argument.get_env().and_then(|name| name.to_str()).unwrap(), argument.get_long().unwrap()] {
            assert!(page.contains(name), "{name} is not in docs/configuration.md");
        }
    }
    for name in crate::model::objects::annotation::ALL {
        assert!(page.contains(&format!("`crier.io/{name}`")), "the annotation {name} is not in docs/configuration.md");
    }
}
