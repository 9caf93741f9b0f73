//! Counts what goes by for services and pods; what it means is in [`forwarder_ebpf::counter`].

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use forwarder_ebpf::{Counter, Direction, Flow, Handed, ServiceEntry, Waits, limits};

use crate::{
    age, assembly,
    maps::{self, FLOWS, Size, size},
    parse::Packet,
    words,
};

#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(limits::COUNTERS, 0);
#[map]
static COUNTED: HashMap<u32, u32> = HashMap::with_max_entries(limits::COUNTED_PODS, 0);
#[map]
static HANDED: PerCpuArray<Handed> = PerCpuArray::with_max_entries(limits::COUNTED, 0);
// One for all CPUs: a connection is counted here once, and each of these is large.
#[map]
static WAITS: Array<Waits> = Array::with_max_entries(limits::COUNTED, 0);

/// What a packet is beside one more: it begins a connection.
pub const NEW: u32 = 1;
/// It ends one by a reset.
pub const RESET: u32 = 1 << 1;
/// It opens one once more.
pub const RETRANSMIT: u32 = 1 << 2;

/// No number of a counter, and no place of a flow.
pub const NONE: u32 = u32::MAX;

/// By what a packet is counted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Account {
    /// The number of the counter, if that has the tag.
    pub counted: u32,
    /// The pod's tag; 0: a service's counter.
    pub tag: u32,
    /// Where the flow lies that says so, if one does.
    pub place: u32,
}

/// Counts a packet to or from a pod of this node.
#[inline(always)]
pub fn count(ctx: &TcContext, account: Account, direction: Direction, what: u32) {
    count_size(account, direction, size(ctx), what);
}

/// The same for one that is that much.
#[inline(always)]
pub fn count_size(account: Account, direction: Direction, Size { packets, bytes }: Size, what: u32) {
    let Some(mut counter) = COUNTERS.get_ptr_mut(account.counted) else { return };
    // SAFETY: the counter is this CPU's own.
    if unsafe { (*counter).tag } != account.tag {
        let Some(other) = COUNTERS.get_ptr_mut(crier_counted(account.place, account.tag)) else { return };
        counter = other;
    }
    let way = direction as usize & 1;
    // SAFETY: as above, and programs are not preempted by one another on a CPU.
    unsafe {
        (*counter).packets[way] += packets;
        (*counter).bytes[way] += bytes;
        if what != 0 {
            (*counter).flows += (what & NEW != 0) as u64;
            (*counter).resets[way] += (what & RESET != 0) as u64;
            (*counter).retransmits += (what & RETRANSMIT != 0) as u32;
        }
    }
}

/// Counts a packet that is handed on to another node.
#[inline(always)]
pub fn count_handed(counted: u32, size: Size) {
    if let Some(handed) = HANDED.get_ptr_mut(counted) {
        // SAFETY: as above.
        unsafe {
            (*handed).packets += size.packets;
            (*handed).bytes += size.bytes;
        }
    }
}

/// The number of the counter for a flow of a pod's that names one which is not the pod's (any more): that of the pod, which
/// the flow then names; or its service's, if the pod has none; [`NONE`] if the service is gone, or another's flow is there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_counted(place: u32, tag: u32) -> u32 {
    let Some(flow) = FLOWS.get_ptr_mut(place) else { return NONE };
    // SAFETY: points into the map, which outlives the program's run. Should another flow take the place meanwhile, it gets a
    // number that is not its own, and comes here in its turn.
    if unsafe { (&raw const (*flow).tag).read_volatile() } != tag {
        return NONE;
    }
    if let Some(number) = COUNTED.get_ptr(&tag) {
        // SAFETY: as above; aligned words.
        unsafe {
            let number = number.read_volatile();
            (&raw mut (*flow).counted).write_volatile(number);
            return number;
        }
    }
    // SAFETY: as above.
    match service(unsafe { &*flow }) {
        Some(service) => service.counted,
        None => NONE,
    }
}

/// Counts how long the client waited whose connection the pod accepts now, by its flow's place; if it still waits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_accepted(place: u32) -> u32 {
    let Some(flow) = FLOWS.get_ptr_mut(place) else { return 0 };
    // SAFETY: points into the map, which outlives the program's run; an aligned word.
    let begun = unsafe { (&raw const (*flow).begun).read_volatile() };
    if begun == 0 {
        return 0;
    }
    note_begun(flow, 0);
    // SAFETY: as above.
    let Some(service) = service(unsafe { &*flow }) else { return 0 };
    let Some(waits) = WAITS.get_ptr_mut(service.counted) else { return 0 };
    let waited = micros().wrapping_sub(begun) as u64;
    let mut bound = 0;
    while bound < Waits::BOUNDS && waited > Waits::bound(bound) {
        bound = assembly::once_more(bound);
    }
    // SAFETY: points into the map; the bound is not above their number.
    unsafe {
        assembly::add(&raw mut (*waits).micros, waited);
        assembly::add((&raw mut (*waits).counts).cast::<u64>().add(bound as usize), 1);
    }
    1
}

/// Notes when a flow's client began to connect ([`micros`]), or that it waits no more (0).
#[inline(always)]
pub fn note_begun(flow: *mut Flow, micros: u32) {
    // SAFETY: points into the map, which outlives the program's run; an aligned word, at worst another flow's.
    unsafe { (&raw mut (*flow).begun).write_volatile(micros) };
}

/// When a flow begins whose first packet this is: in seconds, and as [`micros`], 0 if it opens no connection. By one look at the clock:
/// at the exact one where that is needed.
#[inline(always)]
pub fn begun(packet: &Packet) -> (u32, u32) {
    if !packet.opens() {
        return (age::seconds(), 0);
    }
    let micros = exact();
    ((micros / 1_000_000) as u32, micros as u32 | 1)
}

/// Microseconds of the kernel's monotonic clock, exact and never 0: it costs as much as a whole decision, so it is for
/// packets that open a connection.
#[inline(always)]
pub fn micros() -> u32 {
    exact() as u32 | 1
}

#[inline(always)]
fn exact() -> u64 {
    // SAFETY: no arguments, no effects.
    unsafe { bpf_ktime_get_ns() / 1_000 }
}

#[inline(always)]
fn service(flow: &Flow) -> Option<&'static ServiceEntry> {
    maps::service_behind(words::vip(flow), flow.port, flow.protocol)
}
