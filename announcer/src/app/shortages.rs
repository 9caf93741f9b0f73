//! What the kernel program drops because this node lacks something: a user should read of it in the log, once a minute at most.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use forwarder_ebpf::DropReason;

/// While it goes on, it is said again after so long.
const PAUSE: Duration = Duration::from_secs(60);

/// The drops that tell of a shortage, and what is lacking.
const SHORTAGES: [(DropReason, &str); 3] = [
    (
        DropReason::FlowTable,
        "no room for a new connection: raise forwarder.flows; if crier_flow_table_flows is far below crier_flow_table_size, connections \
         lead to more than 16,384 sockets of this node's pods: spread the pods over more nodes",
    ),
    (
        DropReason::NatPort,
        "no port is free for new connections to a backend behind full NAT; widen the gap below net.ipv4.ip_local_port_range, \
         or give the service more such backends",
    ),
    (
        DropReason::NatRoute,
        "packets to or from a backend behind full NAT cannot be sent on: it, or the client, is reached by no uplink, or the packets \
         are too large for that",
    ),
];

/// A shortage that has grown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    /// What is counted.
    pub(super) reason: DropReason,
    /// How much it has grown since the last look.
    pub(super) more: u64,
    /// What to say; `None`: that was said a moment ago.
    pub(super) say: Option<&'static str>,
}

/// What was said when.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    seen: BTreeMap<DropReason, u64>,
    said: BTreeMap<DropReason, Instant>,
}

impl Shortages {
    /// Looks at what the kernel has counted.
    pub(super) fn look(&mut self, drops: &BTreeMap<DropReason, u64>, now: Instant) -> Vec<Shortage> {
        let mut grown = Vec::new();
        for (reason, text) in SHORTAGES {
            let count = drops.get(&reason).copied().unwrap_or_default();
            let before = self.seen.insert(reason, count).unwrap_or_default();
            // After a restart of the program it counts from 0.
            let more = if count < before { count } else { count - before };
            if more == 0 {
                continue;
            }
            let quiet = self.said.get(&reason).is_some_and(|said| now < *said + PAUSE);
            if !quiet {
                self.said.insert(reason, now);
            }
            grown.push(Shortage { reason, more, say: (!quiet).then_some(text) });
        }
        grown
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_counted_as_it_grows_and_said_once_a_minute() {
        for reason in [DropReason::FlowTable, DropReason::NatPort, DropReason::NatRoute] {
            let (mut shortages, begin) = (Shortages::default(), Instant::now());
            let mut look = |count, seconds| {
                let drops = BTreeMap::from([(reason, count), (DropReason::Malformed, 7)]);
                let grown = shortages.look(&drops, begin + Duration::from_secs(seconds));
                grown.first().map(|shortage| (shortage.reason, shortage.more, shortage.say.is_some()))
            };
            assert_eq!(look(0, 0), None);
            assert_eq!(look(3, 1), Some((reason, 3, true)));
            assert_eq!(look(5, 2), Some((reason, 2, false)));
            assert_eq!(look(5, 3), None);
            assert_eq!(look(6, 62), Some((reason, 1, true)));
            assert_eq!(look(1, 63), Some((reason, 1, false)), "it counts anew");
        }
    }
}
