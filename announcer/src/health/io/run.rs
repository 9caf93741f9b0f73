//! The prober's task: owns the [`Schedule`], starts the probes that are due, publishes the verdicts.
//!
//! One task, and one short task for each probe in flight, all in one set: dropping the [`Prober`] ends them all.
//! Plans come in and verdicts go out by `watch`, so a slow reader skips to the newest.
#![expect(clippy::disallowed_methods, reason = "edge: reads the clocks for the schedule")]

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use membership::{Target, Verdict};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{http, tcp};
use crate::{
    health::{
        metrics::ProbeMetrics,
        plan::Plan,
        schedule::{Schedule, Start},
        state::{Answer, Effect, Verdicts},
    },
    io::sleep_until,
    metrics::Limits,
    model::{Check, CheckKind},
};

/// Probes in flight at a time: each holds a descriptor. With this many hanging pods further probes are late.
pub const MAX_IN_FLIGHT: usize = 512;

/// A running prober; dropping it ends all probing.
#[derive(Debug)]
pub struct Prober {
    verdicts: watch::Receiver<Arc<Verdicts>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// The verdicts, replaced as a whole when one of them or its reason changes. Empty until the first answer.
    #[must_use]
    pub fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.verdicts.clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts probing by the newest of `plan`, which is none while nothing is known of the pods; must be called within a tokio runtime. Ends when `plan`'s sender is dropped.
/// `seed` decides the random part of the pauses: give each node another one.
///
/// # Errors
/// If TLS cannot be set up.
pub fn start(
    plan: watch::Receiver<Option<Arc<Plan>>>,
    metrics: ProbeMetrics,
    limits: Limits,
    seed: u64,
) -> Result<Prober, rustls::Error> {
    let (publish, verdicts) = watch::channel(Arc::default());
    let driver = Driver {
        schedule: Schedule::new(seed),
        probes: JoinSet::new(),
        tls: http::tls_config()?,
        metrics,
        limits,
        crowded: false,
        publish,
    };
    Ok(Prober { verdicts, task: tokio::spawn(driver.run(plan)) })
}

struct Driver {
    schedule: Schedule,
    probes: JoinSet<Finished>,
    tls: Arc<ClientConfig>,
    metrics: ProbeMetrics,
    limits: Limits,
    /// [`MAX_IN_FLIGHT`] is reached and was reported.
    crowded: bool,
    publish: watch::Sender<Arc<Verdicts>>,
}

struct Finished {
    target: Target,
    token: u64,
    kind: &'static str,
    answer: Answer,
    took: Duration,
}

impl Driver {
    async fn run(mut self, mut plan: watch::Receiver<Option<Arc<Plan>>>) {
        plan.mark_changed();
        loop {
            let wake = self.wake();
            tokio::select! {
                changed = plan.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let plan = plan.borrow_and_update().clone();
                    if let Some(plan) = plan {
                        self.schedule.replace(&plan, Instant::now());
                    }
                }
                Some(Ok(finished)) = self.probes.join_next() => self.finish(finished),
                () = sleep_until(wake) => {}
            }
            self.start_due();
            if let Some(verdicts) = self.schedule.poll_verdicts(Instant::now()) {
                self.publish.send_replace(Arc::new(verdicts));
            }
        }
    }

    /// When to look at the schedule again; for probes never while no more may be started.
    fn wake(&self) -> Option<Instant> {
        let probe = if self.probes.len() < MAX_IN_FLIGHT { self.schedule.poll_timeout() } else { None };
        probe.into_iter().chain(self.schedule.poll_step()).min()
    }

    fn start_due(&mut self) {
        while self.probes.len() < MAX_IN_FLIGHT {
            let Some(start) = self.schedule.poll_start(Instant::now()) else {
                self.crowded = false;
                return;
            };
            self.probes.spawn(probe(start, Arc::clone(&self.tls)));
        }
        if !self.crowded && self.schedule.poll_timeout().is_some_and(|due| due <= Instant::now()) {
            self.crowded = true;
            self.limits.hit("probes_in_flight");
            tracing::warn!(
                limit = MAX_IN_FLIGHT,
                "too many pods are slow to answer their probes: further probes are late"
            );
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { target, token, kind, answer, took } = finished;
        self.metrics.observe(kind, &answer, took);
        let reason = answer.reason().to_owned();
        if let Answer::NotAsked(reason) = &answer {
            self.limits.hit("probe_resources");
            tracing::warn!(%reason, "a probe could not be made for want of this node's own means; raise its limits");
        }
        let socket = SocketAddr::new(target.address, target.port);
        match self.schedule.handle_answer(&target, token, answer, Instant::now(), SystemTime::now()) {
            Effect::Turned(Verdict::Healthy | Verdict::Warming(_)) => {
                tracing::info!(pod = %socket, probe = kind, %reason, "pod is healthy");
            }
            Effect::Turned(Verdict::Unhealthy) => {
                tracing::warn!(pod = %socket, probe = kind, %reason, "pod is unhealthy");
            }
            Effect::Reworded | Effect::None => {}
        }
    }
}

async fn probe(start: Start, tls: Arc<ClientConfig>) -> Finished {
    let Start { target, check, token } = start;
    let began = Instant::now();
    // A probe that panics must be answered for, or its target would wait for ever.
    let answer = AssertUnwindSafe(ask(&target, &check, &tls))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Answer::NotAsked("the probe crashed; please report this".to_owned()));
    Finished { target, token, kind: label(&check.kind), answer, took: began.elapsed() }
}

/// Makes one probe; the timeout covers everything from the connection to the answer's end.
async fn ask(target: &Target, check: &Check, tls: &Arc<ClientConfig>) -> Answer {
    let address = SocketAddr::new(target.address, target.port);
    let asked = async {
        match &check.kind {
            CheckKind::Tcp => tcp::ask(address).await,
            CheckKind::Http(check) => http::ask(address, check, tls).await,
        }
    };
    tokio::time::timeout(check.timeout, asked)
        .await
        .unwrap_or_else(|_| Answer::Failure(format!("timeout after {}", humantime::format_duration(check.timeout))))
}

/// The label value of `type`.
fn label(kind: &CheckKind) -> &'static str {
    match kind {
        CheckKind::Tcp => "tcp",
        CheckKind::Http(check) if check.tls => "https",
        CheckKind::Http(_) => "http",
    }
}

#[cfg(test)]
mod tests;
