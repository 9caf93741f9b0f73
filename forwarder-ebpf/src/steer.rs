//! Which slot a connection belongs to. Every node must answer alike, so the hash is part of the contract between
//! nodes: changing it moves every connection.

use crate::layout::{Address, Tuple};

/// A hash of a packet's five-tuple, the same on every node. The two tables take different halves of it: of the first only
/// those connections arrive at a node that hash to it, so by the same bits they would not spread over all of the second.
#[inline(always)]
#[must_use]
pub fn flow_hash(tuple: &Tuple) -> u64 {
    let [a, b] = tuple.source_port;
    let [c, d] = tuple.destination_port;
    let ports = u32::from_le_bytes([a, b, c, d]);
    hash_words(words(&tuple.source), words(&tuple.destination), ports, tuple.protocol)
}

/// The same by the words of the addresses and ports as they lie in a packet, read little-endian.
///
/// A sum of products with odd multipliers, which a CPU computes side by side, and then a finaliser by which every bit of it reaches
/// every bit of the hash. Nothing secret is in it: who chooses addresses and ports can choose slots, as with any hash that nodes
/// must agree on without having met.
#[inline(always)]
#[must_use]
pub fn hash_words(source: [u64; 2], destination: [u64; 2], ports: u32, protocol: u8) -> u64 {
    let socket = ports as u64 | (protocol as u64) << 32;
    let sum = source[0]
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(source[1].wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(destination[0].wrapping_mul(0x94d0_49bb_1331_11eb))
        .wrapping_add(destination[1].wrapping_mul(0xff51_afd7_ed55_8ccd))
        .wrapping_add(socket.wrapping_mul(0xc4ce_b9fe_1a85_ec53));
    // The constants of Stafford's mix 13.
    let hash = (sum ^ (sum >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A hash of the client's address alone, for services whose clients stay with their pods.
#[inline(always)]
#[must_use]
pub fn client_hash(source: [u64; 2]) -> u64 {
    hash_words(source, [0; 2], 0, 0)
}

/// The slot of a connection in a node table of `slots`. In a table that is a whole number of times smaller it is the slot
/// divided by that number.
#[inline(always)]
#[must_use]
pub fn node_slot(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

/// The slot of a connection in a local table of `slots`.
#[inline(always)]
#[must_use]
pub fn local_slot(hash: u64, slots: u32) -> u32 {
    (((hash & 0xffff_ffff) * slots as u64) >> 32) as u32
}

/// An address as two words, read little-endian.
#[inline(always)]
#[must_use]
pub fn words(address: &Address) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}

/// The port by which a pod shall know a client whose own it has already: another for each `attempt`, above the
/// privileged ones. Network order. No contract between nodes: only the pod's node asks.
#[inline(always)]
#[must_use]
pub fn substitute_port(hash: u64, attempt: u32) -> [u8; 2] {
    let port = 1024 + finish(hash as u32 ^ attempt.wrapping_mul(0x9e37_79b9)) % (65_536 - 1024);
    (port as u16).to_be_bytes()
}

/// The port from which a connection shall come to a translated backend, of `ports` from `first` on: the next for each `attempt`, so that
/// few ports are all tried. Network order. No contract between nodes.
#[inline(always)]
#[must_use]
pub fn translated_port(hash: u64, attempt: u32, first: u32, ports: u32) -> [u8; 2] {
    let at = (finish(hash as u32) & 0x00ff_ffff) + attempt;
    // A remainder by nothing would be a panic, for which an eBPF program has no place.
    ((first + at % if ports == 0 { 1 } else { ports }) as u16).to_be_bytes()
}

/// MurmurHash3's finaliser: every input bit reaches every output bit.
#[inline(always)]
fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{TCP, mapped};

    fn tuple(port: u16) -> Tuple {
        Tuple {
            source: mapped([10, 77, 0, 9]),
            destination: mapped([10, 77, 0, 100]),
            source_port: port.to_be_bytes(),
            destination_port: 80_u16.to_be_bytes(),
            protocol: TCP,
            pad: [0; 3],
        }
    }

    #[test]
    fn the_hash_is_a_contract_between_nodes() {
        assert_eq!(flow_hash(&tuple(40_000)), 18_264_365_563_077_831_028);
    }

    #[test]
    fn substitute_ports_differ_and_are_not_privileged() {
        let ports: [u16; 4] = [0, 1, 2, 3].map(|attempt| u16::from_be_bytes(substitute_port(0xd3ef_b1e6, attempt)));
        assert!(ports.iter().all(|port| *port >= 1024), "{ports:?}");
        assert!((1..4).all(|at| !ports[..at].contains(&ports[at])), "{ports:?}");
    }

    #[test]
    fn translated_ports_are_all_tried_and_stay_in_their_range() {
        for hash in [0, 0xd3ef_b1e6, u64::MAX] {
            let port = |attempt| u16::from_be_bytes(translated_port(hash, attempt, 60_000, 8));
            let mut ports: [u16; 8] = [0, 1, 2, 3, 4, 5, 6, 7].map(port);
            ports.sort_unstable();
            assert!(ports.iter().copied().eq(60_000..60_008), "{ports:?}");
        }
    }

    #[test]
    fn neighbouring_ports_spread_over_both_tables() {
        let mut first = [0_u32; 16];
        let mut second = [0_u32; 16];
        for port in 0..16_000 {
            let hash = flow_hash(&tuple(port));
            first[node_slot(hash, 16) as usize] += 1;
            if node_slot(hash, 16) == 0 {
                second[local_slot(hash, 16) as usize] += 1;
            }
        }
        assert!(first.iter().all(|&n| (850..1150).contains(&n)), "{first:?}");
        assert!(second.iter().all(|&n| (30..100).contains(&n)), "{second:?}");
    }

    #[test]
    fn neighbouring_clients_spread_over_both_tables() {
        let mut shares = [[0_u32; 16]; 2];
        for client in 0..16_000_u32 {
            let [_, _, c, d] = client.to_be_bytes();
            let hash = flow_hash(&Tuple { source: mapped([10, 77, c, d]), ..tuple(40_000) });
            shares[0][node_slot(hash, 16) as usize] += 1;
            shares[1][local_slot(hash, 16) as usize] += 1;
        }
        assert!(shares.as_flattened().iter().all(|&n| (850..1150).contains(&n)), "{shares:?}");
    }

    #[test]
    fn a_smaller_table_has_a_connections_slot_where_the_larger_has_it_divided() {
        for port in 0..1000 {
            let hash = flow_hash(&tuple(port));
            assert_eq!(node_slot(hash, 4084) / 4, node_slot(hash, 1021));
        }
    }
}
