//! A GET in a few lines: enough to read an agent's HTTP from inside its namespace or through its unix socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

const TIMEOUT: Duration = Duration::from_secs(2);

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Response {
    /// The body of a 200.
    ///
    /// # Errors
    /// With any other status.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status == 200, "HTTP {}: {}", self.status, self.body.trim());
        Ok(self.body)
    }
}

/// GET over TCP, in the calling thread's namespace.
///
/// # Errors
/// When there is no answer within two seconds.
pub fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("no HTTP at {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, "GET", path)
}

/// Any request with a body, over TCP, in the calling thread's namespace. The answer may take longer.
///
/// # Errors
/// When there is none in time.
pub fn send(address: SocketAddr, method: &str, path: &str, content_type: &str, body: &str) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("no HTTP at {address}"))?;
    stream.set_read_timeout(Some(10 * TIMEOUT))?;
    let length = body.len();
    let head =
        format!("Host: {address}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {length}");
    stream.write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes())?;
    read(stream)
}

/// GET through a unix socket.
///
/// # Errors
/// When there is no answer within two seconds.
pub fn get_unix(socket: &Path, path: &str) -> Result<Response> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no HTTP at {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, "GET", path)
}

/// POST through a unix socket, without a body.
///
/// # Errors
/// When there is no answer within two seconds.
pub fn post_unix(socket: &Path, path: &str) -> Result<Response> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no HTTP at {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, "POST", path)
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> Result<Response> {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: crier\r\nConnection: close\r\n\r\n")?;
    read(stream)
}

fn read(mut stream: impl Read) -> Result<Response> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).context("not an HTTP response")
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some(Response { status, body: if chunked { dechunk(body)? } else { body.to_owned() } })
}

fn dechunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, tail) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(tail.get(..size)?);
        rest = tail.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_are_read() {
        let plain = parse("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno").expect("a response");
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked = parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
        assert_eq!(chunked.map(|r| r.body).as_deref(), Some("abcd"));
    }
}
