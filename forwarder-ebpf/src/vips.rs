//! Which addresses may be VIPs: a map of bits, of which each address has one.
//!
//! Most packets of a machine are for no VIP, and a hash map of the kernel's costs 20 ns to say so. A bit that is not set says it
//! in one. One that is set may be another address's: then the flow table, or the hash map, decides.

use crate::table::Words;

/// Bits: eight for each VIP there may be, so that hardly any other address finds one set.
pub const BITS: u32 = 8 * crate::limits::VIPS;
/// Words of the map.
pub const WORDS: u32 = BITS / u64::BITS;

/// An address's bit: in which word of the map, and which of it.
#[inline(always)]
#[must_use]
pub const fn bit(address: Words) -> (u32, u64) {
    let [high, low] = address;
    let sum = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let hash = (sum ^ (sum >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let bit = (hash >> 32) as u32 % BITS;
    (bit / u64::BITS, 1 << (bit % u64::BITS))
}

const _: () = assert!(BITS.is_power_of_two(), "the remainder is a mask");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{layout::mapped, table::words};

    #[test]
    fn neighbouring_addresses_hardly_share_bits() {
        let v4 = (0..4096_u32).map(|n| mapped((0x0a4d_0000 + n).to_be_bytes()));
        let v6 = (0..4096_u16).map(|n| {
            let mut address = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            [address[14], address[15]] = n.to_be_bytes();
            address
        });
        for bits in [v4.map(|a| bit(words(&a))).collect::<BTreeSet<_>>(), v6.map(|a| bit(words(&a))).collect()] {
            assert!(bits.len() > 3900, "{}", bits.len());
            assert!(bits.iter().all(|(word, _)| *word < WORDS));
        }
    }
}
