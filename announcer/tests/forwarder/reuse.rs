//! Ports that clients use again: what was remembered of an earlier connection must not touch a later one.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use announcer::model::Protocol;
use forwarder_ebpf::Flow;
use nix::sys::{
    socket::{self as sys, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt},
    time::{TimeVal, TimeValLike},
};

use crate::{
    Rig,
    lan::{Host, pod_v4, socket},
    rig::{echo, greeting, serve, vip4},
};

const PORT: u16 = 40_000;

/// A connection from a port of the host's own choice.
fn connect_from(host: &Host, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    host.run(|| {
        let client = sys::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        sys::setsockopt(&client, sockopt::ReuseAddr, &true)?;
        sys::setsockopt(&client, sockopt::SendTimeout, &TimeVal::seconds(3))?;
        sys::bind(client.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        sys::connect(client.as_raw_fd(), &SockaddrIn::from(to))?;
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(client)
    })
}

/// Ends a connection by a reset, so that its port can be used again at once.
fn reset(stream: TcpStream) {
    sys::setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}

/// Whom a connection from the port reaches; it is reset then.
fn visit(rig: &Rig, to: SocketAddr) -> String {
    let mut stream = connect_from(&rig.lan.client, PORT, to).unwrap();
    let greeting = greeting(&mut stream);
    echo(&mut stream, 1 << 12);
    reset(stream);
    greeting
}

/// Only this node serves, with its pod.
fn serve_only(rig: &mut Rig, serving: usize) {
    rig.change(|n, wanted| {
        let pods = [socket(pod_v4(n as u8 + 1), 8080)];
        serve(wanted, vip4(), Protocol::Tcp, &[serving], if n == serving { &pods } else { &[] });
    });
}

/// As if the end of the connections had never been seen.
fn unclosed(flow: &mut Flow) {
    flow.closed = [0; 2];
}

#[test]
fn a_connection_that_begins_elsewhere_is_not_caught_by_the_old_one_from_its_port() {
    let mut rig = Rig::new();
    for ends_seen in [true, false] {
        serve_only(&mut rig, 0);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("one"));
        if !ends_seen {
            rig.agents[0].edit_flows(unclosed);
        }
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
    }
}

#[test]
fn what_a_new_owner_remembers_of_a_port_is_forgotten_after_a_while() {
    for (closed, seconds) in [(true, 61), (false, 3 * 3600 + 1)] {
        let mut rig = Rig::new();
        serve_only(&mut rig, 1);
        assert!(visit(&rig, socket(vip4(), 80)).starts_with("two"));
        rig.agents[1].edit_flows(|flow| {
            assert_eq!(flow.closed, [1; 2]);
            flow.closed = if closed { [1; 2] } else { [1, 0] };
            flow.seen = flow.seen.wrapping_sub(seconds);
        });
        serve_only(&mut rig, 0);
        let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
        assert!(greeting(&mut stream).starts_with("one"));
        rig.lan.announce(vip4(), 1);
        echo(&mut stream, 1 << 12);
    }
}

#[test]
fn the_ends_of_a_connection_are_noted() {
    use std::io::{Read, Write};

    let mut rig = Rig::new();
    serve_only(&mut rig, 0);
    let mut stream = connect_from(&rig.lan.client, PORT, socket(vip4(), 80)).unwrap();
    greeting(&mut stream);
    stream.write_all(b"last words").unwrap();
    assert_eq!(rig.agents[0].flows().iter().map(|flow| flow.closed).collect::<Vec<_>>(), [[0; 2]]);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 10);
    assert_eq!(rig.agents[0].flows().iter().map(|flow| flow.closed).collect::<Vec<_>>(), [[1; 2]]);
}
