//! Flows as former layouts had them, in the words of today's. Who raises [`forwarder_ebpf::LAYOUT_VERSION`] adds the layout
//! that was, and agents that are upgraded keep their connections. Pure.
//!
//! | version | differs from the next by |
//! |---|---|
//! | 2 | no ports of clients: a pod saw each client's own |

use forwarder_ebpf::{Flow, Reply, Tuple};

/// The version that is known beside today's. An agent that comes from an older one, or from a newer, loses flows: connections are then
/// found again as far as the slots of pods stayed the same.
pub const FORMER: u32 = 2;

/// A [`Flow`] of version 2: `address, port, closed, backend, tag, counted, seen`.
pub type FlowV2 = [u8; 36];
/// A [`Reply`] of version 2: `vip, port, pad, counted, seen`.
pub type ReplyV2 = [u8; 28];

/// Bytes of a record, from its beginning on.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// The next so many; zeros behind the end, which records of a fixed size do not reach.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((taken, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *taken
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }
}

/// A flow of version 2 under its key.
#[must_use]
pub fn flow_v2(key: &Tuple, value: &FlowV2) -> Flow {
    let mut value = Reader(value);
    Flow {
        address: value.take(),
        port: value.take(),
        client_port: key.source_port,
        closed: value.take(),
        pad: [0; 2],
        backend: value.word(),
        tag: value.word(),
        counted: value.word(),
        seen: value.word(),
    }
}

/// A reply of version 2 under its key.
#[must_use]
pub fn reply_v2(key: &Tuple, value: &ReplyV2) -> Reply {
    let mut value = Reader(value);
    let (vip, port, _) = (value.take(), value.take(), value.take::<2>());
    Reply { vip, port, client_port: key.destination_port, counted: value.word(), seen: value.word() }
}

#[cfg(test)]
mod tests {
    use forwarder_ebpf::{TCP, mapped};

    use super::*;

    #[test]
    fn the_layout_before_todays_is_known() {
        assert_eq!(FORMER + 1, forwarder_ebpf::LAYOUT_VERSION, "agents that are upgraded would lose their connections");
    }

    #[test]
    fn a_flow_of_version_2_is_read_word_by_word() {
        let (client, vip, pod) = (mapped([10, 77, 0, 9]), mapped([10, 77, 0, 100]), mapped([10, 1, 1, 2]));
        let key = Tuple {
            source: client,
            destination: vip,
            source_port: [0x9c, 0x40],
            destination_port: [0, 80],
            protocol: TCP,
            pad: [0; 3],
        };
        let mut value = pod.to_vec();
        value.extend([0x1f, 0x90, 1, 0]);
        value.extend([3u32, 0xabcd, 5, 700].into_iter().flat_map(u32::to_ne_bytes));
        let flow = flow_v2(&key, &value.try_into().unwrap());
        let expected = Flow {
            address: pod,
            port: [0x1f, 0x90],
            client_port: [0x9c, 0x40],
            closed: [1, 0],
            pad: [0; 2],
            backend: 3,
            tag: 0xabcd,
            counted: 5,
            seen: 700,
        };
        assert_eq!(flow, expected);

        let from_pod = Tuple {
            source: pod,
            destination: client,
            source_port: [0x1f, 0x90],
            destination_port: [0x9c, 0x40],
            ..key
        };
        let mut value = vip.to_vec();
        value.extend([0, 80, 0, 0]);
        value.extend([5u32, 700].into_iter().flat_map(u32::to_ne_bytes));
        let reply = reply_v2(&from_pod, &value.try_into().unwrap());
        assert_eq!(reply, Reply { vip, port: [0, 80], client_port: [0x9c, 0x40], counted: 5, seen: 700 });
    }
}
