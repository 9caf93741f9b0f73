//! SCTP (RFC 9260), by packets made by hand: not every kernel has its sockets.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use announcer::model::Protocol;
use forwarder_ebpf::{DropReason, Message};
use nix::sys::socket::{Backlog, SockaddrStorage, bind, connect, listen};

use crate::{
    Rig, eventually, frames,
    lan::{Host, pod_v4, pod_v6, socket},
    rig::{echo, greeting, serve_at, vip4, vip6},
    tap::Tap,
};

/// The port of Diameter.
const PORT: u16 = 3868;
/// The client's port where any will do.
const CLIENT: u16 = 40_000;
const SCTP: u8 = 132;
const TAG: [u8; 4] = [0x5a, 1, 2, 3];

/// Types of chunks.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The checksum, by the definition: of the bits of each byte, the least significant first.
pub(crate) fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |n| u32::from(byte >> n & 1))) {
        let carry = (crc ^ bit) & 1;
        crc = crc >> 1 ^ if carry == 1 { 0x82f6_3b78 } else { 0 };
    }
    (!crc).to_le_bytes()
}

/// A packet with a chunk, behind whose header lies a tag.
fn sctp(from: u16, to: u16, chunk: u8) -> Vec<u8> {
    let tag = if chunk == INIT { [0; 4] } else { TAG };
    let header = [&from.to_be_bytes()[..], &to.to_be_bytes(), &tag, &[0; 4]].concat();
    let mut packet = [&header[..], &[chunk, 0, 0, 20], &TAG, &[7; 12]].concat();
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn frame(to: [u8; 6], from: IpAddr, vip: IpAddr, packet: &[u8]) -> Vec<u8> {
    frames::ip(to, from, vip, SCTP, packet)
}

fn client(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { "10.77.0.9" } else { "fd77::9" }.parse().unwrap()
}

fn pod(vip: IpAddr, n: usize) -> IpAddr {
    if vip.is_ipv4() { pod_v4(n as u8 + 1) } else { pod_v6(n as u8 + 1) }
}

/// With pods that answer by hand alone: a kernel that has SCTP would abort what is for none of its sockets, so it is given no
/// way to the client.
fn rig() -> Rig {
    let rig = serving_rig();
    for pod in &rig.lan.pods {
        for vip in [vip4(), vip6()] {
            pod.ip(&format!("route add blackhole {}", client(vip)));
        }
    }
    rig
}

fn serving_rig() -> Rig {
    let mut rig = Rig::new();
    serve_from(&mut rig, &[0, 1]);
    rig
}

fn serve_from(rig: &mut Rig, nodes: &[usize]) {
    rig.change(|n, wanted| {
        for vip in [vip4(), vip6()] {
            serve_at(wanted, vip, PORT, Protocol::Sctp, nodes, &[socket(pod(vip, n), PORT)]);
        }
    });
}

/// Sends the client's packet to the VIP's owner.
fn send(rig: &Rig, vip: IpAddr, packet: &[u8]) {
    let owner = rig.lan.nodes[0].mac("eth0");
    frames::send(&rig.lan.client, &[frame(owner, client(vip), vip, packet)]);
}

fn taps(rig: &Rig) -> Vec<Tap> {
    rig.lan.pods.iter().map(|pod| Tap::new(pod, "eth0")).collect()
}

/// The pod that gets the packet, in which the pod's address alone was put in the VIP's place.
fn taken_by(taps: &[Tap], vip: IpAddr, packet: &[u8]) -> usize {
    let taken = Cell::new(None);
    eventually("a pod gets it", || {
        let came = |n: &usize| {
            taps[*n].all().iter().any(|seen| frames::carries(seen, client(vip), pod(vip, *n), SCTP, packet))
        };
        taken.set((0..taps.len()).find(came));
        taken.get().is_some()
    });
    taken.get().unwrap()
}

/// The pod's answer, sent to the client.
fn answer(pods: &Host, from: IpAddr, to: IpAddr, gateway: [u8; 6], packet: &[u8]) {
    frames::send(pods, &[frame(gateway, from, to, packet)]);
}

#[test]
fn associations_reach_pods_on_both_nodes_and_the_pods_answers_come_from_the_vip() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283_u32.to_le_bytes(), "RFC 3720, B.4's polynomial");
    let rig = rig();
    let (taps, wire) = (taps(&rig), Tap::new(&rig.lan.client, "eth0"));
    for vip in [vip4(), vip6()] {
        let mut seen = [0, 0];
        for from in CLIENT..CLIENT + 16 {
            let init = sctp(from, PORT, INIT);
            send(&rig, vip, &init);
            let n = taken_by(&taps, vip, &init);
            seen[n] += 1;
            let accepted = sctp(PORT, from, INIT_ACK);
            answer(&rig.lan.pods[n], pod(vip, n), client(vip), rig.lan.nodes[n].mac("pod0"), &accepted);
            let is_it = |frame: &[u8]| frames::carries(frame, vip, client(vip), SCTP, &accepted);
            assert!(wire.next(is_it).is_some(), "the answer of {} comes from {vip}", pod(vip, n));
            let data = sctp(from, PORT, DATA);
            send(&rig, vip, &data);
            assert_eq!(taken_by(&taps, vip, &data), n, "an association stays with its pod");
        }
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    }
    for agent in &rig.agents {
        let drops = agent.counters().drops;
        assert!(drops.values().all(|&count| count == 0), "{drops:?}");
    }
}

#[test]
fn an_association_whose_slot_moves_goes_on_by_a_second_hop() {
    let mut rig = rig();
    let taps = taps(&rig);
    for vip in [vip4(), vip6()] {
        serve_from(&mut rig, &[1]);
        let init = sctp(CLIENT, PORT, INIT);
        send(&rig, vip, &init);
        assert_eq!(taken_by(&taps, vip, &init), 1);
        serve_from(&mut rig, &[0]);
        let before = rig.agents[0].counters().second_hops;
        let data = sctp(CLIENT, PORT, DATA);
        send(&rig, vip, &data);
        assert_eq!(taken_by(&taps, vip, &data), 1);
        assert!(rig.agents[0].counters().second_hops > before);
        send(&rig, vip, &init);
        assert_eq!(taken_by(&taps, vip, &init), 0, "one that begins goes where the slot is");
    }
}

#[test]
fn a_port_without_a_service_is_answered_by_an_abort_with_the_right_tag_and_checksum() {
    let rig = rig();
    let wire = Tap::new(&rig.lan.client, "eth0");
    for vip in [vip4(), vip6()] {
        for (chunk, flags) in [(INIT, 0), (DATA, 1)] {
            send(&rig, vip, &sctp(CLIENT, 82, chunk));
            let mut abort = sctp(82, CLIENT, ABORT)[..16].to_vec();
            abort[8..].copy_from_slice(&[0, 0, 0, 0, ABORT, flags, 0, 4]);
            let sum = crc32c(&abort);
            abort[8..12].copy_from_slice(&sum);
            let is_it = |frame: &[u8]| frames::carries(frame, vip, client(vip), SCTP, &abort);
            assert!(wire.next(is_it).is_some(), "no such answer to {chunk} from {vip}");
        }
        send(&rig, vip, &sctp(CLIENT, 82, ABORT));
    }
    eventually("aborts are not answered", || rig.drops(0, DropReason::NoService) == 2);
    assert_eq!(rig.agents[0].counters().messages[&Message::Abort], 4);
}

#[test]
fn an_abort_counts_as_a_reset_and_an_orderly_end_does_not() {
    let mut rig = rig();
    serve_from(&mut rig, &[0]);
    let taps = taps(&rig);
    for (chunk, resets) in [(SHUTDOWN_COMPLETE, 0), (ABORT, 1)] {
        for chunk in [INIT, DATA, chunk] {
            let packet = sctp(CLIENT, PORT, chunk);
            send(&rig, vip4(), &packet);
            assert_eq!(taken_by(&taps, vip4(), &packet), 0);
        }
        let counters = rig.agents[0].counters();
        assert_eq!(counters.conversations.values().map(|all| all.resets_by_clients).sum::<u64>(), resets);
    }
}

/// TCP would be given another port.
#[test]
fn an_association_that_the_pod_could_not_tell_from_another_is_dropped_until_that_is_over() {
    let mut rig = rig();
    let taps = taps(&rig);
    for (vip, other) in [(vip4(), "10.77.0.101"), (vip6(), "fd77::101")] {
        let other: IpAddr = other.parse().unwrap();
        rig.change(|n, wanted| {
            for vip in [vip, other] {
                serve_at(wanted, vip, PORT, Protocol::Sctp, &[0], &[socket(pod(vip, n), PORT)]);
            }
        });
        let before = rig.drops(0, DropReason::ClientPort);
        let init = sctp(CLIENT, PORT, INIT);
        send(&rig, vip, &init);
        assert_eq!(taken_by(&taps, vip, &init), 0);
        send(&rig, other, &init);
        eventually("its port is taken", || rig.drops(0, DropReason::ClientPort) == before + 1);
        send(&rig, vip, &sctp(CLIENT, PORT, ABORT));
        taken_by(&taps, vip, &sctp(CLIENT, PORT, ABORT));
        send(&rig, other, &init);
        assert_eq!(taken_by(&taps, other, &init), 0);
    }
}

/// An SCTP socket in the style of TCP's, which can be used as one; `None` where the kernel has none.
fn real_socket(host: &Host, v4: bool) -> Option<OwnedFd> {
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes integers only.
    let socket =
        host.run(|| unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) });
    // SAFETY: just made, and nobody else's.
    (socket >= 0).then(|| unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Says who it is, then echoes.
fn real_server(host: &Host, address: SocketAddr, who: &'static str) -> Option<()> {
    let socket = real_socket(host, address.is_ipv4())?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&socket, Backlog::new(16).unwrap()).unwrap();
    let listener = TcpListener::from(socket);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = writeln!(stream, "{who}");
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Some(())
}

fn real_client(rig: &Rig, vip: IpAddr) -> (TcpStream, String) {
    let socket_of_client = real_socket(&rig.lan.client, vip.is_ipv4()).unwrap();
    connect(socket_of_client.as_raw_fd(), &SockaddrStorage::from(socket(vip, PORT))).unwrap();
    let mut stream = TcpStream::from(socket_of_client);
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let who = greeting(&mut stream);
    (stream, who)
}

/// In both pods, for the VIP's family; whether the kernel has such sockets.
fn real_servers(rig: &Rig, vip: IpAddr) -> bool {
    let start = |(n, who)| real_server(&rig.lan.pods[n], socket(pod(vip, n), PORT), who);
    let has_sctp = ["one", "two"].into_iter().enumerate().map(start).all(|started| started.is_some());
    if !has_sctp {
        println!("skipped: this kernel has no SCTP (modprobe sctp)");
    }
    has_sctp
}

#[test]
fn real_associations_reach_both_pods_carry_bytes_and_outlive_a_move_of_their_slots() {
    let mut rig = serving_rig();
    for vip in [vip4(), vip6()] {
        if !real_servers(&rig, vip) {
            return;
        }
        serve_from(&mut rig, &[0, 1]);
        let mut streams: Vec<_> = (0..16).map(|_| real_client(&rig, vip)).collect();
        assert!(["one", "two"].iter().all(|pod| streams.iter().any(|(_, who)| who == pod)));
        streams.iter_mut().for_each(|(stream, _)| echo(stream, 1 << 15));
        serve_from(&mut rig, &[0]);
        streams.iter_mut().for_each(|(stream, _)| echo(stream, 1 << 15));
        assert_eq!(real_client(&rig, vip).1, "one");
    }
}

/// The hooks read its packets too, of which the kernel carries many as one.
#[test]
fn a_real_association_with_a_pod_itself_carries_bytes() {
    let rig = serving_rig();
    for (vip, prefix, node) in [(vip4(), "10.77.101.0/24", "10.77.0.11"), (vip6(), "fd77:1::/64", "fd77::11")] {
        if !real_servers(&rig, vip) {
            return;
        }
        rig.lan.client.ip(&format!("route add {prefix} via {node}"));
        let (mut stream, who) = real_client(&rig, pod(vip, 0));
        assert_eq!(who, "one");
        echo(&mut stream, 1 << 15);
    }
}
