//! TCP probes: a connection must be accepted.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;

use crate::health::state::Answer;

/// Connects to `address` and closes again. The caller bounds the time.
pub(super) async fn ask(address: SocketAddr) -> Answer {
    match TcpStream::connect(address).await {
        Ok(_) => Answer::Success("connected".to_owned()),
        Err(error) => failed(&error),
    }
}

/// An error of the socket as an answer. Errors that speak of this node's own means do not count against the pod.
pub(super) fn failed(error: &io::Error) -> Answer {
    let own = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    if error.raw_os_error().is_some_and(|code| own.contains(&code)) {
        return Answer::NotAsked(describe(error));
    }
    Answer::Failure(describe(error))
}

/// The error in the words people search for, without the code.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed before an answer".to_owned(),
        _ => error.to_string(),
    }
}
