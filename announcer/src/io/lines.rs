//! Lines: the packet sockets of a thread, a set for each uplink.
//!
//! They are opened and closed as uplinks come and go, and opened anew when they fail. What cannot be opened is tried again
//! after a while; meanwhile nothing is heard or sent there.

#![expect(clippy::disallowed_methods, reason = "edge: notes when a line was lost")]

use std::{
    collections::BTreeMap,
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Until sockets that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a line is made of: one socket or more, of one interface.
pub(crate) trait Sockets: Sized {
    /// Opens them on the interface with this index. Must be called within a tokio runtime.
    fn open(index: u32) -> io::Result<Self>;
    /// Sends a frame.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
    /// The next frame's length in `buffer`, of whichever socket.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;
}

/// A line that has just been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Its uplink's name.
    pub(crate) name: String,
    /// The uplink's index.
    pub(crate) index: u32,
    /// The uplink is not new: its sockets failed, or could not be opened before.
    pub(crate) again: bool,
}

/// An uplink's sockets, or that they are missing.
#[derive(Debug)]
struct Line<S> {
    index: u32,
    sockets: Option<S>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Lines<S> {
    /// What the sockets are for, as the log says it.
    purpose: &'static str,
    /// By the uplink's name.
    lines: BTreeMap<String, Line<S>>,
    /// When what is missing is tried again; set while anything is missing.
    retry_at: Option<Instant>,
    /// Rotates which line is heard first, so that a busy one does not starve the others.
    turn: usize,
}

impl<S: Sockets> Lines<S> {
    /// None yet.
    pub(crate) fn new(purpose: &'static str) -> Self {
        Self { purpose, lines: BTreeMap::new(), retry_at: None, turn: 0 }
    }

    /// Opens and closes sockets until there are some for exactly these uplinks, given by name and index. A new uplink is
    /// tried at once, one whose sockets are missing when [`Self::poll_timeout`] is due. Returns what was opened.
    pub(crate) fn sync<'a>(&mut self, uplinks: impl Iterator<Item = (&'a str, u32)>, now: Instant) -> Vec<Opened> {
        let uplinks: BTreeMap<&str, u32> = uplinks.collect();
        self.lines.retain(|name, line| uplinks.get(name.as_str()) == Some(&line.index));
        let is_due = self.retry_at.is_some_and(|at| at <= now);
        if is_due {
            self.retry_at = None;
        }
        let mut opened = Vec::new();
        for (name, index) in uplinks {
            let known = self.lines.get(name);
            let again = known.is_some();
            if known.is_some_and(|line| line.sockets.is_some() || !is_due) {
                continue;
            }
            let sockets = self.open(name, index, now);
            if sockets.is_some() {
                opened.push(Opened { name: name.to_owned(), index, again });
            }
            self.lines.insert(name.to_owned(), Line { index, sockets });
        }
        if self.lines.values().all(|line| line.sockets.is_some()) {
            self.retry_at = None;
        }
        opened
    }

    fn open(&mut self, name: &str, index: u32, now: Instant) -> Option<S> {
        match S::open(index) {
            Ok(sockets) => Some(sockets),
            Err(error) => {
                tracing::warn!(interface = name, purpose = self.purpose, %error, "cannot open packet sockets; trying again");
                self.retry_at.get_or_insert(now + RETRY);
                None
            }
        }
    }

    /// When [`Self::sync`] has something to try again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The sockets of the uplink with this index, unless they are missing.
    pub(crate) fn at(&self, index: u32) -> Option<&S> {
        self.lines.values().find(|line| line.index == index)?.sockets.as_ref()
    }

    /// As [`Self::at`], to change them.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut S> {
        self.lines.values_mut().find(|line| line.index == index)?.sockets.as_mut()
    }

    /// Sends a frame on the uplink of this name.
    ///
    /// # Errors
    /// `NotConnected` if there are no sockets, else what the kernel says.
    pub(crate) fn send(&self, name: &str, frame: &[u8]) -> io::Result<()> {
        let sockets = self.lines.get(name).and_then(|line| line.sockets.as_ref());
        sockets.ok_or(io::ErrorKind::NotConnected)?.send(frame)
    }

    /// The next frame of any uplink, and the uplink's name. `None`: a line has failed, so [`Self::poll_timeout`] may have
    /// changed.
    pub(crate) async fn hear<'b>(&mut self, buffer: &'b mut [u8]) -> Option<(String, &'b [u8])> {
        self.turn = self.turn.wrapping_add(1);
        let skip = self.turn % self.lines.len().max(1);
        let (name, result) = std::future::poll_fn(|cx| {
            for (name, line) in self.lines.iter().cycle().skip(skip).take(self.lines.len()) {
                if let Some(sockets) = &line.sockets
                    && let Poll::Ready(result) = sockets.poll_recv(cx, buffer)
                {
                    return Poll::Ready((name.clone(), result));
                }
            }
            Poll::Pending
        })
        .await;
        match result {
            Ok(length) => Some((name, buffer.get(..length).unwrap_or_default())),
            Err(error) => {
                self.failed(&name, &error);
                None
            }
        }
    }

    /// An interface that went down says so once, and its sockets live on; anything else gets new sockets.
    fn failed(&mut self, name: &str, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ENETDOWN) {
            return;
        }
        tracing::warn!(interface = name, purpose = self.purpose, %error, "cannot hear; opening new packet sockets");
        if let Some(line) = self.lines.get_mut(name) {
            line.sockets = None;
            self.retry_at.get_or_insert(Instant::now() + RETRY);
        }
    }
}

#[cfg(test)]
mod tests;
