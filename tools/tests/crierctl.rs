//! The binary `crierctl` against the agent's own HTTP surface on a real socket.
#![expect(clippy::unwrap_used, reason = "a test's set-up fails by panicking")]

use std::{
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use announcer::{
    http::{
        Action, Order, Readiness, Refused, Status, StatusSource,
        flows::{Flow, FlowQuery, Flows},
        listen::{bind_tcp, bind_unix, serve},
        router::{acting, reading},
    },
    metrics::{Metrics, Snapshot},
};
use tokio::{runtime::Runtime, sync::mpsc};

const STATUS: &str = include_str!("../../announcer/src/http/testdata/status.json");

struct Given(Status);

impl StatusSource for Given {
    fn status(&self) -> Status {
        self.0.clone()
    }

    fn readiness(&self) -> Readiness {
        Readiness::default()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    /// One of many.
    fn flows(&self, query: &FlowQuery) -> Result<Flows, Refused> {
        if query.service.as_deref() == Some("default/nix") {
            return Err(Refused("this agent serves no default/nix (NAMESPACE/NAME)".to_owned()));
        }
        let flow = Flow {
            client: "10.77.0.9:40000".parse().unwrap(),
            vip: [10, 77, 0, 100].into(),
            port: 80,
            protocol: "TCP".to_owned(),
            namespace: Some("default".to_owned()),
            service: Some("web".to_owned()),
            pod: Some("10.77.101.2:8080".parse().unwrap()),
            state: "established".to_owned(),
            idle: 3,
        };
        Ok(Flows { flows: vec![flow], more: query.limit == Some(1) })
    }
}

/// The surface of an agent that obeys a drain and refuses to end one.
struct Agent {
    socket: String,
    tcp: SocketAddr,
    _folder: tempfile::TempDir,
    _runtime: Runtime,
}

fn agent(change: impl FnOnce(&mut Status)) -> Agent {
    let mut status: Status = serde_json::from_str(STATUS).unwrap();
    change(&mut status);
    let source: Arc<dyn StatusSource> = Arc::new(Given(status));
    let metrics = Arc::new(Metrics::new("0.1.0").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("crier.sock");
    let runtime = Runtime::new().unwrap();
    let (orders, queue) = mpsc::channel(8);
    let (door, tcp) = runtime.block_on(async {
        let door = bind_unix(&socket).unwrap();
        (door, bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap())
    });
    let address = tcp.local_addr().unwrap();
    let limits = metrics.limits.clone();
    runtime.spawn(serve(tcp, reading(Arc::clone(&source), Arc::clone(&metrics)), limits.clone()));
    runtime.spawn(serve(door, acting(source, metrics, orders), limits));
    runtime.spawn(obey(queue));
    Agent { socket: format!("unix:{}", socket.display()), tcp: address, _folder: folder, _runtime: runtime }
}

async fn obey(mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let outcome = match order.action {
            Action::Drain => Ok("n1 drains: 1 VIP is being handed over".to_owned()),
            Action::Rebalance => Ok("taking 2 VIPs over, one after the other".to_owned()),
            Action::Undrain | Action::Announce(_) => Err(Refused("n1 is not draining".to_owned())),
        };
        let _ = order.reply.send(outcome);
    }
}

fn crierctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crierctl")).args(args).env_remove("CRIER_AGENT").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn status_is_printed_and_its_exit_code_tells_readiness() {
    let waiting = agent(|_| {});
    let answer = crierctl(&["status", "--agent", &waiting.socket]);
    assert_eq!(text(&answer.stdout), include_str!("../src/cmd/testdata/status.txt"));
    assert_eq!(answer.status.code(), Some(3), "not ready");
    let ready = agent(|status| status.ready = true);
    assert_eq!(crierctl(&["status", "--agent", &ready.socket]).status.code(), Some(0));
}

#[test]
fn json_carries_the_agents_own_field_names() {
    let agent = agent(|_| {});
    let whole: serde_json::Value = serde_json::from_str(STATUS).unwrap();
    let url = format!("http://{}", agent.tcp);
    for (command, expected) in [
        ("status", &whole),
        ("dump", &whole),
        ("members", &whole["members"]),
        ("vips", &whole["vips"]),
        ("backends", &whole["backends"]),
    ] {
        for address in [agent.socket.as_str(), url.as_str()] {
            let answer = crierctl(&[command, "-o", "json", "--agent", address]);
            let found: serde_json::Value = serde_json::from_slice(&answer.stdout).expect(command);
            assert_eq!(&found, expected, "{command} from {address}");
        }
    }
}

#[test]
fn connections_are_shown_on_the_node_itself_and_refusals_are_said() {
    let agent = agent(|_| {});
    let answer = crierctl(&["flows", "--limit", "1", "--service", "default/web", "--agent", &agent.socket]);
    let shown = text(&answer.stdout);
    assert!(shown.contains("10.77.0.9:40000") && shown.contains("10.77.101.2:8080"), "{answer:?}");
    assert!(shown.contains("and more"), "{shown}");
    let answer = crierctl(&["flows", "-o", "json", "--agent", &agent.socket]);
    let found: Flows = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((found.flows.len(), found.more), (1, false));
    for (service, address, said) in [
        ("default/nix", agent.socket.clone(), "serves no default/nix"),
        ("default/we b&x", agent.socket.clone(), "is no NAMESPACE/NAME"),
        ("default/web", format!("http://{}", agent.tcp), "does not name clients"),
    ] {
        let answer = crierctl(&["flows", "--service", service, "--agent", &address]);
        assert_eq!(answer.status.code(), Some(1));
        assert!(text(&answer.stderr).contains(said), "{answer:?}");
    }
}

#[test]
fn drain_says_what_the_agent_said() {
    let agent = agent(|_| {});
    let answer = crierctl(&["drain", "--agent", &agent.socket]);
    assert_eq!(text(&answer.stdout), "n1 drains: 1 VIP is being handed over\n");
    assert_eq!(answer.status.code(), Some(0));
    let answer = crierctl(&["drain", "--undo", "--agent", &agent.socket]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("refused: n1 is not draining"), "{answer:?}");
    let answer = crierctl(&["drain", "--agent", &format!("http://{}", agent.tcp)]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("run crierctl on the node itself"), "{answer:?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let agent = agent(|status| {
        let backend = status.backends[0].clone();
        status.backends.extend(std::iter::repeat_n(backend, 20_000));
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_crierctl"))
        .args(["backends", "--agent", &agent.socket])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds is coming, and nobody reads it.
    drop(child.stdout.take());
    let answer = child.wait_with_output().unwrap();
    assert_eq!(text(&answer.stderr), "");
    assert_eq!(answer.status.code(), Some(0));
}

#[test]
fn without_an_agent_it_says_what_to_do() {
    let answer = crierctl(&["status", "--agent", "/nonexistent/crier.sock"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("is `crier` running on this node"), "{answer:?}");
    assert_eq!(crierctl(&["status", "--agent", "https://n1"]).status.code(), Some(2));
    assert_eq!(crierctl(&["connections"]).status.code(), Some(2));
}

const METALLB: &str = "apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [10.0.0.0/28]}
---
apiVersion: metallb.io/v1beta1
kind: BGPPeer
metadata: {name: router, namespace: metallb-system}
";

#[test]
fn migrate_prints_objects_and_says_the_rest_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metallb.yaml");
    std::fs::write(&file, METALLB).unwrap();
    std::fs::write(folder.path().join("README"), "not a manifest").unwrap();
    for path in [&file, folder.path()] {
        let answer = crierctl(&["migrate", "-f", &path.display().to_string(), "--namespace", "lb"]);
        let expected = "apiVersion: crier.io/v1alpha1\nkind: IPAddressPool\nmetadata:\n  name: lan\n  namespace: lb\nspec:\n  \
                        addresses:\n  - 10.0.0.0/28\n";
        assert_eq!(text(&answer.stdout), expected, "{answer:?}");
        assert!(text(&answer.stderr).contains("BGPPeer metallb-system/router: left out"), "{answer:?}");
        assert_eq!(answer.status.code(), Some(0));
    }
    let answer = crierctl(&["migrate", "-o", "json", "-f", &file.display().to_string()]);
    let list: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(list["items"][0]["metadata"]["namespace"], "crier-system");
    let answer = crierctl(&["migrate", "-f", "/nonexistent.yaml"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("cannot read /nonexistent.yaml"), "{answer:?}");
}

#[test]
fn migrate_reads_a_cluster_that_lacks_some_kinds_by_kubectl() {
    let folder = tempfile::tempdir().unwrap();
    let kubectl = folder.path().join("kubectl");
    let pools = folder.path().join("pools.json");
    let pool = r#"{"kind": "List", "items": [{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "lan"}, "spec": {"addresses": ["10.0.0.0/28"]}}]}"#;
    std::fs::write(&pools, pool).unwrap();
    let answers = format!(
        "#!/bin/sh\ncase \"$*\" in\n'get ipaddresspools.metallb.io -A -o json') cat {};;\n'get services '*|'get configmaps '*) \
         echo '{{\"kind\": \"List\", \"items\": []}}';;\n*) echo \"error: the server doesn't have a resource type \\\"$2\\\"\" >&2; \
         exit 1;;\nesac\n",
        pools.display()
    );
    std::fs::write(&kubectl, answers).unwrap();
    std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let migrate = || Command::new(env!("CARGO_BIN_EXE_crierctl")).arg("migrate").env("PATH", &path).output().unwrap();
    let answer = migrate();
    assert!(text(&answer.stdout).contains("name: lan"), "{answer:?}");
    assert_eq!(answer.status.code(), Some(0));
    std::fs::write(&kubectl, "#!/bin/sh\necho 'error: You must be logged in to the server' >&2\nexit 1\n").unwrap();
    let answer = migrate();
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("You must be logged in"), "{answer:?}");
}
