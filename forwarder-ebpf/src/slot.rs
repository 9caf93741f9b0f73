//! A slot of a node table, as one word: which node its connections go to, and to which they went before.

/// A slot of a service's node table. Nodes by their numbers, below [`crate::limits::NODES`]; 0 for none.
///
/// ```text
///   bit 63    62 ......... 48   47 ......... 32   31 ......... 16   15 .......... 0
///   MINE      the third before  the second        the one before    current
/// ```
/// No current node, but earlier ones: there are no new connections, old ones go on there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSlot(pub u64);

impl NodeSlot {
    /// How many earlier nodes it holds.
    pub const BEFORE: usize = 3;
    /// Connections of the slot may live on this node, so its flows must be looked at.
    const MINE: u64 = 1 << 63;

    /// A slot; `before` newest first.
    #[must_use]
    pub fn new(current: u16, before: [u16; Self::BEFORE], mine: bool) -> Self {
        let [first, second, third] = before.map(u64::from);
        let mine = if mine { Self::MINE } else { 0 };
        Self(u64::from(current) | first << 16 | second << 32 | (third & 0x7fff) << 48 | mine)
    }

    /// Where new connections go.
    #[inline(always)]
    #[must_use]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Where they went before, newest first.
    #[inline(always)]
    #[must_use]
    pub const fn before(self) -> [u16; Self::BEFORE] {
        [(self.0 >> 16) as u16, (self.0 >> 32) as u16, (self.0 >> 48) as u16 & 0x7fff]
    }

    /// Whether connections of the slot may live on this node.
    #[inline(always)]
    #[must_use]
    pub const fn is_mine(self) -> bool {
        self.0 & Self::MINE != 0
    }
}

const _: () = assert!(crate::limits::NODES <= 0x8000, "a node's number has 15 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_what_it_was_made_of() {
        for mine in [false, true] {
            let slot = NodeSlot::new(4095, [1, 2048, 4094], mine);
            assert_eq!((slot.current(), slot.before(), slot.is_mine()), (4095, [1, 2048, 4094], mine));
        }
        assert_eq!(NodeSlot::new(0, [0; 3], false), NodeSlot::default());
    }
}
