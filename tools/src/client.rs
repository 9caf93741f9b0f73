//! Asks an agent over its unix socket or its HTTP port.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use announcer::http::{Status, flows::Flows};
use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// How long an agent may take for a whole answer; a drain is answered within ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer that is taken, bytes: about a million backends.
const MAX_ANSWER: usize = 256 << 20;

/// Where an agent is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agent {
    /// Its unix socket.
    Unix(PathBuf),
    /// `HOST:PORT` of its HTTP surface.
    Http(String),
}

impl FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("http://") {
            let authority = rest.trim_end_matches('/');
            let parsed = authority.parse::<hyper::http::uri::Authority>().ok();
            return match parsed.filter(|_| !authority.contains('@')) {
                Some(parsed) if parsed.port_u16().is_some() => Ok(Self::Http(authority.into())),
                Some(parsed) if parsed.host() == authority => Ok(Self::Http(format!("{authority}:9650"))),
                _ => Err("expected http://HOST or http://HOST:PORT".to_owned()),
            };
        }
        match text.strip_prefix("unix:").unwrap_or(text) {
            "" => Err("the path is empty".to_owned()),
            path if path.contains("://") => Err("expected unix:PATH, PATH or http://HOST:PORT".to_owned()),
            path => Ok(Self::Unix(path.into())),
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

impl Agent {
    /// What the agent tells of itself, as it came.
    pub(crate) async fn status_json(&self) -> Result<Bytes> {
        self.ask(Method::GET, "/api/v1/status").await
    }

    /// What the agent tells of itself.
    pub(crate) async fn status(&self) -> Result<Status> {
        let json = self.status_json().await?;
        serde_json::from_slice(&json).with_context(|| {
            format!("the answer of {self} is not a status; is it a Crier agent, and not much older than this crierctl?")
        })
    }

    /// Connections, by the path that asks for them.
    pub(crate) async fn flows(&self, path: &str) -> Result<Flows> {
        if let Self::Http(_) = self {
            bail!("{self} does not name clients; run crierctl on the node itself, with --agent unix:PATH");
        }
        let json = self.ask(Method::GET, path).await?;
        serde_json::from_slice(&json).with_context(|| format!("the answer of {self} does not list connections"))
    }

    /// Has the agent do something; returns what it says.
    pub(crate) async fn act(&self, path: &str) -> Result<String> {
        if let Self::Http(_) = self {
            bail!("{self} only answers questions; to act, run crierctl on the node itself, with --agent unix:PATH");
        }
        let said = self.ask(Method::POST, path).await?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes> {
        let asked = async {
            match self {
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(|error| self.unreachable(&error))?;
                    self.exchange(stream, method, path).await
                }
                Self::Http(authority) => {
                    let stream = TcpStream::connect(authority).await.map_err(|error| self.unreachable(&error))?;
                    self.exchange(stream, method, path).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            Err(anyhow!(
                "{self} has not answered within {} s; is the agent stopped or overloaded? see its log",
                PATIENCE.as_secs()
            ))
        })
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
    ) -> Result<Bytes> {
        let host = if let Self::Http(authority) = self { authority } else { "crier" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let not_http = || format!("{self} does not answer as an agent does; is it Crier's address?");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(not_http)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.with_context(not_http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow!("the answer of {self} broke off: {error}"))?
            .to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let said = String::from_utf8_lossy(&body);
        let said = if said.trim().is_empty() { status.to_string() } else { said.trim().to_owned() };
        bail!("{self} refused: {said}")
    }

    /// Why nobody could be reached, and what to do.
    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let advice = match (self, error.kind()) {
            (Self::Unix(_), io::ErrorKind::NotFound) => {
                "no agent has made this socket: is `crier` running on this node, and is this the `socket` of its configuration?"
            }
            (Self::Unix(_), io::ErrorKind::PermissionDenied) => "the socket is root's: use sudo",
            (Self::Unix(_), io::ErrorKind::ConnectionRefused) => {
                "the agent that made this socket is gone: start `crier` again"
            }
            (Self::Unix(_), _) => "is this the `socket` of the agent's configuration?",
            (Self::Http(_), io::ErrorKind::ConnectionRefused) => {
                "nobody listens there: is `crier` running, and is this its `http.bind`?"
            }
            (Self::Http(_), _) => "is the host right, and does a firewall let port 9650 through?",
        };
        anyhow!("cannot reach the agent at {self}: {error}\n  {advice}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_address_is_a_socket_or_a_url() {
        for (text, agent) in [
            ("unix:/run/crier/crier.sock", Agent::Unix("/run/crier/crier.sock".into())),
            ("/tmp/a.sock", Agent::Unix("/tmp/a.sock".into())),
            ("http://n1:9650", Agent::Http("n1:9650".into())),
            ("http://n1:9650/", Agent::Http("n1:9650".into())),
            ("http://n1", Agent::Http("n1:9650".into())),
            ("http://[fd00::1]:80", Agent::Http("[fd00::1]:80".into())),
            ("http://[fd00::1]", Agent::Http("[fd00::1]:9650".into())),
        ] {
            assert_eq!(text.parse(), Ok(agent), "{text}");
        }
        for text in ["", "unix:", "https://n1:9650", "http://", "http://n1:9650/metrics", "http://me@n1", "http://n1:x"]
        {
            assert!(text.parse::<Agent>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn errors_say_what_to_do() {
        for (agent, part) in [
            ("unix:/nonexistent/crier.sock", "is `crier` running on this node"),
            ("http://127.0.0.1:1", "nobody listens there"),
        ] {
            let error = format!("{:#}", agent.parse::<Agent>().unwrap().status().await.unwrap_err());
            assert!(error.contains(part) && error.contains(agent), "{error}");
        }
        let error = "http://127.0.0.1:1".parse::<Agent>().unwrap().act("/api/v1/drain").await.unwrap_err();
        assert!(error.to_string().contains("run crierctl on the node itself"), "{error}");
    }
}
