//! Probes against real servers on loopback.

use std::{future::Future, net::Ipv4Addr, pin::Pin};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;
use crate::{metrics::Metrics, model::HttpCheck};

/// Long enough for a busy machine to answer within.
const AMPLE: Duration = Duration::from_secs(20);
/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(50);

type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that treats each connection with `session`, and its address. It ends with the test's runtime.
async fn server(session: impl Fn(TcpStream) -> Session + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(session(stream));
        }
    });
    address
}

/// Reads a request's head and returns it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    head(&mut stream).await;
    // The prober may hang up in the middle.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// A server that answers each request with `answer`.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    server(move |stream| {
        let answer = answer.clone();
        Box::pin(async move { reply(stream, &answer).await })
    })
    .await
}

/// A server that, once it hears something, answers with `answer` and then keeps the connection open for ever.
async fn hanging(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream| {
        Box::pin(async move {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(answer).await;
            std::future::pending::<()>().await;
        })
    })
    .await
}

fn http() -> HttpCheck {
    HttpCheck { tls: false, path: "/ready?full=1".into(), host: None, expect: vec![(200, 399)] }
}

fn check(kind: CheckKind, timeout: Duration) -> Check {
    Check { kind, port: None, interval: AMPLE, timeout, rise: 1, fall: 1, slow_start: Duration::ZERO }
}

fn target(address: SocketAddr, check: &Check) -> Target {
    Target { address: address.ip(), port: address.port(), check: check.id() }
}

async fn answer(address: SocketAddr, kind: CheckKind, timeout: Duration) -> Answer {
    let check = check(kind, timeout);
    ask(&target(address, &check), &check, &http::tls_config().unwrap()).await
}

fn failure(reason: &str) -> Answer {
    Answer::Failure(reason.to_owned())
}

fn success(reason: &str) -> Answer {
    Answer::Success(reason.to_owned())
}

/// An address at which nobody listens, nor can while the socket is held.
fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn tcp_asks_for_no_more_than_a_connection() {
    assert_eq!(answer(hanging(b"").await, CheckKind::Tcp, AMPLE).await, success("connected"));
    let (_held, closed) = closed();
    assert_eq!(answer(closed, CheckKind::Tcp, AMPLE).await, failure("connection refused"));
}

#[tokio::test]
async fn http_judges_the_status() {
    let ok = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(answer(ok, CheckKind::Http(http()), AMPLE).await, success("HTTP 200"));
    let redirect = answering("HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer(redirect, CheckKind::Http(http()), AMPLE).await, success("HTTP 302"));
    let busy = answering("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer(busy, CheckKind::Http(http()), AMPLE).await, failure("HTTP 503, expected 200-399"));
    let picky = HttpCheck { expect: vec![(200, 204), (503, 503)], ..http() };
    assert_eq!(answer(busy, CheckKind::Http(picky.clone()), AMPLE).await, success("HTTP 503"));
    assert_eq!(answer(redirect, CheckKind::Http(picky), AMPLE).await, failure("HTTP 302, expected 200-204,503"));
}

#[tokio::test]
async fn http_asks_for_the_path_and_names_the_host() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let seen = seen.clone();
        Box::pin(async move {
            seen.send(head(&mut stream).await).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        })
    })
    .await;
    for (host, named) in [(None, address.to_string()), (Some("shop.example"), "shop.example".to_owned())] {
        let check = HttpCheck { host: host.map(str::to_owned), ..http() };
        assert_eq!(answer(address, CheckKind::Http(check), AMPLE).await, success("HTTP 204"));
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("GET /ready?full=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {named}\r\n")), "{request}");
        assert!(request.contains("connection: close\r\n"), "{request}");
    }
}

#[tokio::test]
async fn the_deadline_covers_all_of_an_answer() {
    for (what, address) in [
        ("accepts, then hangs", hanging(b"").await),
        ("hangs in the head", hanging(b"HTTP/1.1 200 OK\r\nserver: slo").await),
        ("hangs in the body", hanging(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal").await),
    ] {
        let kind = CheckKind::Http(http());
        assert_eq!(answer(address, kind, SHORT).await, failure("timeout after 50ms"), "{what}");
    }
    let tls = CheckKind::Http(HttpCheck { tls: true, ..http() });
    assert_eq!(answer(hanging(b"").await, tls, SHORT).await, failure("timeout after 50ms"), "hangs in the handshake");
}

#[tokio::test]
async fn broken_answers_are_failures_with_a_reason() {
    let endless_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let (_held, closed) = closed();
    for (what, address, expected) in [
        ("nobody listens", closed, "connection refused"),
        ("closes without a word", answering("").await, "connection closed before an answer"),
        ("speaks another protocol", answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await, "not HTTP"),
        ("sends an endless head", answering(endless_head).await, "headers are larger than 16384 bytes"),
        (
            "stops in the body",
            answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal").await,
            "connection closed before an answer",
        ),
    ] {
        let found = answer(address, CheckKind::Http(http()), AMPLE).await;
        assert!(matches!(&found, Answer::Failure(reason) if reason.contains(expected)), "{what}: {found:?}");
    }
    let bad_path = HttpCheck { path: "/a b".into(), ..http() };
    let found = answer(answering("").await, CheckKind::Http(bad_path), AMPLE).await;
    assert!(found.reason().contains("path or host is not valid"), "{found:?}");
}

#[tokio::test]
async fn no_more_of_an_endless_body_is_read_than_needed() {
    let address = server(|mut stream| {
        Box::pin(async move {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        })
    })
    .await;
    assert_eq!(answer(address, CheckKind::Http(http()), AMPLE).await, success("HTTP 200"));
}

#[tokio::test]
async fn https_accepts_a_self_signed_certificate() {
    let certificate = CertificateDer::from(include_bytes!("../testdata/self-signed.der").to_vec());
    let key = PrivatePkcs8KeyDer::from(include_bytes!("../testdata/self-signed.key.der").to_vec());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let address = server(move |stream| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                reply(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        })
    })
    .await;
    for host in [None, Some("shop.example:8443".to_owned()), Some("not_a name".to_owned())] {
        let check = HttpCheck { tls: true, host: host.clone(), ..http() };
        let found = answer(address, CheckKind::Http(check), AMPLE).await;
        assert_eq!(found, success("HTTP 200"), "host {host:?}");
    }
    let plain = hanging(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let found = answer(plain, CheckKind::Http(HttpCheck { tls: true, ..http() }), AMPLE).await;
    assert!(found.reason().starts_with("TLS handshake: "), "{found:?}");
}

#[test]
fn want_of_our_own_means_does_not_condemn_a_pod() {
    let error = |code| tcp::failed(&std::io::Error::from_raw_os_error(code));
    assert!(matches!(error(libc::EMFILE), Answer::NotAsked(_)));
    assert!(matches!(error(libc::EADDRNOTAVAIL), Answer::NotAsked(_)));
    assert_eq!(error(libc::EHOSTUNREACH), failure("no route to host"));
}

#[tokio::test]
async fn the_task_follows_its_plan_and_publishes_verdicts() {
    let metrics = Metrics::new("0").unwrap();
    let interval = Duration::from_millis(20);
    let quick = Check { interval, slow_start: interval, ..check(CheckKind::Tcp, AMPLE) };
    let up = hanging(b"").await;
    let (socket, down) = closed();
    let plan = |addresses: &[SocketAddr]| {
        let targets = addresses.iter().map(|address| (target(*address, &quick), quick.clone())).collect();
        Some(Arc::new(Plan { targets }))
    };
    let (sender, receiver) = watch::channel(None);
    sender.send_replace(plan(&[up, down]));
    let prober = start(receiver, metrics.probes.clone(), metrics.limits.clone(), 7).unwrap();
    let mut verdicts = prober.verdicts();
    let found = verdicts.wait_for(|verdicts| verdicts.targets.len() == 2).await.unwrap().clone();
    assert_eq!(found.targets[&target(up, &quick)].verdict, Verdict::Healthy);
    assert_eq!(found.targets[&target(down, &quick)].verdict, Verdict::Unhealthy);
    assert_eq!(found.targets[&target(down, &quick)].reason, "connection refused");
    assert!(found.warming.is_empty(), "it is the prober that is new");

    let revived = socket.listen(8).unwrap();
    verdicts.wait_for(|v| v.targets[&target(down, &quick)].verdict == Verdict::Healthy).await.unwrap();
    verdicts.wait_for(|v| v.warming.is_empty()).await.unwrap();
    drop(revived);
    verdicts.wait_for(|v| v.targets[&target(down, &quick)].verdict == Verdict::Unhealthy).await.unwrap();

    sender.send_replace(plan(&[]));
    verdicts.wait_for(|verdicts| verdicts.targets.is_empty()).await.unwrap();
    let text = metrics.render(&crate::metrics::Snapshot::default()).unwrap();
    assert!(text.contains(r#"crier_probe_results_total{result="failure",type="tcp"}"#), "{text}");
    drop(prober);
    assert!(verdicts.changed().await.is_err(), "the task ends with its owner");
}
