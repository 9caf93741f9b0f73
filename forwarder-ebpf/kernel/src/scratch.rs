//! Where the slower ways keep what they work on, since the stack holds 512 bytes for all functions together.

use aya_ebpf::bindings::bpf_fib_lookup;
use forwarder_ebpf::{
    Flow, Grant, Tuple,
    table::{Home, Words},
};

use crate::{
    fragment::{Course, Datagram},
    maps::SCRATCH,
    table, words,
};

/// This CPU's own; programs are not preempted by one another on it.
#[repr(C)]
pub struct Scratch {
    /// Ends of packets: [`PACKET`], [`REPLY`], [`OTHER`].
    pub ends: [Tuple; ENDS as usize],
    /// The hash of the home of [`PACKET`], and whether no flow of that home was in the table (not 0), once it was looked for
    /// ([`crate::stage`]).
    pub home: u64,
    pub alone: u64,
    /// Where the flow of [`PACKET`] lies ([`crate::table::crier_find`]), once it was looked for ([`crate::stage`]).
    pub found: u64,
    /// A flow to be put into the table.
    pub flow: Flow,
    /// Which datagram a fragment belongs to.
    pub datagram: Datagram,
    /// What became of its first fragment.
    pub course: Course,
    /// Of the ports that are tried ([`crate::ports`]): how many there may be, and one that is closed, plus one. Here the kernel's verifier
    /// does not know them, and so does not go through what follows for each.
    pub attempts: u32,
    pub closed: u32,
    /// The hash that they are made of: here it takes no place on the stack.
    pub hash: u64,
    /// A question to the kernel's routing.
    pub lookup: bpf_fib_lookup,
}

impl Scratch {
    /// An empty question.
    // SAFETY: plain integers, of which zero is a value.
    pub const NO_LOOKUP: bpf_fib_lookup = unsafe { core::mem::zeroed() };
}

const ENDS: u32 = 4;
/// The client's packet.
pub const PACKET: u32 = 0;
/// The pod's replies.
pub const REPLY: u32 = 1;
/// Another flow's client's packet.
pub const OTHER: u32 = 2;

/// This CPU's scratch.
#[inline(always)]
pub fn get() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// Writes ends down in the scratch.
#[inline(always)]
pub fn note(scratch: *mut Scratch, ends: u32, tuple: &Tuple) {
    // SAFETY: points into the map, which outlives the program's run; no one else's, see [`Scratch`].
    unsafe {
        let to = &raw mut (*scratch).ends[(ends % ENDS) as usize];
        (&raw mut (*to).source).cast::<Words>().write(words::source(tuple));
        (&raw mut (*to).destination).cast::<Words>().write(words::destination(tuple));
        (&raw mut (*to).source_port).cast::<u32>().write(words::ports(tuple));
        (&raw mut (*to).protocol).write(tuple.protocol);
    }
}

/// Ends that were written down.
#[inline(always)]
pub fn noted(scratch: *mut Scratch, ends: u32) -> &'static Tuple {
    // SAFETY: as above; not kept for longer than till the next is noted.
    unsafe { &(*scratch).ends[(ends % ENDS) as usize] }
}

/// Notes the home of the scratch's [`PACKET`], and whether there is no flow of it.
#[inline(always)]
pub fn note_home(scratch: *mut Scratch, hash: u64, alone: bool) {
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    unsafe {
        (&raw mut (*scratch).home).write_volatile(hash);
        (&raw mut (*scratch).alone).write_volatile(alone as u64);
    }
}

/// The home that was noted.
#[inline(always)]
pub fn home(scratch: *mut Scratch) -> Home {
    // SAFETY: as above.
    table::home_by(unsafe { (&raw const (*scratch).home).read_volatile() })
}

/// Whether no flow of it was in the table.
#[inline(always)]
pub fn is_alone(scratch: *mut Scratch) -> bool {
    // SAFETY: as above.
    unsafe { (&raw const (*scratch).alone).read_volatile() != 0 }
}

/// Notes where the flow of the scratch's [`PACKET`] lies.
#[inline(always)]
pub fn note_found(scratch: *mut Scratch, found: u64) {
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    unsafe { (&raw mut (*scratch).found).write_volatile(found) };
}

/// Where it lay then.
#[inline(always)]
pub fn found(scratch: *mut Scratch) -> u64 {
    // SAFETY: as above.
    unsafe { (&raw const (*scratch).found).read_volatile() }
}

/// What a flow was chosen for.
pub struct Served {
    /// The pod's index among the backends.
    pub backend: u16,
    /// Its tag.
    pub tag: u32,
    /// Which counter the pod has.
    pub counted: u32,
    /// When the client was heard, in seconds.
    pub seen: u32,
    /// When it began to connect, see [`crate::counters::micros`].
    pub begun: u32,
}

/// Makes a flow in the scratch, for a client's packet.
#[inline(always)]
pub fn fill(scratch: *mut Scratch, tuple: &Tuple, grant: Grant, served: Served) {
    let guard = home(scratch).guard(words::destination(tuple), tuple.destination_port);
    // SAFETY: points into the map, which outlives the program's run; this CPU's own, and on words' boundaries.
    unsafe {
        let flow = &raw mut (*scratch).flow;
        (&raw mut (*flow).grant).write(Grant { guard, ..grant }.word());
        (&raw mut (*flow).client).cast::<Words>().write(words::source(tuple));
        (&raw mut (*flow).vip).cast::<Words>().write(words::destination(tuple));
        (&raw mut (*flow).client_port).cast::<u32>().write(words::ports(tuple));
        (&raw mut (*flow).protocol).write(tuple.protocol);
        (&raw mut (*flow).backend).write(served.backend);
        (&raw mut (*flow).tag).write(served.tag);
        (&raw mut (*flow).counted).write(served.counted);
        (&raw mut (*flow).seen).write(served.seen);
        (&raw mut (*flow).begun).write(served.begun);
    }
}

/// Copies a flow into the scratch.
#[inline(always)]
pub fn copy(scratch: *mut Scratch, flow: &Flow) {
    // SAFETY: as above.
    unsafe { (&raw mut (*scratch).flow).write(*flow) };
}
