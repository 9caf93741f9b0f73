//! The driver on loopback sockets.

use std::future::Future;

use super::*;
use crate::{Facts, MemberState};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn options(node: &str, port: u16, seeds: &[SocketAddr], state_dir: &std::path::Path) -> Options {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Options {
        node: node.parse().unwrap(),
        bind: address,
        advertise: address,
        keys: KeyRing::parse(KEY).unwrap(),
        seeds: seeds.to_vec(),
        watch: Watch::default(),
        state_dir: state_dir.join(node),
    }
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.unwrap() });
}

async fn seen(handle: &Handle, node: &str, wanted: impl Fn(&crate::Member) -> bool) {
    let node: NodeName = node.parse().unwrap();
    handle.view().wait_for(|view| view.members.get(&node).is_some_and(&wanted)).await.unwrap();
}

#[test]
fn two_agents_meet_share_documents_and_part() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (a_port, b_port) = (free_port(), free_port());
        let a = start(options("a", a_port, &[], dir.path())).await.unwrap();
        let seed = SocketAddr::from(([127, 0, 0, 1], a_port));
        let b = start(options("b", b_port, &[seed], dir.path())).await.unwrap();
        seen(&a, "b", |member| member.state == MemberState::Alive).await;
        b.command(Command::SetFacts(Facts { forwarding: true, ..Facts::default() })).await;
        seen(&a, "b", |member| member.document.facts.forwarding).await;
        a.view().wait_for(|view| view.caught_up).await.unwrap();
        let others_may_keep_theirs = b.commands();
        b.shutdown().await;
        assert!(others_may_keep_theirs.is_closed());
        seen(&a, "b", |member| member.state == MemberState::Left).await;
        a.stats().wait_for(|stats| stats.packets_in > 0 && stats.rejected.is_empty()).await.unwrap();
        a.shutdown().await;
        let remembered = std::fs::read_to_string(dir.path().join("a/peers")).unwrap();
        assert_eq!(remembered, format!("127.0.0.1:{b_port}\n"));
        let generation = std::fs::read_to_string(dir.path().join("a/generation")).unwrap();
        assert!(generation.trim().parse::<u64>().unwrap() > 1_600_000_000_000);
    });
}

#[test]
fn a_dropped_handle_ends_the_gossip_without_a_goodbye() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (a_port, b_port) = (free_port(), free_port());
        let a = start(options("a", a_port, &[], dir.path())).await.unwrap();
        let b = start(options("b", b_port, &[SocketAddr::from(([127, 0, 0, 1], a_port))], dir.path())).await.unwrap();
        seen(&a, "b", |member| member.state == MemberState::Alive).await;
        let commands = b.commands();
        drop(b);
        commands.closed().await;
        seen(&a, "b", |member| member.state == MemberState::Down).await;
        a.shutdown().await;
    });
}

#[test]
fn a_port_in_use_is_named() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = start(options("a", address.port(), &[], dir.path())).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("{address} is in use")), "{error}");
        let mut unreachable = options("a", 1, &[], dir.path());
        unreachable.advertise = "0.0.0.0:9651".parse().unwrap();
        assert!(matches!(start(unreachable).await, Err(StartError::Advertise { .. })));
    });
}
