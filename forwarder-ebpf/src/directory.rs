//! The directory of services: where in the kernel's array a service's key is looked for.
//!
//! A hash map of the kernel's costs 20 ns a lookup, which is most of what a packet may cost that is handed on. This is a table
//! of buckets of [`WAYS`] places in a plain array, which the kernel reads in a few instructions. A key lies in one of two buckets
//! that its hash names; whoever adds it takes the emptier (Azar et al., "Balanced allocations", STOC 1994), so that buckets
//! at a quarter of their load practically never overflow. One that does is reported as a limit.

use crate::layout::ServiceKey;

/// Places in a bucket.
pub const WAYS: u32 = 4;
/// Buckets: room for four times as many services as there may be.
pub const BUCKETS: u32 = crate::limits::SERVICES;

/// Where a key is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The two buckets; they may be the same.
    pub buckets: [u32; 2],
    /// What is written in [`crate::Place::tag`].
    pub tag: u32,
}

/// Where a service's key is looked for.
#[inline(always)]
#[must_use]
pub fn route(key: &ServiceKey) -> Route {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = key.vip;
    let high = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    route_words(high, low, u16::from_le_bytes(key.port), key.protocol)
}

/// The same by the words of the address and the port as they lie in a packet.
#[inline(always)]
#[must_use]
pub fn route_words(vip_high: u64, vip_low: u64, port: u16, protocol: u8) -> Route {
    let socket = port as u64 | (protocol as u64) << 16;
    let mut hash = vip_high.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ vip_low.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ socket.wrapping_mul(0x1656_67b1_9e37_79f9);
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let (first, second) = ((hash >> 48) as u32, (hash >> 32) as u32);
    Route { buckets: [first % BUCKETS, second % BUCKETS], tag: hash as u32 }
}

const _: () = assert!(BUCKETS.is_power_of_two(), "the remainder is a mask");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::mapped;

    #[test]
    fn as_many_services_as_there_may_be_find_room() {
        // On few addresses and many ports, and one port on each of many addresses.
        for spread in [false, true] {
            let mut load = [0_u8; BUCKETS as usize];
            for number in 0..crate::limits::SERVICES {
                let [_, _, high, low] = number.to_be_bytes();
                let vip = if spread { [10, 0, high, low] } else { [10, 0, 0, low & 15] };
                let port = if spread { [0, 80] } else { [high, low] };
                let [first, second] = route(&ServiceKey { vip: mapped(vip), port, protocol: 6, pad: 0 }).buckets;
                let emptier = if load[second as usize] < load[first as usize] { second } else { first };
                load[emptier as usize] += 1;
            }
            assert!(load.iter().all(|load| u32::from(*load) <= WAYS), "{}", load.iter().max().unwrap());
        }
    }
}
