//! What lies in the maps: `repr(C)`, wire fields as byte arrays in network order, no implicit padding.
//!
//! Addresses are 16 bytes; IPv4 as IPv4-mapped IPv6 (`::ffff:a.b.c.d`), so that one code serves both families.
//! What outlives the agent is in [`crate::flow`].

/// An address: IPv6, or IPv4-mapped.
pub type Address = [u8; 16];

/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;
/// The protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Slots in a [`Row`].
pub const ROW_SLOTS: u32 = 64;

/// 64 slots of a table: of a node table [`crate::NodeSlot`]s, of a local table backends' indices, 0 for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The slots.
    pub slots: [u64; ROW_SLOTS as usize],
}

/// The interfaces on which VIPs' packets arrive; those without a number are none. All in one cache line, which every packet
/// of the machine looks at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Each at the place that is its column of [`NodeEntry`]s.
    pub places: [Uplink; crate::limits::UPLINKS as usize],
}

/// An interface on which VIPs' packets arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's index; 0: no uplink.
    pub interface: u32,
    /// Its own MAC: other frames are not ours.
    pub mac: [u8; 6],
    /// Which of the columns of [`NodeEntry`] belongs to it; below [`crate::limits::UPLINKS`].
    pub column: u8,
    /// Not 0: what comes in for this node itself may be of a translated connection.
    pub returns: u8,
}

/// A socket clients connect to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Address,
    /// The port, network order.
    pub port: [u8; 2],
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Where a service's entry is found, by hashing its key: a bucket of the directory, see [`crate::directory`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The places, in no order.
    pub places: [Place; crate::directory::WAYS as usize],
}

/// A place in a [`Bucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose.
    pub key: ServiceKey,
    /// A part of the key's hash: others' places are told by it alone.
    pub tag: u32,
    /// Which [`ServiceEntry`] it has now, plus one; 0: the place is free.
    pub entry: u32,
    /// Zero.
    pub pad: u32,
}

impl Place {
    /// A free place.
    pub const FREE: Self =
        Self { key: ServiceKey { vip: [0; 16], port: [0; 2], protocol: 0, pad: 0 }, tag: 0, entry: 0, pad: 0 };
}

/// Where a service's tables lie. One that changes is written beside the old, and then its place in the directory is pointed
/// to the new, so that a service is never half there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its number among the [`crate::Counter`]s, the [`crate::Handed`] and the [`crate::Waits`].
    pub counted: u32,
    /// First row of the node table.
    pub node_row: u32,
    /// Slots of the node table; 0: no node.
    pub node_slots: u32,
    /// First row of the local table.
    pub local_row: u32,
    /// Slots of the local table; 0: no local pod.
    pub local_slots: u32,
    /// Seconds for which a client stays with its pod (`sessionAffinity`); 0: it need not.
    pub affinity: u32,
    /// Which [`Source`]s are let in; 0: all are.
    pub sources: u32,
}

/// An address range whose clients are let in (`loadBalancerSourceRanges`), as the longest match looks for it: behind
/// [`Source::OF_SET`] bits of its set come those of the range.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// [`ServiceEntry::sources`], big-endian: a match begins with its first bit.
    pub set: [u8; 4],
    /// The range's address.
    pub address: Address,
}

impl Source {
    /// Bits of the set.
    pub const OF_SET: u32 = 32;
    /// Bits before an IPv4 range in its mapped address.
    pub const OF_MAPPED: u32 = 96;
}

/// A client of a service with affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityKey {
    /// The client's address.
    pub client: Address,
    /// Which counters the service has.
    pub counted: u32,
}

/// The pod that a client stays with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The pod's index among the backends when it was chosen.
    pub backend: u32,
    /// The pod's [`BackendEntry::tag`].
    pub tag: u32,
    /// Seconds of the kernel's monotonic clock when the client last began a connection.
    pub seen: u32,
    /// For how many seconds from then on it stays with its pod.
    pub patience: u32,
}

/// A node on one uplink's segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Where its frames go.
    pub mac: [u8; 6],
    /// [`NodeEntry::PRESENT`], [`NodeEntry::SELF`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}

impl NodeEntry {
    /// There is such a node on this segment.
    pub const PRESENT: u8 = 1;
    /// It is the node the program runs on.
    pub const SELF: u8 = 2;
    /// No such node.
    pub const NONE: Self = Self { mac: [0; 6], flags: 0, pad: 0 };
}

/// A pod's socket on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// The pod's address.
    pub address: Address,
    /// The pod's port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// A hash of what it is (service, address, port), never 0: tells it from another that has its index later.
    pub tag: u32,
    /// [`BackendEntry::USABLE`], [`BackendEntry::TRANSLATED`].
    pub flags: u32,
    /// Which [`crate::Counter`] it has; 0: its service's.
    pub counted: u32,
    /// This node's address by which a translated backend knows the clients; else zero.
    pub own: Address,
}

impl BackendEntry {
    /// May get new connections.
    pub const USABLE: u32 = 1;
    /// It cannot answer the clients past this node: its connections come from [`BackendEntry::own`].
    pub const TRANSLATED: u32 = 2;
    /// No such backend.
    pub const NONE: Self =
        Self { address: [0; 16], port: [0; 2], pad: [0; 2], tag: 0, flags: 0, counted: 0, own: [0; 16] };
}

/// Both ends of a packet. Aligned, so that addresses are compared and hashed by words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// Its source port, network order.
    pub source_port: [u8; 2],
    /// Its destination port, network order.
    pub destination_port: [u8; 2],
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Another node's MAC as frames for it would reach this node: flooded by a switch that has lost its port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShadowKey {
    /// The index of the interface the frames come in by.
    pub interface: u32,
    /// The MAC.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// What the agent says of a shadowed MAC. Replaced as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Frames are carried until this moment of the kernel's monotonic clock, in nanoseconds; the agent keeps putting it
    /// off, so that a node without an agent does not stand in for ever. 0: they are only watched.
    pub until: u64,
    /// Where its [`ShadowState`] lies; below [`crate::limits::SHADOWS`].
    pub slot: u32,
    /// Grows each time the agent arms anew; never 0.
    pub round: u32,
}

/// A VIP whose frames are carried though they are addressed to a shadowed MAC.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShadowedVip {
    /// The VIP.
    pub vip: Address,
    /// Whose.
    pub owner: ShadowKey,
}

/// What the kernel has seen of a shadowed MAC. Times are nanoseconds of the monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowState {
    /// When the newest flood began: frames to the MAC that follow each other closely.
    pub began: u64,
    /// When the newest frame to the MAC was seen.
    pub flooded: u64,
    /// Frames to the MAC seen; at least it changes with each.
    pub seen: u64,
    /// The [`Shadow::round`] in which the MAC's owner was found alive during a flood: no more is carried in it.
    pub stood_down: u32,
    /// Zero.
    pub pad: u32,
}

impl ShadowState {
    /// Nanoseconds without a frame to the MAC after which the next begins a flood anew.
    pub const PAUSE: u64 = 250_000_000;
    /// Nanoseconds after a flood's begin in which a frame from the MAC may be one that was on its way, or in another
    /// receive queue, when the owner's link was lost: no sign of life yet.
    pub const ON_ITS_WAY: u64 = 1_000_000;
}

const _: () = assert!(size_of::<ShadowKey>() == 12);
const _: () = assert!(size_of::<Shadow>() == 16);
const _: () = assert!(size_of::<ShadowedVip>() == 28);
const _: () = assert!(size_of::<ShadowState>() == 32);
const _: () = assert!(size_of::<Row>() == 512);
const _: () = assert!(size_of::<Uplink>() == 12);
const _: () = assert!(size_of::<Uplinks>() == 48);
const _: () = assert!(size_of::<Place>() == 32);
const _: () = assert!(size_of::<Bucket>() == 128);
const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<ServiceEntry>() == 28);
const _: () = assert!(size_of::<Source>() == 20);
const _: () = assert!(size_of::<AffinityKey>() == 20);
const _: () = assert!(size_of::<Affinity>() == 16);
const _: () = assert!(size_of::<NodeEntry>() == 8);
const _: () = assert!(size_of::<BackendEntry>() == 48);
const _: () = assert!(size_of::<Tuple>() == 40);

/// Where a node's entry for an uplink lies in the map `NODES`.
#[inline(always)]
#[must_use]
pub const fn node_entry_index(node: u16, column: u8) -> u32 {
    node as u32 * crate::limits::UPLINKS + column as u32
}

/// How a node's MAC on an uplink's segment is found in the map `NODE_MACS`.
#[inline(always)]
#[must_use]
pub const fn node_mac_key(mac: [u8; 6], column: u8) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, column, 0]
}

/// An IPv4 address as [`Address`].
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
