//! What the announcer tells the hooks, so that they answer ARP and neighbour discovery in its stead.

use std::{net::IpAddr, time::Duration};

use aya::maps::{Array, HashMap, Map, MapData};
use forwarder_ebpf::{Lease, OwnedVip, Stage, map, mapped};
use nix::time::{ClockId, clock_gettime};

use crate::fuzz::kernel::Kernel;

/// The maps by which it does.
pub(crate) struct Hooks {
    interface: u32,
    owned: HashMap<MapData, OwnedVip, u64>,
    lease: Array<MapData, Lease>,
}

impl Hooks {
    pub(crate) fn of(kernel: &Kernel) -> Self {
        let [owned, lease] = [map::OWNED, map::LEASE].map(|name| kernel.map_of(Stage::Answer, name));
        Self {
            interface: kernel.interface,
            owned: HashMap::try_from(Map::HashMap(owned)).unwrap(),
            lease: Array::try_from(Map::Array(lease)).unwrap(),
        }
    }

    /// The node has a VIP, and nobody else was heard to say so.
    pub(crate) fn own(&mut self, vip: IpAddr) {
        self.own_on(self.interface, vip);
    }

    pub(crate) fn own_on(&mut self, interface: u32, vip: IpAddr) {
        self.owned.insert(owned(interface, vip), 0, 0).unwrap();
    }

    pub(crate) fn disown(&mut self, vip: IpAddr) {
        self.owned.remove(&owned(self.interface, vip)).unwrap();
    }

    /// An agent that wrote its lease just now is present for so long, and the hooks answer until so long from now.
    pub(crate) fn lease(&mut self, present: Duration, until: Duration) {
        self.lease_from(Duration::ZERO, present, until);
    }

    /// The same, as if written so much later than now.
    pub(crate) fn lease_from(&mut self, later: Duration, present: Duration, until: Duration) {
        let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
        let nanos = |time: Duration| (now + time).as_nanos() as u64;
        let lease = Lease { renewed: nanos(later), present: nanos(present), until: nanos(until) };
        self.lease.set(0, lease, 0).unwrap();
    }
}

fn owned(interface: u32, vip: IpAddr) -> OwnedVip {
    let vip = match vip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    OwnedVip { interface, vip }
}
