//! The self-test's edge: a thread of its own with packet sockets, so that no question delays an answer of the announcer.
//!
//! ```text
//!  Scene, Links --> assign (pure) --+
//!  frames, time --------------------+--> Tester (pure) --> frames, log, Verdicts, Results
//! ```

#![expect(clippy::disallowed_methods, reason = "edge: tells the core the time")]

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use membership::NodeName;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Results, Verdicts,
    assign::{Assignment, Scene, assign},
    tester::{Action, Tester},
};
use crate::{
    announce::io::packet::{LONGEST, Sockets},
    link::Links,
    source::Snapshot,
};

/// Assignments are made anew at most this often: who tests a VIP may be a moment out of date.
const REST: Duration = Duration::from_millis(250);
/// Until sockets that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is tested, and by what it was decided; `None` before anything is known.
pub type Scenes = Option<Arc<(Scene, Arc<Snapshot>)>>;

/// What the thread finds out.
#[derive(Debug)]
pub struct SelfTest {
    /// For ownership: changes seldom.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// For people: changes with every round.
    pub results: watch::Receiver<Arc<Results>>,
}

/// Starts the thread, in the calling thread's network namespace. It ends when `scenes` has no sender any more.
///
/// # Errors
/// When the thread or its event loop cannot be had. Sockets that cannot be opened are logged and tried again.
pub fn start(
    me: NodeName,
    scenes: watch::Receiver<Scenes>,
    links: watch::Receiver<Arc<Links>>,
) -> io::Result<SelfTest> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (verdicts, verdicts_out) = watch::channel(Arc::default());
    let (results, results_out) = watch::channel(Arc::default());
    let driver = Driver {
        me,
        tester: Tester::default(),
        lines: BTreeMap::new(),
        retry_at: None,
        assign_at: None,
        rested: Instant::now(),
        turn: 0,
        verdicts,
        results,
    };
    std::thread::Builder::new().name("selftest".into()).spawn(move || runtime.block_on(driver.run(scenes, links)))?;
    Ok(SelfTest { verdicts: verdicts_out, results: results_out })
}

/// An uplink's sockets, or that they are missing.
#[derive(Debug)]
struct Line {
    index: u32,
    sockets: Option<Sockets>,
}

#[derive(Debug)]
struct Driver {
    me: NodeName,
    tester: Tester,
    lines: BTreeMap<String, Line>,
    retry_at: Option<Instant>,
    /// When to look at what has changed.
    assign_at: Option<Instant>,
    /// Not before this.
    rested: Instant,
    turn: usize,
    verdicts: watch::Sender<Arc<Verdicts>>,
    results: watch::Sender<Arc<Results>>,
}

impl Driver {
    async fn run(mut self, mut scenes: watch::Receiver<Scenes>, mut links: watch::Receiver<Arc<Links>>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let due = [self.tester.poll_timeout(), self.retry_at, self.assign_at].into_iter().flatten().min();
            tokio::select! {
                (name, result) = self.next_frame(&mut buffer) => self.heard(&name, result, &buffer),
                changed = scenes.changed() => match changed {
                    Ok(()) => self.assign_at = Some(self.rested),
                    Err(_) => return,
                },
                Ok(()) = links.changed() => self.assign_at = Some(self.rested),
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if self.assign_at.is_some_and(|at| at <= now) {
                (self.assign_at, self.rested) = (None, now + REST);
                let links = Arc::clone(&links.borrow_and_update());
                let scene = scenes.borrow_and_update().clone();
                self.assign(scene.as_deref(), &links, now);
                self.sync_lines(&links);
            } else if self.retry_at.is_some_and(|at| at <= now) {
                self.sync_lines(&Arc::clone(&links.borrow()));
            }
            self.tester.handle_timeout(now);
            self.act();
        }
    }

    fn assign(&mut self, scene: Option<&(Scene, Arc<Snapshot>)>, links: &Links, now: Instant) {
        let usable = |name: &str| links.uplinks.get(name).is_some_and(crate::link::Uplink::usable);
        let assignment = scene
            .map_or_else(Assignment::default, |(scene, snapshot)| assign(&self.me, scene, &snapshot.desired, usable));
        self.tester.handle_assignment(assignment, now);
    }

    /// Sends and tells what the core has to say.
    fn act(&mut self) {
        while let Some(action) = self.tester.poll_action() {
            match action {
                Action::Send { interface, frame } => self.send(&interface, &frame),
                Action::Report { vip, trouble } => {
                    let result = trouble.outcome.as_str();
                    warn!(%vip, owner = %trouble.owner, interface = trouble.interface, result, "asked for the VIP: {trouble}");
                }
                Action::Recovered { vip } => {
                    info!(%vip, "asked for the VIP: its owner, and nobody else, answers again");
                }
                Action::Replace { vip, owner } => {
                    warn!(%vip, %owner, "the VIP's owner goes on being silent: taking the VIP from it");
                }
            }
        }
        let (verdicts, results) = (self.tester.verdicts(), self.tester.results());
        self.verdicts.send_if_modified(|current| replace_if_new(current, &verdicts));
        self.results.send_if_modified(|current| replace_if_new(current, results));
    }

    fn send(&self, interface: &str, frame: &[u8]) {
        let sockets = self.lines.get(interface).and_then(|line| line.sockets.as_ref());
        // A question that is not sent is not answered, and neither are those that tell whether this node is at fault.
        if let Some(Err(error)) = sockets.map(|sockets| sockets.send(frame)) {
            tracing::debug!(interface, %error, "cannot ask for a VIP");
        }
    }

    /// Opens and closes sockets until there are some for exactly the usable uplinks.
    fn sync_lines(&mut self, links: &Links) {
        self.retry_at = None;
        self.lines.retain(|name, line| {
            links.uplinks.get(name).is_some_and(|uplink| uplink.usable() && uplink.index == line.index)
        });
        for uplink in links.usable() {
            let line = self.lines.entry(uplink.name.clone()).or_insert(Line { index: uplink.index, sockets: None });
            if line.sockets.is_some() {
                continue;
            }
            match Sockets::open(uplink.index) {
                Ok(sockets) => line.sockets = Some(sockets),
                Err(error) => {
                    warn!(interface = uplink.name, %error, "cannot open packet sockets to ask for VIPs; trying again");
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn heard(&mut self, interface: &str, result: io::Result<usize>, buffer: &[u8]) {
        match result {
            Ok(length) => {
                let frame = buffer.get(..length).unwrap_or_default();
                self.tester.handle_frame(interface, frame, Instant::now());
            }
            // Said once by an interface that goes down; the socket lives on.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                warn!(interface, %error, "cannot hear answers; opening new packet sockets");
                if let Some(line) = self.lines.get_mut(interface) {
                    line.sockets = None;
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    /// The next frame of any uplink, each heard first in turn.
    async fn next_frame(&mut self, buffer: &mut [u8]) -> (String, io::Result<usize>) {
        self.turn = self.turn.wrapping_add(1);
        let skip = self.turn % self.lines.len().max(1);
        std::future::poll_fn(|cx| {
            for (name, line) in self.lines.iter().cycle().skip(skip).take(self.lines.len()) {
                if let Some(sockets) = &line.sockets
                    && let Poll::Ready(result) = sockets.poll_recv(cx, buffer)
                {
                    return Poll::Ready((name.clone(), result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn replace_if_new<T: PartialEq + Clone>(current: &mut Arc<T>, new: &T) -> bool {
    let changed = **current != *new;
    if changed {
        *current = Arc::new(new.clone());
    }
    changed
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
