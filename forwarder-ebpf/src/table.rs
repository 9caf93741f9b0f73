//! The flow table's rules: where a flow may lie, and which flow makes room for a newcomer.
//!
//! One table serves both directions. A flow's bucket follows from the client's end alone, which the client's packets
//! and the pod's replies both name, so a packet either way finds the flow with one look: at the bucket's line of
//! [`State`]s, 16 words that say who lies where, and at the one line of the flow itself. A flow that is in its home
//! place, which the hash names as well, needs not even wait for the first.
//!
//! Nobody is remembered at the cost of an established TCP connection that is in use. So a flood of packets that open
//! connections finds its own earlier ones to push out, never those of others. See [`Standing`] for the order.

use crate::{Address, TCP};

/// Places in a bucket.
pub const WAYS: u32 = if cfg!(feature = "other-layout") { 8 } else { 16 };

/// Seconds of silence after which a UDP flow is over.
pub const UDP_IDLE: i32 = 60;
/// Seconds of a client's silence after which a pod's datagrams are replies no more: more than [`UDP_IDLE`], since a
/// pod may go on sending to one who only listens.
pub const REPLY_IDLE: i32 = 180;
/// Seconds of silence after which a TCP flow is over that nobody closed: longer than the two hours after which hosts
/// send keep-alives.
pub const TCP_IDLE: i32 = 3 * 3600;
/// Seconds of silence after which a TCP flow is over that both ends have closed: what comes late is still the pod's.
pub const TCP_CLOSED: i32 = 60;
/// Seconds of silence after which an established TCP flow may make room for a newcomer, if there is no other.
pub const TCP_QUIET: i32 = 300;

/// Seconds to a tick of [`State`]'s clock, which goes round in 18 hours. What is older than that may be taken for
/// younger, and then only keeps its place longer.
const TICK: u32 = if cfg!(feature = "other-layout") { 2 } else { 4 };
/// The clock's bits are above the flags', the tag's above these.
const CLOCK_BITS: u32 = if cfg!(feature = "other-layout") { 15 } else { 14 };
const CLOCK: u32 = (1 << CLOCK_BITS) - 1;
const SEEN: u32 = 7;
const TAG: u32 = SEEN + CLOCK_BITS;
const TAGS: u32 = u32::MAX >> TAG;

/// What is known of a place without looking at it: a word, so that CPUs can claim and change it by comparing and
/// exchanging. From the top: 11 bits of the client's hash, 14 of the time when it was last heard, 7 flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u32);

impl State {
    /// Nobody lies there.
    pub const FREE: Self = Self(0);
    /// Being written; nobody else's.
    pub const BUSY: u32 = 1;
    /// The client's packets go by it.
    pub const FORWARD: u32 = 1 << 1;
    /// The pod's replies go by it.
    pub const REVERSE: u32 = 1 << 2;
    /// TCP or SCTP, whose connections begin and end; else UDP.
    pub const TCP: u32 = if cfg!(feature = "other-layout") { 1 << 6 } else { 1 << 3 };
    /// Closed by the client.
    pub const BY_CLIENT: u32 = 1 << 4;
    /// Closed by the pod.
    pub const BY_POD: u32 = 1 << 5;
    /// Begun, and nothing since: no second packet of a TCP client's, no answer of a UDP pod's.
    pub const HALF_OPEN: u32 = if cfg!(feature = "other-layout") { 1 << 3 } else { 1 << 6 };
    /// Closed by both.
    pub const CLOSED: u32 = Self::BY_CLIENT | Self::BY_POD;
    /// When it was last heard, on a clock of ticks.
    pub const HEARD: u32 = CLOCK << SEEN;
    /// [`Home::tag`].
    pub const TAG: u32 = TAGS << TAG;

    /// The state of a flow heard now, in seconds.
    #[inline(always)]
    #[must_use]
    pub const fn new(home: &Home, flags: u32, now: u32) -> Self {
        Self((home.tag << TAG) | flags).heard(now)
    }

    /// The same, but heard now, in seconds.
    #[inline(always)]
    #[must_use]
    pub const fn heard(self, now: u32) -> Self {
        Self((self.0 & !(CLOCK << SEEN)) | (((now / TICK) & CLOCK) << SEEN))
    }

    /// The same with other flags.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, set: u32, clear: u32) -> Self {
        let word = (self.0 & !clear) | set;
        if word & (Self::FORWARD | Self::REVERSE) == 0 { Self::FREE } else { Self(word) }
    }

    /// Whether all these flags are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: u32) -> bool {
        self.0 & flags == flags
    }

    /// Whether a flow of this home may lie there that has the role, [`State::FORWARD`] or [`State::REVERSE`].
    #[inline(always)]
    #[must_use]
    pub const fn may_be(self, home: &Home, role: u32) -> bool {
        self.0 & ((TAGS << TAG) | role | Self::BUSY) == ((home.tag << TAG) | role)
    }

    /// Seconds since it was heard, to the tick. A clock of another CPU may be a tick ahead.
    #[inline(always)]
    const fn silent(self, now: u32) -> i32 {
        let ticks = (now / TICK).wrapping_sub(self.0 >> SEEN) & CLOCK;
        if ticks == CLOCK { 0 } else { (ticks * TICK) as i32 }
    }

    /// Whether nothing is lost with whoever lies there.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self, now: u32) -> bool {
        self.standing(now) as u32 <= Standing::Over as u32
    }

    /// What a newcomer finds there.
    #[inline(always)]
    #[must_use]
    pub const fn standing(self, now: u32) -> Standing {
        let silent = self.silent(now);
        if self.0 & Self::BUSY != 0 {
            Standing::Kept
        } else if self.0 == Self::FREE.0 {
            Standing::Free
        } else if self.has(Self::CLOSED) {
            if silent > TCP_CLOSED { Standing::Over } else { Standing::Closed }
        } else if self.0 & Self::TCP == 0 {
            if silent > REPLY_IDLE {
                Standing::Over
            } else if self.has(Self::HALF_OPEN) {
                Standing::HalfOpen
            } else {
                Standing::Datagrams
            }
        } else if silent > TCP_IDLE {
            Standing::Over
        } else if self.has(Self::HALF_OPEN) {
            Standing::HalfOpen
        } else if silent > TCP_QUIET {
            Standing::Quiet
        } else {
            Standing::Kept
        }
    }
}

/// Who lies in a place, in the order in which they make room for a newcomer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nobody.
    Free = 0,
    /// A flow that is known no more.
    Over = 1,
    /// A TCP flow that both ends have closed: only what comes late still goes by it.
    Closed = 2,
    /// A flow of which one packet was seen, or, with UDP, no answer.
    HalfOpen = 3,
    /// A UDP flow.
    Datagrams = 4,
    /// A TCP flow, silent for more than [`TCP_QUIET`].
    Quiet = 5,
    /// A TCP flow in use, or a place that is being written: no room.
    Kept = 6,
}

/// Where a flow may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The bucket.
    pub bucket: u32,
    /// The place in it that is looked at first.
    pub way: u32,
    /// Tells it from most others of the bucket.
    pub tag: u32,
    /// The hash they come from.
    pub hash: u64,
}

impl Home {
    /// The home of a client's flows, by its port (network order) as the packet has it, in a table of so many buckets.
    /// No contract between nodes.
    #[inline(always)]
    #[must_use]
    pub const fn of(client: Words, port: [u8; 2], protocol: u8, buckets: u32) -> Self {
        let [high, low] = client;
        let end = u16::from_le_bytes(port) as u64 | ((protocol as u64) << 16);
        let hash = mix(mix(mix(FIRST ^ high, SECOND) ^ low, THIRD) ^ end, SECOND);
        Self::by(mix(hash, THIRD), buckets)
    }

    /// The same by its hash.
    #[inline(always)]
    #[must_use]
    pub const fn by(hash: u64, buckets: u32) -> Self {
        let bucket = (((hash >> 32) * buckets as u64) >> 32) as u32;
        Self { bucket, way: hash as u32 % WAYS, tag: (hash as u32 / WAYS) & TAGS, hash }
    }

    /// Whether one of two states that lie side by side may be that of a flow of this home, in whichever role: not 0. Without a branch, so
    /// that a bucket is looked through in few instructions. Of a home whose tag is 0 a free place may be one, too.
    #[inline(always)]
    #[must_use]
    pub const fn alike(&self, pair: u64) -> u64 {
        const ONES: u64 = 1 << 32 | 1;
        let other = (pair ^ (self.tag as u64 * (ONES << TAG))) & (TAGS as u64 * (ONES << TAG));
        other.wrapping_sub(ONES) & !other & (ONES << 31)
    }

    /// A hash that stands for the whole flow, to a socket of a VIP: never seen with what belongs to another, see
    /// [`crate::Flow::grant`].
    #[inline(always)]
    #[must_use]
    pub const fn guard(&self, vip: Words, port: [u8; 2]) -> u32 {
        let [high, low] = vip;
        let hash = mix(mix(self.hash ^ high, SECOND) ^ low, THIRD);
        (mix(hash ^ u16::from_le_bytes(port) as u64, SECOND) >> 32) as u32
    }
}

/// Where a pod's entry is looked for first, in a table of `pods`, a power of two.
#[inline(always)]
#[must_use]
pub const fn pod_home(pod: Words, port: [u8; 2], pods: u32) -> u32 {
    (Home::of(pod, port, TCP, 0).hash >> 32) as u32 & (pods - 1)
}

const FIRST: u64 = if cfg!(feature = "other-layout") { 0xbf58_476d_1ce4_e5b9 } else { 0x9e37_79b9_7f4a_7c15 };
const SECOND: u64 = 0xff51_afd7_ed55_8ccd;
const THIRD: u64 = 0xc4ce_b9fe_1a85_ec53;

/// A multiplication, and its upper half, which depends on all bits, folded into the lower.
#[inline(always)]
const fn mix(hash: u64, factor: u64) -> u64 {
    let hash = hash.wrapping_mul(factor);
    hash ^ (hash >> 32)
}

/// An address as two words.
pub type Words = [u64; 2];

/// An address as two words, from wherever it lies.
#[inline(always)]
#[must_use]
pub const fn words(address: &Address) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// Whether two addresses are the same.
#[inline(always)]
#[must_use]
pub const fn same(one: Words, other: Words) -> bool {
    (one[0] ^ other[0]) | (one[1] ^ other[1]) == 0
}

/// How easily whoever lies in a place is spared for a newcomer: the least is best. Of equals the one silent for longer; those that are
/// no loss are all the same.
#[inline(always)]
#[must_use]
pub const fn rank(state: State, now: u32) -> u32 {
    let standing = state.standing(now) as u32;
    let fresh = if standing <= Standing::Over as u32 { 0 } else { CLOCK - (state.silent(now) as u32 / TICK) };
    (standing << RANK) | fresh
}

/// The best place for a newcomer among those looked at so far: fed with all of a bucket, beginning at the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Which place.
    pub way: u32,
    /// Who lies there.
    pub state: State,
    rank: u32,
}

impl Room {
    /// Nothing looked at yet.
    pub const NONE: Self = Self { way: 0, state: State::FREE, rank: (Standing::Kept as u32) << RANK };

    /// Looks at a place, by its [`rank`]. Of equals the first is kept.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, way: u32, state: State, rank: u32) -> Self {
        if rank < self.rank { Self { way, state, rank } } else { self }
    }

    /// Whether there is room at all.
    #[inline(always)]
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.rank < (Standing::Kept as u32) << RANK
    }

    /// Whether no other can be better.
    #[inline(always)]
    #[must_use]
    pub const fn is_ideal(&self) -> bool {
        self.rank <= (Standing::Over as u32) << RANK
    }
}

const RANK: u32 = 16;

#[cfg(test)]
mod tests;
