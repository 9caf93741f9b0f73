//! The router behind real sockets.

use std::path::Path;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinSet,
};

use super::*;
use crate::{
    http::{
        Readiness, Refused, Status,
        flows::Flows,
        listen::{MAX_CONNECTIONS, bind_tcp, bind_unix, serve},
        status::tests::example,
    },
    metrics::Snapshot,
};

/// An agent whose answers are given.
struct Given(Readiness);

impl StatusSource for Given {
    fn status(&self) -> Status {
        example()
    }

    fn readiness(&self) -> Readiness {
        self.0.clone()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    fn flows(&self, query: &FlowQuery) -> Result<Flows, Refused> {
        match query.service.as_deref() {
            Some("default/web") | None => Ok(Flows { more: query.limit == Some(7), ..Flows::default() }),
            Some(other) => Err(Refused(format!("there is no service {other}"))),
        }
    }
}

#[tokio::test]
async fn connections_are_told_on_the_unix_socket_alone() {
    let served = served(&[]).await;
    assert_eq!(tcp(&served, "GET /api/v1/flows").await.0, 404);
    let (code, text) = unix(&served.socket, "GET /api/v1/flows?limit=7&service=default/web").await;
    assert!(code == 200 && text.ends_with(r#"{"flows":[],"more":true}"#), "{text}");
    let (code, text) = unix(&served.socket, "GET /api/v1/flows?service=default/nix").await;
    assert!(code == 409 && text.contains("there is no service default/nix"), "{text}");
    assert_eq!(unix(&served.socket, "GET /api/v1/flows?limit=many").await.0, 400);
}

struct Served {
    tcp: std::net::SocketAddr,
    socket: std::path::PathBuf,
    orders: mpsc::Receiver<Order>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn served(awaiting: &[&str]) -> Served {
    let source = Arc::new(Given(Readiness { awaiting: awaiting.iter().map(|text| (*text).to_owned()).collect() }));
    let metrics = Arc::new(Metrics::new("0.1.0").unwrap());
    let limits = metrics.limits.clone();
    let (sender, orders) = mpsc::channel(8);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("crier.sock");
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let tcp = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let (source, metrics): (Arc<dyn StatusSource>, _) = (source, metrics);
    tasks.spawn(serve(listener, reading(Arc::clone(&source), Arc::clone(&metrics)), limits.clone()));
    tasks.spawn(serve(bind_unix(&socket).unwrap(), acting(source, metrics, sender), limits));
    Served { tcp, socket, orders, _folder: folder, _tasks: tasks }
}

/// Sends one request and returns the status code with head and body.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    let request = format!("{request} HTTP/1.1\r\nhost: crier\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, answer)
}

async fn tcp(served: &Served, request: &str) -> (u16, String) {
    ask(TcpStream::connect(served.tcp).await.unwrap(), request).await
}

async fn unix(socket: &Path, request: &str) -> (u16, String) {
    ask(UnixStream::connect(socket).await.unwrap(), request).await
}

#[tokio::test]
async fn both_doors_tell_the_same() {
    let served = served(&[]).await;
    for (path, part) in [
        ("/", "<h1>Crier on n1</h1>"),
        ("/metrics", "crier_build_info{version=\"0.1.0\"} 1\n"),
        ("/healthz", "\r\n\r\nok\n"),
        ("/readyz", "\r\n\r\nready\n"),
        ("/api/v1/status", "\"owner\":\"n1\""),
    ] {
        for (door, (code, answer)) in [
            ("tcp", tcp(&served, &format!("GET {path}")).await),
            ("unix", unix(&served.socket, &format!("GET {path}")).await),
        ] {
            assert_eq!(code, 200, "{door} {path}: {answer}");
            assert!(answer.contains(part), "{door} {path} lacks {part:?}: {answer}");
        }
    }
    let (code, answer) = tcp(&served, "GET /nothing").await;
    assert_eq!(code, 404);
    assert!(answer.contains("try / or /metrics"), "{answer}");
    let (_, answer) = tcp(&served, "GET /metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
}

#[tokio::test]
async fn readyz_lists_what_is_awaited() {
    let served = served(&["source: /etc/crier/manifests has not been read yet", "membership: still listening"]).await;
    let (code, answer) = tcp(&served, "GET /readyz").await;
    assert_eq!(code, 503);
    let list = "- source: /etc/crier/manifests has not been read yet\n- membership: still listening\n";
    assert!(answer.ends_with(list), "{answer}");
    assert_eq!(tcp(&served, "GET /healthz").await.0, 200, "alive all the same");
}

#[tokio::test]
async fn actions_go_through_the_unix_socket_only() {
    let mut served = served(&[]).await;
    for path in ["/api/v1/drain", "/api/v1/undrain", "/api/v1/announce"] {
        assert_eq!(tcp(&served, &format!("POST {path}")).await.0, 404, "{path} over TCP");
        assert_eq!(unix(&served.socket, &format!("GET {path}")).await.0, 405, "GET {path}");
    }
    assert!(served.orders.try_recv().is_err(), "nothing reached the app");
}

#[tokio::test]
async fn an_action_reaches_the_app_and_its_word_comes_back() {
    let mut served = served(&[]).await;
    let vip = "fd00:77::100".parse().unwrap();
    for (path, action, outcome, code, text) in [
        ("/api/v1/drain", Action::Drain, Ok("2 VIPs handed over".to_owned()), 200, "2 VIPs handed over"),
        ("/api/v1/undrain", Action::Undrain, Err(Refused("n1 is not draining".to_owned())), 409, "n1 is not draining"),
        ("/api/v1/rebalance", Action::Rebalance, Ok("taking 2".to_owned()), 200, "taking 2"),
        ("/api/v1/announce", Action::Announce(None), Ok("announced".to_owned()), 200, "announced"),
        ("/api/v1/announce?vip=fd00:77::100", Action::Announce(Some(vip)), Ok("once".to_owned()), 200, "once"),
    ] {
        let socket = served.socket.clone();
        let asked = tokio::spawn(async move { unix(&socket, &format!("POST {path}")).await });
        let order = served.orders.recv().await.unwrap();
        assert_eq!(order.action, action);
        order.reply.send(outcome).unwrap();
        let (found, answer) = asked.await.unwrap();
        assert_eq!(found, code, "{answer}");
        assert!(answer.ends_with(&format!("{text}\n")), "{answer}");
    }
    assert_eq!(unix(&served.socket, "POST /api/v1/announce?vip=nonsense").await.0, 400);
}

#[tokio::test]
async fn an_agent_on_its_way_out_says_so() {
    let mut served = served(&[]).await;
    let socket = served.socket.clone();
    let asked = tokio::spawn(async move { unix(&socket, "POST /api/v1/drain").await });
    drop(served.orders.recv().await.unwrap());
    let (code, answer) = asked.await.unwrap();
    assert_eq!(code, 503);
    assert!(answer.contains("the agent is shutting down"), "{answer}");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let served = served(&[]).await;
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(64 * 1024)).as_bytes()).await;
    let mut answer = Vec::new();
    // The server may have reset the connection after its answer, for we went on sending.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn idle_connections_are_bounded_and_the_bound_is_counted() {
    let served = served(&[]).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(served.tcp).await.unwrap());
    }
    let mut last = TcpStream::connect(served.tcp).await.unwrap();
    last.write_all(b"GET /healthz HTTP/1.1\r\nhost: crier\r\nconnection: close\r\n\r\n").await.unwrap();
    let counted = "crier_limits_reached_total{what=\"http_connections\"} 1";
    while !unix(&served.socket, "GET /metrics").await.1.contains(counted) {}
    let mut answer = String::new();
    let waits = tokio::time::timeout(Duration::from_millis(50), last.read_to_string(&mut answer)).await;
    assert!(waits.is_err(), "answered beyond the bound: {answer}");
    idle.pop();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "served as soon as one leaves: {answer}");
}
