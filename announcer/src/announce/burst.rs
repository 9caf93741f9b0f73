//! When VIPs are announced unasked: pure.
//!
//! After a takeover a VIP is announced at once and again up to 2.4 s later. Linux ignores some announcements within 1 s
//! (its locktime) of an entry's last change, and frames get lost, so one is not enough. The request form comes first: it
//! moves an entry even within the locktime; the reply form follows for stacks that heed only replies. After that comes a slow
//! refresh for whatever slept. After a link came up there are later repetitions, since a switch with spanning
//! tree may hold frames back for 30 s.
//!
//! Frames are paced, so that taking over hundreds of VIPs overruns no queue: first announcements of all VIPs go before
//! second ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::xxh3_64;

/// Frames sent in one go.
const BATCH: usize = 128;
/// Rest after a full batch.
const PACE: Duration = Duration::from_millis(1);
/// The least time between refreshes, whatever is configured.
const LEAST_REFRESH: Duration = Duration::from_secs(1);

/// A VIP on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface's name.
    pub interface: String,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Gratuitous ARP request, or unsolicited neighbour advertisement.
    Request,
    /// Gratuitous ARP reply; nothing for IPv6.
    Reply,
}

/// Why a VIP is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has moved here, or must be defended.
    Takeover,
    /// The same, and nothing after that.
    Once,
    /// It is announced here already, and nothing has happened.
    Refresh,
    /// The interface has come up, or has another MAC.
    LinkUp,
}

/// Milliseconds after the start.
const TAKEOVER: &[(u64, Form)] = &[
    (0, Form::Request),
    (2, Form::Reply),
    (50, Form::Request),
    (200, Form::Request),
    (202, Form::Reply),
    (500, Form::Request),
    (1200, Form::Request),
    (1202, Form::Reply),
    (2400, Form::Request),
    (2402, Form::Reply),
];
/// Milliseconds after the start, following [`TAKEOVER`].
const LINK_UP: &[(u64, Form)] =
    &[(5_000, Form::Request), (16_000, Form::Request), (31_000, Form::Request), (35_000, Form::Reply)];

#[derive(Debug)]
struct Plan {
    why: Why,
    started: Instant,
    step: usize,
    due: Instant,
}

/// The announcements to come.
#[derive(Debug)]
pub struct Bursts {
    refresh: Duration,
    plans: BTreeMap<Spot, Plan>,
    due: BTreeSet<(Instant, Spot)>,
    rest_until: Option<Instant>,
}

impl Bursts {
    /// With a refresh every `refresh` (at least a second), moved by up to a tenth either way so that VIPs spread out.
    #[must_use]
    pub fn new(refresh: Duration) -> Self {
        Self { refresh: refresh.max(LEAST_REFRESH), plans: BTreeMap::new(), due: BTreeSet::new(), rest_until: None }
    }

    /// Announces from now on; a schedule that runs already begins anew.
    pub fn start(&mut self, spot: Spot, why: Why, now: Instant) {
        self.stop(&spot);
        let due = if why == Why::Refresh { now + jittered(self.refresh, &spot, 0) } else { now };
        self.due.insert((due, spot.clone()));
        self.plans.insert(spot, Plan { why, started: now, step: 0, due });
    }

    /// Nothing more is sent for this spot.
    pub fn stop(&mut self, spot: &Spot) {
        if let Some(plan) = self.plans.remove(spot) {
            self.due.remove(&(plan.due, spot.clone()));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        Some(self.rest_until.map_or(*due, |rest| rest.max(*due)))
    }

    /// What is to be sent now: at most a batch; the rest follows after a pause.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(Spot, Form)> {
        let mut sent = Vec::new();
        if self.rest_until.is_some_and(|rest| rest > now) {
            return sent;
        }
        self.rest_until = None;
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            if sent.len() == BATCH {
                self.rest_until = Some(now + PACE);
                break;
            }
            let Some((_, spot)) = self.due.pop_first() else { break };
            let Some(plan) = self.plans.get_mut(&spot) else { continue };
            let form = step(plan.why, plan.step).map_or(Form::Request, |(_, form)| form);
            plan.step += 1;
            let next = match step(plan.why, plan.step) {
                Some((offset, _)) => Some(plan.started + offset),
                None if plan.why == Why::Once => None,
                None => Some(now + jittered(self.refresh, &spot, plan.step)),
            };
            if let Some(due) = next {
                plan.due = due;
                self.due.insert((due, spot.clone()));
            } else {
                self.plans.remove(&spot);
            }
            if form == Form::Request || spot.vip.is_ipv4() {
                sent.push((spot, form));
            }
        }
        sent
    }
}

/// The `index`th step of a schedule; `None` behind its end, where the refreshes are.
fn step(why: Why, index: usize) -> Option<(Duration, Form)> {
    let late = match why {
        Why::Refresh => return None,
        Why::Takeover | Why::Once => &[],
        Why::LinkUp => LINK_UP,
    };
    TAKEOVER.iter().chain(late).nth(index).map(|&(offset, form)| (Duration::from_millis(offset), form))
}

/// Between 0.9 and 1.1 of `period`, alike each time it is asked for the same step.
fn jittered(period: Duration, spot: &Spot, step: usize) -> Duration {
    let hash = xxh3_64(format!("{} {} {step}", spot.vip, spot.interface).as_bytes());
    period.mul_f64(0.9 + 0.2 * f64::from(u16::try_from(hash & 0xffff).unwrap_or(0)) / 65_536.0)
}

#[cfg(test)]
mod tests;
