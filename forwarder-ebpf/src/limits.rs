//! How much fits: the capacities of the maps. What does not fit is reported by the agent, never passed over.

/// Uplinks of a node that carry VIPs.
pub const UPLINKS: u32 = 4;
/// Nodes of a cluster; index 0 means none, so one less.
pub const NODES: u32 = 4_096;
/// Addresses of services.
pub const VIPS: u32 = 16_384;
/// Triples of VIP, port and protocol.
pub const SERVICES: u32 = 16_384;
/// Entries of services: each has a second one for its next version.
pub const SERVICE_ENTRIES: u32 = 2 * SERVICES;
/// Pod sockets of this node, counted once for each VIP they serve; index 0 means none.
pub const BACKENDS: u32 = 65_536;
/// Rows of tables, unless the agent is told otherwise: room for 4,194,304 slots. Each costs 512 bytes, in use or not: 32 MiB in all.
pub const ROWS: u32 = 65_536;
/// The least the agent may be told.
pub const MIN_ROWS: u32 = 1_024;
/// The most the agent may be told.
pub const MAX_ROWS: u32 = 1_048_576;
/// Connections a node remembers for its own pods, unless the agent is told otherwise. Each costs 68 bytes, in use or
/// not: 34 MiB in all.
pub const FLOWS: u32 = 524_288;
/// The least the agent may be told.
pub const MIN_FLOWS: u32 = 1_024;
/// The most the agent may be told.
pub const MAX_FLOWS: u32 = 16_777_216;
/// Pod sockets of this node to which there are flows; a power of two. One is given up when it had none for hours.
pub const PODS: u32 = 16_384;
/// The ports from which connections to translated backends come, unless the agent says otherwise: below those that Linux gives its
/// own connections. For each backend's socket and protocol there may be so many connections.
pub const NAT_FIRST: u16 = 10_000;
/// How many of them there are.
pub const NAT_PORTS: u16 = 22_768;
/// Source ranges: of all services' ports and addresses together, and of changing ones twice.
pub const SOURCES: u32 = 65_536;
/// Clients that a node remembers for services with affinity, once for each service; the least recently used go first,
/// and the agent counts them.
pub const AFFINITIES: u32 = 65_536;
/// Datagrams in fragments whose later ones follow the first; the least recently used go first. 2 MiB.
pub const FRAGMENTED: u32 = 16_384;
/// Packets to ports without a service that are answered, each second on each CPU.
pub const REFUSALS_PER_SECOND: u64 = 1_000;
/// So many of them at once.
pub const REFUSALS_AT_ONCE: u64 = 100;
/// Triples of service, port and protocol that are counted by.
pub const COUNTED: u32 = 16_384;
/// Pod sockets of this node that are counted by, once for each VIP they serve; the others' traffic is their service's alone.
pub const COUNTED_PODS: u32 = 8_192;
/// Counters: the services', then the pods'.
pub const COUNTERS: u32 = COUNTED + COUNTED_PODS;
/// MACs of other nodes that this one stands in for. Network cards match a few dozen MACs at most before they let in all.
pub const SHADOWS: u32 = 256;
/// Pairs of a VIP and a MAC that this node stands in for.
pub const SHADOWED_VIPS: u32 = 16_384;
/// Bytes of the queue of floods that the agent is told of; one that does not fit is seen at its next look.
pub const FLOOD_BYTES: u32 = 4_096;
/// VIPs that the hooks answer for while no agent does, on each uplink.
pub const OWNED_VIPS: u32 = 4 * VIPS;
