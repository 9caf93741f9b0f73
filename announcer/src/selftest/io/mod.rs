//! The self-test's edge: a thread of its own with packet sockets, so that no question delays an answer of the announcer.
//!
//! ```text
//!  Scene, Links --> assign (pure) --+
//!  frames, time --------------------+--> Tester (pure) --> frames, log, Verdicts, Results
//! ```

#![expect(clippy::disallowed_methods, reason = "edge: tells the core the time")]

use std::{
    io,
    sync::Arc,
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
    io::{
        lines::Lines,
        publish,
        resolution::{LONGEST, Resolution},
        sleep_until,
    },
    link::{Links, Uplink},
    source::Snapshot,
};

/// Assignments are made anew at most this often: who tests a VIP may be a moment out of date.
const REST: Duration = Duration::from_millis(250);

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
        lines: Lines::new("asking for VIPs"),
        assign_at: None,
        rested: Instant::now(),
        verdicts,
        results,
    };
    std::thread::Builder::new().name("selftest".into()).spawn(move || runtime.block_on(driver.run(scenes, links)))?;
    Ok(SelfTest { verdicts: verdicts_out, results: results_out })
}

#[derive(Debug)]
struct Driver {
    me: NodeName,
    tester: Tester,
    lines: Lines<Resolution>,
    /// When to look at what has changed.
    assign_at: Option<Instant>,
    /// Not before this.
    rested: Instant,
    verdicts: watch::Sender<Arc<Verdicts>>,
    results: watch::Sender<Arc<Results>>,
}

impl Driver {
    async fn run(mut self, mut scenes: watch::Receiver<Scenes>, mut links: watch::Receiver<Arc<Links>>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let due = [self.tester.poll_timeout(), self.lines.poll_timeout(), self.assign_at];
            tokio::select! {
                heard = self.lines.hear(&mut buffer) => if let Some((name, frame)) = heard {
                    self.tester.handle_frame(&name, frame, Instant::now());
                },
                changed = scenes.changed() => match changed {
                    Ok(()) => self.assign_at = Some(self.rested),
                    Err(_) => return,
                },
                Ok(()) = links.changed() => self.assign_at = Some(self.rested),
                () = sleep_until(due.into_iter().flatten().min()) => {}
            }
            let now = Instant::now();
            if self.assign_at.is_some_and(|at| at <= now) {
                (self.assign_at, self.rested) = (None, now + REST);
                let links = Arc::clone(&links.borrow_and_update());
                let scene = scenes.borrow_and_update().clone();
                self.assign(scene.as_deref(), &links, now);
                self.sync_lines(&links, now);
            } else if self.lines.poll_timeout().is_some_and(|at| at <= now) {
                let links = Arc::clone(&links.borrow());
                self.sync_lines(&links, now);
            }
            self.tester.handle_timeout(now);
            self.act();
        }
    }

    fn assign(&mut self, scene: Option<&(Scene, Arc<Snapshot>)>, links: &Links, now: Instant) {
        let usable = |name: &str| links.uplinks.get(name).is_some_and(Uplink::usable);
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
        publish(&self.verdicts, Arc::new(self.tester.verdicts()));
        let results = self.tester.results();
        if **self.results.borrow() != *results {
            self.results.send_replace(Arc::new(results.clone()));
        }
    }

    fn send(&self, interface: &str, frame: &[u8]) {
        // A question that is not sent is not answered, and neither are those that tell whether this node is at fault.
        if let Err(error) = self.lines.send(interface, frame) {
            tracing::debug!(interface, %error, "cannot ask for a VIP");
        }
    }

    fn sync_lines(&mut self, links: &Links, now: Instant) {
        self.lines.sync(links.usable().map(|uplink| (uplink.name.as_str(), uplink.index)), now);
    }
}
