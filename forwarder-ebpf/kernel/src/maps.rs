//! The maps, and the few ways they are read and counted in.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_MMAPABLE},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::TcContext,
};
use forwarder_ebpf::{
    Address, BackendEntry, Counter, Direction, EVENTS as EVENT_COUNT, Flow, FlowStates, NodeEntry, Pod, ROW_SLOTS, Row,
    ServiceEntry, ServiceKey, Shadow, ShadowKey, ShadowState, ShadowedVip, Tuple, Uplink, counter_index, limits,
    node_entry_index, steer, table::WAYS,
};

use crate::scratch::Scratch;

#[map]
static UPLINKS: HashMap<u32, Uplink> = HashMap::with_max_entries(limits::UPLINKS, 0);
#[map]
static VIPS: HashMap<Address, u32> = HashMap::with_max_entries(limits::VIPS, 0);
#[map]
static SERVICES: HashMap<ServiceKey, ServiceEntry> = HashMap::with_max_entries(limits::SERVICES, 0);
#[map]
static ROWS: Array<Row> = Array::with_max_entries(limits::ROWS, 0);
#[map]
static NODES: Array<NodeEntry> = Array::with_max_entries(limits::NODES * limits::UPLINKS, 0);
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
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(limits::COUNTED * Direction::COUNT, 0);
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

/// The uplink the packet came in by, if it is one.
#[inline(always)]
pub fn uplink(ctx: &TcContext) -> Option<Uplink> {
    // SAFETY: copied at once; an entry replaced meanwhile gives an old or a new MAC, both were or are right.
    unsafe { UPLINKS.get(interface(ctx)) }.copied()
}

/// Whether an address is a VIP.
#[inline(always)]
pub fn is_vip(address: &Address) -> bool {
    VIPS.get_ptr(address).is_some()
}

/// The service behind a socket.
#[inline(always)]
pub fn service(tuple: &Tuple) -> Option<&'static ServiceEntry> {
    let key = ServiceKey { vip: tuple.destination, port: tuple.destination_port, protocol: tuple.protocol, pad: 0 };
    // SAFETY: the agent replaces entries by new elements, the old one lives until this run ends.
    unsafe { SERVICES.get(key) }
}

/// A table's slot; 0 if the table has none.
#[inline(always)]
pub fn slot(row: u32, slots: u32, hash: u32) -> u32 {
    if slots == 0 {
        return 0;
    }
    let slot = steer::slot(hash, slots);
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

/// Counts a packet for its service.
#[inline(always)]
pub fn count(ctx: &TcContext, counted: u32, direction: Direction, new: bool) {
    let skb = ctx.as_ptr().cast::<__sk_buff>();
    if let Some(counter) = COUNTERS.get_ptr_mut(counter_index(counted, direction)) {
        // SAFETY: the context is valid for the program's run; the counter is this CPU's own, and programs are not
        // preempted by one another on it.
        unsafe {
            let segments = (*skb).gso_segs as u64;
            (*counter).packets += if segments == 0 { 1 } else { segments };
            (*counter).bytes += (*skb).len as u64;
            (*counter).flows += new as u64;
        }
    }
}

/// Counts a drop, a second hop, what became of a flooded frame, or a flow that made room.
#[inline(always)]
pub fn count_event(event: u32) {
    if let Some(count) = EVENTS.get_ptr_mut(event) {
        // SAFETY: the counter is this CPU's own.
        unsafe { *count += 1 };
    }
}
