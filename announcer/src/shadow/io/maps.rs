//! The kernel's maps of shadowed MACs.

use std::{fmt, net::IpAddr, time::Instant};

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use forwarder_ebpf::{Shadow, ShadowKey, ShadowState, ShadowedVip, mapped};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use crate::shadow::{
    guard::{Lease, Reading},
    keeper::Action,
    wanted::Key,
};

/// The maps of one loaded program. Whoever has them may write them.
pub struct Maps {
    pub(crate) shadows: HashMap<MapData, ShadowKey, Shadow>,
    pub(crate) vips: HashMap<MapData, ShadowedVip, u32>,
    pub(crate) states: Array<MapData, ShadowState>,
    pub(crate) floods: RingBuf<MapData>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

/// The maps in the thread that writes them.
pub(super) struct Live {
    shadows: HashMap<MapData, ShadowKey, Shadow>,
    vips: HashMap<MapData, ShadowedVip, u32>,
    states: Array<MapData, ShadowState>,
    floods: AsyncFd<RingBuf<MapData>>,
}

impl Live {
    /// Must be called within a tokio runtime.
    pub(super) fn new(maps: Maps) -> std::io::Result<Self> {
        // SAFETY: a ring buffer names the same descriptor, its map's, for as long as it lives, and the `AsyncFd` owns it
        // until then.
        let floods = unsafe { AsyncFd::register(maps.floods) }?;
        Ok(Self { shadows: maps.shadows, vips: maps.vips, states: maps.states, floods })
    }

    /// What the kernel has noted in a slot.
    pub(super) fn read(&self, slot: u32) -> Option<Reading> {
        let state = self.states.get(&slot, 0).ok()?;
        Some(Reading { seen: state.seen, stood_down: state.stood_down })
    }

    /// Carries out those actions that are writes.
    pub(super) fn write(&mut self, action: &Action) -> Result<(), MapError> {
        match action {
            Action::Begin(_, slot) => self.states.set(*slot, ShadowState::default(), 0),
            Action::Tell(key, slot, lease) => self.shadows.insert(shadow_key(*key), shadow(*slot, *lease), 0),
            Action::End(key) => self.shadows.remove(&shadow_key(*key)),
            Action::Add(key, vip) => self.vips.insert(shadowed(*key, *vip), 1, 0),
            Action::Remove(key, vip) => self.vips.remove(&shadowed(*key, *vip)),
            Action::Ask(..) | Action::Knock(..) | Action::Changed(..) => Ok(()),
        }
    }

    /// The slots to whose MACs floods have begun.
    pub(super) async fn floods(&mut self) -> Vec<u32> {
        loop {
            let Ok(mut guard) = self.floods.readable_mut().await else {
                return std::future::pending().await;
            };
            let mut slots = Vec::new();
            while let Some(item) = guard.get_inner_mut().next() {
                slots.extend(item.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)));
            }
            guard.clear_ready();
            if !slots.is_empty() {
                return slots;
            }
        }
    }
}

fn shadow(slot: u32, lease: Lease) -> Shadow {
    let left = lease.until.map(|until| until.saturating_duration_since(Instant::now()));
    let until = left.and_then(|left| monotonic_ns()?.checked_add(u64::try_from(left.as_nanos()).ok()?));
    Shadow { until: until.unwrap_or(0), slot, round: lease.round }
}

/// The clock that eBPF programs read.
fn monotonic_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(std::time::Duration::from(now).as_nanos()).ok()
}

fn shadow_key(key: Key) -> ShadowKey {
    ShadowKey { interface: key.interface, mac: key.mac, pad: [0; 2] }
}

fn shadowed(key: Key, vip: IpAddr) -> ShadowedVip {
    let vip = match vip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    ShadowedVip { vip, owner: shadow_key(key) }
}
