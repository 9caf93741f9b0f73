//! What the kernel program has to know to answer for VIPs in the announcer's stead (`kernel/src/answer.rs`): which they are, and a
//! lease. While this thread works it keeps renewing the lease, so the hooks answer when it does not, for [`STAND_IN`]; when
//! the agent stops for a restart it leaves them a longer one.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData, MapError};
use forwarder_ebpf::{Lease, OwnedVip, mapped};
use nix::time::{ClockId, clock_gettime};

/// Between renewals.
const BEAT: Duration = Duration::from_millis(100);
/// The agent counts as present for so long after one.
const PRESENT: Duration = Duration::from_millis(300);
/// For how long the hooks answer after an agent that has died: what a restart by its supervisor takes. Others take its VIPs over
/// long before, and the hooks fall silent when they hear of it.
const STAND_IN: Duration = Duration::from_secs(10);

/// The maps of one attached program.
pub struct HookMaps {
    pub(crate) owned: HashMap<MapData, OwnedVip, u64>,
    pub(crate) lease: Array<MapData, Lease>,
}

impl fmt::Debug for HookMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookMaps")
    }
}

/// The VIPs by interface index.
pub(super) type Owned = BTreeSet<(u32, IpAddr)>;

/// What the kernel was told.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    maps: Option<HookMaps>,
    written: Owned,
    due: Option<Instant>,
    /// The lease is the last one.
    left: bool,
}

impl Hooks {
    /// A program has been attached, with empty maps.
    pub(super) fn take(&mut self, maps: HookMaps, now: Instant) {
        (self.maps, self.written, self.due) = (Some(maps), Owned::new(), Some(now));
    }

    /// When the lease is to be renewed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The VIPs that this node answers for are these.
    pub(super) fn own(&mut self, owned: Owned) {
        let Some(maps) = &mut self.maps else { return };
        for gone in self.written.difference(&owned) {
            note(maps.owned.remove(&key(gone)));
        }
        for new in owned.difference(&self.written) {
            note(maps.owned.insert(key(new), 0, 0));
        }
        self.written = owned;
    }

    /// Renews the lease, if that is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) && !self.left {
            self.due = Some(now + BEAT);
            self.write(PRESENT, PRESENT + STAND_IN);
        }
    }

    /// Leaves the answers to the hooks, from now on and for so long. Whether they can.
    pub(super) fn leave(&mut self, grace: Duration) -> bool {
        (self.left, self.due) = (true, None);
        self.write(Duration::ZERO, grace)
    }

    /// The agent is present for so long, and the lease ends so long from now. Whether the kernel knows.
    fn write(&mut self, present: Duration, until: Duration) -> bool {
        let (Some(maps), Some(now)) = (&mut self.maps, since_boot()) else { return false };
        let lease = Lease { renewed: nanos(now), present: nanos(now + present), until: nanos(now + until) };
        let written = maps.lease.set(0, lease, 0);
        let done = written.is_ok();
        note(written);
        done
    }
}

/// A hook that does not know a VIP is as silent as none; that it is told anew is for the next program.
fn note(done: Result<(), MapError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "the hooks cannot be told for which VIPs to answer while no agent does");
    }
}

fn key((interface, vip): &(u32, IpAddr)) -> OwnedVip {
    let vip = match vip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    OwnedVip { interface: *interface, vip }
}

/// The clock that eBPF programs read.
fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).ok().map(Into::into)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
