//! The two doors: the TCP port for reading and the unix socket for acting, and the task that serves one.
//!
//! A client can hold neither memory nor descriptors: connections are bounded in number and age, heads in size and time.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};

use crate::metrics::Limits;

/// Connections served at a time, each door for itself; more wait in the kernel's queue.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take to come, and how long a connection may idle between requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// After this a connection gets no further requests, and [`LAST_ANSWER`] later it is cut.
const MAX_AGE: Duration = Duration::from_secs(120);
const LAST_ANSWER: Duration = Duration::from_secs(15);
/// Buffer of a connection, bytes: bounds a request's head.
const BUFFER: usize = 16 * 1024;
/// Pause after a failed accept (out of descriptors, as a rule), so that the failure does not become a busy loop.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why a door could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The TCP port is taken.
    #[error(
        "http.bind: {address} is in use by another program; choose another address for http.bind, or end that program \
         (`ss -ltnp sport = :{}` names it)", address.port()
    )]
    PortInUse {
        /// The configured address.
        address: SocketAddr,
    },
    /// The TCP address cannot be bound for another reason.
    #[error("http.bind: cannot listen on {address}: {source}; http.bind must be an address of this host")]
    Tcp {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another agent answers on the socket.
    #[error(
        "socket: another agent is running and answers on {}; end it, or give this one its own socket, stateDir and \
         pinDir", path.display()
    )]
    AgentRunning {
        /// The configured path.
        path: PathBuf,
    },
    /// The path holds something that is not a socket.
    #[error("socket: {} exists and is not a socket; move it away, or choose another path for socket", path.display())]
    NotASocket {
        /// The configured path.
        path: PathBuf,
    },
    /// The socket cannot be made for another reason.
    #[error("socket: cannot listen on {}: {source}; its folder must exist and be writable by the agent", path.display())]
    Unix {
        /// The configured path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `http.bind`. Must be called within a tokio runtime.
///
/// # Errors
/// If the port is in use or the address not ours; the text names the key, the address, and what to do.
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse { address },
        _ => BindError::Tcp { address, source },
    })
}

/// The agent's unix socket; its file is removed on drop, unless another agent has replaced it.
#[derive(Debug)]
pub struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that is ours.
    file: (u64, u64),
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            // Nothing to be done about a failure: the next agent finds that nobody answers there.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether an agent answers on the unix socket at `path`.
#[must_use]
pub fn is_answered(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Removes the file of a unix socket on which nobody answers, if it is there.
///
/// # Errors
/// If it stays.
pub fn remove_unix(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

/// Listens on the unix socket at `path`, for root alone (mode 0600). A file left by an agent that is gone is replaced.
/// Must be called within a tokio runtime.
///
/// # Errors
/// If another agent answers there, if the path holds something else, or if it cannot be made.
pub fn bind_unix(path: &Path) -> Result<UnixDoor, BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    if let Ok(file) = fs::symlink_metadata(path) {
        if !file.file_type().is_socket() {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(BindError::AgentRunning { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(error)),
        }
    }
    // /run is empty after a boot.
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // Made under another name and moved into place when its mode is right, so that nobody can connect in between.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left by an agent that died in this very moment; if it is anything else, bind fails and says so.
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::symlink_metadata(&fresh))
        .and_then(|file| fs::rename(&fresh, path).map(|()| (file.dev(), file.ino())));
    match placed {
        Ok(file) => Ok(UnixDoor { listener, path: path.to_owned(), file }),
        Err(source) => {
            let _ = fs::remove_file(&fresh);
            Err(failed(source))
        }
    }
}

/// A door with its accept loop.
pub trait Door: Send + 'static {
    /// A connection through it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next connection.
    fn next(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Door for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&mut self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Door for UnixDoor {
    type Stream = tokio::net::UnixStream;
    async fn next(&mut self) -> io::Result<Self::Stream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves `router` at `door` for ever; dropping the future closes the door and all its connections.
pub async fn serve(mut door: impl Door, router: Router, limits: Limits) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        if slots.available_permits() == 0 {
            limits.hit("http_connections");
            tracing::warn!(limit = MAX_CONNECTIONS, "too many HTTP connections: further ones wait");
        }
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        // Reaps what has ended, so that the set holds no more than the connections there are.
        while connections.try_join_next().is_some() {}
        match door.next().await {
            Ok(stream) => {
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    converse(stream, service).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection; trying again");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection. Errors are the client's (it hung up, or spoke something else), so nobody needs them.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: TowerToHyperService<Router>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = tokio::time::sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_key_and_what_to_do() {
        let taken = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr().unwrap();
        let holder = bind_tcp(taken).await.unwrap();
        let error = bind_tcp(taken).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("http.bind: {taken} is in use")), "{error}");
        assert!(error.contains("choose another address"), "{error}");
        drop(holder);
        let error = bind_tcp("192.0.2.1:9650".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("must be an address of this host"), "{error}");
    }

    #[tokio::test]
    async fn the_socket_is_roots_alone_and_goes_with_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crier.sock");
        let door = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(door);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn a_living_agents_socket_is_not_taken_and_a_dead_ones_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crier.sock");
        let door = bind_unix(&path).unwrap();
        let error = bind_unix(&path).unwrap_err();
        assert!(matches!(error, BindError::AgentRunning { .. }), "{error}");
        assert!(error.to_string().contains("another agent is running"), "{error}");
        drop(door);
        // What an agent that was killed leaves: the file, and nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let successor = bind_unix(&path).unwrap();
        assert!(matches!(bind_unix(&path), Err(BindError::AgentRunning { .. })), "it answers again");
        drop(successor);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious.txt");
        fs::write(&path, "precious").unwrap();
        let error = bind_unix(&path).unwrap_err().to_string();
        assert!(error.contains("is not a socket; move it away"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_sockets_folder_is_made_as_run_is_empty_after_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        drop(bind_unix(&folder.path().join("run/crier/crier.sock")).unwrap());
        fs::write(folder.path().join("file"), "").unwrap();
        let error = bind_unix(&folder.path().join("file/crier.sock")).unwrap_err().to_string();
        assert!(error.contains("file/crier.sock"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_does_not_remove_its_successors_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crier.sock");
        let door = bind_unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = bind_unix(&path).unwrap();
        drop(door);
        assert!(path.exists());
        drop(successor);
    }
}
