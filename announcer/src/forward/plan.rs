//! What is to be done to the kernel's maps: writes in their order, and what does not fit.

use std::collections::BTreeMap;

use forwarder_ebpf::{Address, BackendEntry, Bucket, NodeEntry, Row, ServiceEntry, Uplinks};
use ipnet::IpNet;

/// A write to a map of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A row of a table.
    Row(u32, Box<Row>),
    /// A node on an uplink, by its place in the map.
    Node(u32, NodeEntry),
    /// A pod of this node.
    Backend(u32, BackendEntry),
    /// A service port's counters start from zero.
    ResetCounters(u32),
    /// A pod has this counter, by its tag; it starts from zero.
    OpenAccount {
        /// The counter's number among the pods'.
        number: u32,
        /// The pod's tag.
        tag: u32,
    },
    /// A pod has this counter again, which goes on, by its tag.
    ResumeAccount {
        /// The counter's number among the pods'.
        number: u32,
        /// The pod's tag.
        tag: u32,
    },
    /// A pod has this counter no more; what was counted there becomes its service port's, if that is still there.
    CloseAccount {
        /// The counter's number among the pods'.
        number: u32,
        /// The pod's tag.
        tag: u32,
        /// The service port's number.
        service: Option<u32>,
    },
    /// A range of clients that an entry lets in: the set and the range.
    Source(u32, IpNet),
    /// One that no entry in use has any more.
    RemoveSource(u32, IpNet),
    /// An entry of a service, to which nothing points yet.
    Service(u32, ServiceEntry),
    /// A bucket of the directory: by it a service is there, has another entry, or is no more.
    Bucket(u32, Box<Bucket>),
    /// An address is a VIP.
    Vip(Address),
    /// An address is a VIP no more.
    RemoveVip(Address),
    /// A word of the bits of addresses that may be VIPs.
    VipBits(u32, u64),
    /// The interfaces that are uplinks.
    Uplinks(Uplinks),
}

/// A capacity that was reached; what did not fit is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Uplinks of this node.
    Uplinks,
    /// Nodes of the cluster.
    Nodes,
    /// Pods of this node.
    Backends,
    /// Room for tables.
    Rows,
    /// Services.
    Services,
    /// Addresses.
    Vips,
    /// Counters.
    Counters,
    /// Counters of pods.
    CountedPods,
    /// Ranges of clients.
    Sources,
    /// Flows of a predecessor's that were to be taken over.
    Flows,
}

impl Limit {
    /// Its name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uplinks => "uplinks",
            Self::Nodes => "nodes",
            Self::Backends => "backends",
            Self::Rows => "rows",
            Self::Services => "services",
            Self::Vips => "vips",
            Self::Counters => "counters",
            Self::CountedPods => "counted_pods",
            Self::Sources => "sources",
            Self::Flows => "flows",
        }
    }
}

/// Which limits cut off more than before, and how much more: to be counted and logged.
#[must_use]
pub fn cut_off_since(before: &BTreeMap<Limit, u32>, now: &BTreeMap<Limit, u32>) -> BTreeMap<Limit, u32> {
    let more = |(limit, count): (&Limit, &u32)| {
        let more = count.saturating_sub(before.get(limit).copied().unwrap_or_default());
        (more > 0).then_some((*limit, more))
    };
    now.iter().filter_map(more).collect()
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in the order in which they must happen.
    pub writes: Vec<Write>,
    /// What did not fit: how many of each.
    pub limits: BTreeMap<Limit, u32>,
}

impl Plan {
    /// One more that does not fit.
    pub(super) fn limit(&mut self, limit: Limit) {
        *self.limits.entry(limit).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_counted_once() {
        let at = |rows, vips| BTreeMap::from([(Limit::Rows, rows), (Limit::Vips, vips)]);
        assert_eq!(cut_off_since(&BTreeMap::new(), &at(3, 1)), at(3, 1));
        assert_eq!(cut_off_since(&at(3, 1), &at(3, 1)), BTreeMap::new());
        assert_eq!(cut_off_since(&at(3, 1), &at(5, 1)), BTreeMap::from([(Limit::Rows, 2)]));
        assert_eq!(cut_off_since(&at(3, 1), &BTreeMap::from([(Limit::Rows, 2)])), BTreeMap::new());
    }
}
