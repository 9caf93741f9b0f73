//! Which slot a connection belongs to. Every node must answer alike, so the hash is part of the contract between
//! nodes: changing it moves every connection.

use crate::layout::{Address, Tuple};

/// A hash of a packet's five-tuple, the same on every node.
#[inline(always)]
#[must_use]
pub fn flow_hash(tuple: &Tuple) -> u32 {
    let [a, b] = tuple.source_port;
    let [c, d] = tuple.destination_port;
    let mut hash = mix(0x9e37_79b9 ^ tuple.protocol as u32, u32::from_le_bytes([a, b, c, d]));
    hash = mix_address(hash, &tuple.source);
    hash = mix_address(hash, &tuple.destination);
    finish(hash)
}

/// The hash for the second table. Of the first only those connections arrive here that hash to this node, so
/// the same hash would not spread over all of the second table.
#[inline(always)]
#[must_use]
pub fn local_hash(hash: u32) -> u32 {
    finish(hash ^ 0x85eb_ca6b)
}

/// The slot of a hash in a table of `slots`, which must not be 0.
#[inline(always)]
#[must_use]
pub fn slot(hash: u32, slots: u32) -> u32 {
    hash % slots
}

/// The port by which a pod shall know a client whose own it has already: another for each `attempt`, above the
/// privileged ones. Network order. No contract between nodes: only the pod's node asks.
#[inline(always)]
#[must_use]
pub fn substitute_port(hash: u32, attempt: u32) -> [u8; 2] {
    let port = 1024 + finish(hash ^ attempt.wrapping_mul(0x9e37_79b9)) % (65_536 - 1024);
    (port as u16).to_be_bytes()
}

#[inline(always)]
fn mix_address(hash: u32, address: &Address) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    let hash = mix(hash, u32::from_le_bytes([a, b, c, d]));
    let hash = mix(hash, u32::from_le_bytes([e, f, g, h]));
    let hash = mix(hash, u32::from_le_bytes([i, j, k, l]));
    mix(hash, u32::from_le_bytes([m, n, o, p]))
}

/// A round of MurmurHash3 (32 bit).
#[inline(always)]
fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
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
        assert_eq!(flow_hash(&tuple(40_000)), 0xd3ef_b1e6);
    }

    #[test]
    fn substitute_ports_differ_and_are_not_privileged() {
        let ports: [u16; 4] = [0, 1, 2, 3].map(|attempt| u16::from_be_bytes(substitute_port(0xd3ef_b1e6, attempt)));
        assert!(ports.iter().all(|port| *port >= 1024), "{ports:?}");
        assert!((1..4).all(|at| !ports[..at].contains(&ports[at])), "{ports:?}");
    }

    #[test]
    fn neighbouring_ports_spread_over_both_tables() {
        let mut first = [0_u32; 16];
        let mut second = [0_u32; 16];
        for port in 0..16_000 {
            let hash = flow_hash(&tuple(port));
            first[slot(hash, 16) as usize] += 1;
            if slot(hash, 16) == 0 {
                second[slot(local_hash(hash), 16) as usize] += 1;
            }
        }
        assert!(first.iter().all(|&n| (850..1150).contains(&n)), "{first:?}");
        assert!(second.iter().all(|&n| (30..100).contains(&n)), "{second:?}");
    }
}
