//! The maps, and the few ways they are read and counted in.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_MMAPABLE},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    programs::TcContext,
};
use forwarder_ebpf::{
    Address, Affinity, AffinityKey, BackendEntry, Bucket, EVENTS as EVENT_COUNT, Flow, FlowStates, NodeEntry, NodeSlot,
    Place, Pod, ROW_SLOTS, Row, ServiceEntry, Shadow, ShadowKey, ShadowState, ShadowedVip, Source, Tuple, Uplink,
    Uplinks,
    directory::{self, Route},
    limits, node_entry_index, node_mac_key, steer,
    table::{WAYS, Words},
    vips,
};

use crate::{
    fragment::{Course, Datagram},
    scratch::Scratch,
    words,
};

#[map]
static UPLINKS: Array<Uplinks> = Array::with_max_entries(1, 0);
#[map]
static VIPS: HashMap<Address, u32> = HashMap::with_max_entries(limits::VIPS, 0);
#[map]
static VIP_BITS: Array<u64> = Array::with_max_entries(vips::WORDS, 0);
#[map]
static DIRECTORY: Array<Bucket> = Array::with_max_entries(directory::BUCKETS, 0);
#[map]
static SERVICES: Array<ServiceEntry> = Array::with_max_entries(limits::SERVICE_ENTRIES, 0);
#[map]
static ROWS: Array<Row> = Array::with_max_entries(limits::ROWS, 0);
#[map]
static NODES: Array<NodeEntry> = Array::with_max_entries(limits::NODES * limits::UPLINKS, 0);
#[map]
static NODE_MACS: HashMap<[u8; 8], u32> = HashMap::with_max_entries(limits::NODES * limits::UPLINKS, 0);
/// When this CPU's next refusal would be due at an even pace, in nanoseconds.
#[map]
static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BACKENDS: Array<BackendEntry> = Array::with_max_entries(limits::BACKENDS, 0);
// Whoever could map them into memory needs them to begin with a page; here it puts each flow, and each bucket's states,
// in a cache line of its own.
#[map]
pub static FLOWS: Array<Flow> = Array::with_max_entries(limits::FLOWS, BPF_F_MMAPABLE);
#[map]
pub static FLOW_STATES: Array<FlowStates> = Array::with_max_entries(limits::FLOWS / WAYS, BPF_F_MMAPABLE);
#[map]
pub static PODS: Array<Pod> = Array::with_max_entries(limits::PODS, BPF_F_MMAPABLE);
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SOURCES: LpmTrie<Source, u32> = LpmTrie::with_max_entries(limits::SOURCES, 0);
#[map]
pub static AFFINITIES: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(limits::AFFINITIES, 0);
#[map]
pub static FRAGMENTED: LruHashMap<Datagram, Course> = LruHashMap::with_max_entries(limits::FRAGMENTED, 0);
#[map]
pub static SHADOWS: HashMap<ShadowKey, Shadow> = HashMap::with_max_entries(limits::SHADOWS, 0);
#[map]
pub static SHADOWED_VIPS: HashMap<ShadowedVip, u32> = HashMap::with_max_entries(limits::SHADOWED_VIPS, 0);
#[map]
pub static SHADOW_STATES: Array<ShadowState> = Array::with_max_entries(limits::SHADOWS, 0);
/// When the newest frame to any shadowed MAC was seen, coarsely: all else need not look for their owners' frames.
#[map]
pub static ALARM: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static FLOODS: RingBuf = RingBuf::with_byte_size(limits::FLOOD_BYTES, 0);
#[map]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EVENT_COUNT, 0);

/// The interface the packet came in by or goes out by.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the program's run.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// The uplink of that interface index, if it is one. An entry replaced meanwhile gives an old or a new MAC, both were or are
/// right, or at worst a mixture, which is nobody's.
#[inline(always)]
pub fn uplink(interface: u32) -> Option<&'static Uplink> {
    let [a, b, c, d] = &UPLINKS.get(0)?.places;
    if a.interface == interface {
        Some(a)
    } else if b.interface == interface {
        Some(b)
    } else if c.interface == interface {
        Some(c)
    } else if d.interface == interface {
        Some(d)
    } else {
        None
    }
}

/// Whether a packet may be to a VIP.
#[inline(always)]
pub fn may_be_to_vip(tuple: &Tuple) -> bool {
    let (word, bit) = vips::bit(words::destination(tuple));
    VIP_BITS.get(word).is_some_and(|bits| *bits & bit != 0)
}

/// Whether an address is a VIP.
#[inline(always)]
pub fn is_vip(address: &Address) -> bool {
    VIPS.get_ptr(address).is_some()
}

/// The service behind a socket.
#[inline(always)]
pub fn service(tuple: &Tuple) -> Option<&'static ServiceEntry> {
    service_behind(steer::words(&tuple.destination), tuple.destination_port, tuple.protocol)
}

/// The same by the socket's parts.
#[inline(always)]
pub fn service_behind([high, low]: Words, port: [u8; 2], protocol: u8) -> Option<&'static ServiceEntry> {
    let port = u16::from_le_bytes(port);
    let route = directory::route_words(high, low, port, protocol);
    service_at(&route, high, low, port as u32 | (protocol as u32) << 16)
}

/// The same by the words of the address, and port and protocol as they lie in a [`forwarder_ebpf::ServiceKey`].
#[inline(always)]
pub fn service_at(route: &Route, high: u64, low: u64, socket: u32) -> Option<&'static ServiceEntry> {
    let [first, second] = route.buckets;
    let entry = find(first, route.tag, high, low, socket).or_else(|| find(second, route.tag, high, low, socket))?;
    SERVICES.get(entry - 1)
}

#[inline(always)]
fn find(bucket: u32, tag: u32, high: u64, low: u64, socket: u32) -> Option<u32> {
    let [a, b, c, d] = &DIRECTORY.get(bucket)?.places;
    let at = |place: &Place| {
        if place.tag != tag || place.entry == 0 {
            return false;
        }
        let key = (&raw const place.key).cast::<u64>();
        // SAFETY: the key is 20 bytes of the map's value, whose places lie at multiples of 32 bytes.
        unsafe { key.add(1).read() == low && key.read() == high && key.add(2).cast::<u32>().read() == socket }
    };
    if at(a) {
        Some(a.entry)
    } else if at(b) {
        Some(b.entry)
    } else if at(c) {
        Some(c.entry)
    } else if at(d) {
        Some(d.entry)
    } else {
        None
    }
}

/// Whether a service lets a client in.
#[inline(always)]
pub fn lets_in(service: &ServiceEntry, client: &Address) -> bool {
    if service.sources == 0 {
        return true;
    }
    let source = Source { set: service.sources.to_be_bytes(), address: *client };
    SOURCES.get(Key::new(Source::OF_SET + 128, source)).is_some()
}

/// A connection's slot in its service's node table; empty if there is no table.
#[inline(always)]
pub fn node_slot(service: &ServiceEntry, hash: u64) -> NodeSlot {
    NodeSlot(slot(service.node_row, steer::node_slot(hash, service.node_slots)))
}

/// A connection's pod by its service's local table; 0 if there is none.
#[inline(always)]
pub fn local_slot(service: &ServiceEntry, hash: u64) -> u32 {
    if service.local_slots == 0 {
        return 0;
    }
    slot(service.local_row, steer::local_slot(hash, service.local_slots)) as u32
}

#[inline(always)]
fn slot(row: u32, slot: u32) -> u64 {
    match ROWS.get(row + slot / ROW_SLOTS) {
        Some(row) => row.slots[(slot % ROW_SLOTS) as usize],
        None => 0,
    }
}

/// A node as seen on an uplink's segment, if it is there.
#[inline(always)]
pub fn node(index: u16, uplink: &Uplink) -> Option<&'static NodeEntry> {
    if index == 0 {
        return None;
    }
    let entry = NODES.get(node_entry_index(index, uplink.column))?;
    (entry.flags & NodeEntry::PRESENT != 0).then_some(entry)
}

/// Whether a frame's sender is another node.
#[inline(always)]
pub fn is_from_node(mac: &[u8; 6], uplink: &Uplink) -> bool {
    NODE_MACS.get_ptr(&node_mac_key(*mac, uplink.column)).is_some()
}

/// Whether one more packet may be refused now: a bucket of [`limits::REFUSALS_AT_ONCE`] tokens on each CPU, which fills by
/// [`limits::REFUSALS_PER_SECOND`].
#[inline(always)]
pub fn may_refuse() -> bool {
    const PACE: u64 = 1_000_000_000 / limits::REFUSALS_PER_SECOND;
    let Some(next) = REFUSALS.get_ptr_mut(0) else { return false };
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: the word is this CPU's own.
    unsafe {
        let due = if *next > now { *next } else { now };
        if due - now >= PACE * limits::REFUSALS_AT_ONCE {
            return false;
        }
        *next = due + PACE;
    }
    true
}

/// A pod that may get new connections.
#[inline(always)]
pub fn backend(index: u32) -> Option<&'static BackendEntry> {
    if index == 0 {
        return None;
    }
    let entry = BACKENDS.get(index)?;
    (entry.flags & BackendEntry::USABLE != 0).then_some(entry)
}

/// A pod's socket that flows lead to.
#[inline(always)]
pub fn pod(number: u16) -> Option<&'static Pod> {
    PODS.get(number as u32)
}

/// What a packet is on the wire.
#[derive(Clone, Copy)]
pub struct Size {
    /// Packets: segments, where the kernel carries many as one.
    pub packets: u64,
    /// Bytes with link-layer headers.
    pub bytes: u64,
}

impl Size {
    /// No packet.
    pub const NONE: Self = Self { packets: 0, bytes: 0 };
}

/// How much a packet is.
#[inline(always)]
pub fn size(ctx: &TcContext) -> Size {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    // SAFETY: the context is valid for the program's run.
    let (segments, bytes) = unsafe { ((*skb).gso_segs as u64, (*skb).len as u64) };
    Size { packets: if segments == 0 { 1 } else { segments }, bytes }
}

/// Counts a drop, a second hop, what became of a flooded frame, or a flow that made room.
#[inline(always)]
pub fn count_event(event: u32) {
    if let Some(count) = EVENTS.get_ptr_mut(event) {
        // SAFETY: the counter is this CPU's own.
        unsafe { *count += 1 };
    }
}
