//! The log: lines on standard error, written by a thread of its own.
//!
//! Whoever reads standard error may stall: a journal on a disk that hangs, a terminal that was stopped. No takeover may
//! wait for that. So lines queue; when the queue is full they are lost, counted, and told of once there is room.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, LogLevel, LogSettings};

/// Lines that may wait: about a megabyte.
const QUEUE: usize = 4096;
/// How long an agent that ends waits for its last lines to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Changes the level of the log.
pub type Levels = Arc<dyn Fn(LogLevel) + Send + Sync>;

/// Sets the log up for the process.
///
/// # Errors
/// When there is no thread for it.
pub fn start(log: &LogSettings) -> io::Result<(Lines, Levels)> {
    let lines = Lines::start(io::stderr())?;
    let (filter, handle) = reload::Layer::<Targets, Registry>::new(filter_of(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(lines.clone());
    match log.format {
        LogFormat::Text => {
            // Colours are for people; a file or a journal is searched for words.
            let colours = io::stderr().is_terminal();
            registry.with(layer.with_ansi(colours).with_target(false)).init();
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    let levels = Arc::new(move |level| {
        if let Err(error) = handle.modify(|filter| *filter = filter_of(level)) {
            tracing::warn!(%error, "the log's level could not be changed");
        }
    });
    Ok((lines, levels))
}

fn filter_of(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // It warns at every look at the links of attributes that the kernel has and it does not know.
    // The other tells of each request that fails; whoever asked says what it was for, once.
    let quieter = [("netlink_packet_route", LevelFilter::ERROR), ("kube_client", LevelFilter::OFF)];
    Targets::new().with_default(level).with_targets(quieter)
}

enum Item {
    Line(Vec<u8>),
    /// Everything before this is written.
    Done(SyncSender<()>),
}

/// Where lines go; cheap to clone. Each write is a line, and none waits.
#[derive(Debug, Clone)]
pub struct Lines {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        thread::Builder::new().name("log".into()).spawn(move || write_all(out, &items))?;
        Ok(Self { queue, lost: Arc::default() })
    }

    /// Lines that were lost until now, since nobody read those before them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was said is written, for a second at most.
    pub fn settle(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::Done(done)).is_ok() {
            let _ = written.recv_timeout(LAST_WORDS);
        }
    }
}

/// Until nobody can say anything any more. An output that is closed takes the rest with it.
fn write_all(mut out: impl Write, items: &Receiver<Item>) {
    for item in items {
        match item {
            Item::Line(line) => drop(out.write_all(&line)),
            Item::Done(done) => drop(done.try_send(())),
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Item::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// An output that takes a line whenever it is told to.
    struct Slow {
        go: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.written.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_that_stalls_and_lines_beyond_the_queue_are_counted() {
        let ((go, going), (written, reader)) = (channel(), channel());
        let mut lines = Lines::start(Slow { go: going, written }).unwrap();
        // One may be in the writer's hands already, beside the queue.
        for number in 0..QUEUE + 11 {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        assert!((10..=11).contains(&lines.lost()), "{}", lines.lost());
        go.send(()).unwrap();
        assert_eq!(reader.recv().unwrap(), b"0\n");
        drop(go);
        lines.settle();
    }

    #[test]
    fn last_words_are_written_before_the_end() {
        let ((go, going), (written, reader)) = (channel(), channel());
        let mut lines = Lines::start(Slow { go: going, written }).unwrap();
        go.send(()).unwrap();
        lines.write_all(b"farewell\n").unwrap();
        lines.settle();
        assert_eq!(reader.try_recv().unwrap(), b"farewell\n");
        assert_eq!(lines.lost(), 0);
    }
}
