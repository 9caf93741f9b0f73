//! What lies in the maps by which the hooks answer ARP and neighbour discovery in the agent's stead.

use crate::Address;

/// A VIP of this node's on one of its uplinks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedVip {
    /// The interface's index.
    pub interface: u32,
    /// The VIP.
    pub vip: Address,
}

/// Until when the hooks answer for the VIPs of this node in the agent's stead. Times are nanoseconds of the monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// When the agent wrote this.
    pub renewed: u64,
    /// Until then the agent answers itself.
    pub present: u64,
    /// From then on nobody does.
    pub until: u64,
}

impl Lease {
    /// What was heard so long before the lease was renewed the agent knows, too; nanoseconds.
    pub const HINDSIGHT: u64 = 1_000_000_000;
}

const _: () = assert!(size_of::<OwnedVip>() == 20);
const _: () = assert!(size_of::<Lease>() == 24);
