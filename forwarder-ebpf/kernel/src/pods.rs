//! The pods' sockets to which flows lead, numbered. A flow has room for a number, not for an address.
//!
//! A pod keeps its number for as long as a flow to it may be known: every flow that is heard renews its pod. So neither
//! what the agent says of a pod, nor an agent's end, nor its successor's other numbers touch a flow.

use forwarder_ebpf::{
    Pod, Tuple, limits,
    table::{TCP_IDLE, Words, pod_home, same},
};

use crate::{
    age::silence,
    assembly,
    maps::PODS,
    scratch::{self, REPLY},
    words,
};

/// How often another place is looked for when a CPU was faster.
const ATTEMPTS: u32 = 2;
/// Places that are looked at.
const PROBES: u32 = 8;
/// Seconds of silence after which no flow leads to a pod any more.
const IDLE: i32 = TCP_IDLE + 60;

/// No number.
pub const NONE: u32 = u32::MAX;

/// The number of the pod from which the scratch's [`REPLY`] comes, a new one if it has none; [`NONE`] if there is no room. A pod that is
/// translated (not 0) to another of this node's addresses is another.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_number(now: u32, translated: u32) -> u32 {
    let Some(scratch) = scratch::get() else { return NONE };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let number = find_or_enter(scratch::noted(scratch, REPLY), now, translated != 0);
        if number != NONE {
            return number;
        }
        attempt = assembly::once_more(attempt);
    }
    NONE
}

/// Two CPUs that enter a pod at the same moment may give it two numbers, of which either will do.
#[inline(always)]
fn find_or_enter(reply: &Tuple, now: u32, translated: bool) -> u32 {
    let (wanted, port) = (words::source(reply), reply.source_port);
    let (own, way) = if translated { (words::destination(reply), Pod::TRANSLATED) } else { ([0; 2], Pod::DIRECT) };
    let home = pod_home(wanted, port, limits::PODS);
    let mut room = None;
    let mut probe = 0;
    while probe < PROBES {
        let index = (home + probe) % limits::PODS;
        let Some(pod) = PODS.get_ptr_mut(index) else { return NONE };
        // SAFETY: points into the map, which outlives the program's run; aligned words.
        let (state, seen) =
            unsafe { ((&raw const (*pod).state).read_volatile(), (&raw const (*pod).seen).read_volatile()) };
        if state == Pod::THERE {
            // SAFETY: as above.
            if unsafe { (*pod).port == port && same(words::pod(&*pod), wanted) && same(words::own(&*pod), own) } {
                touch(pod, now);
                return index;
            }
        }
        let spare = state == Pod::FREE || (state == Pod::THERE && silence(now, seen) > IDLE);
        if spare && room.is_none() {
            room = Some((index, state));
        }
        // None is ever free again, so the pod is not farther on.
        if state == Pod::FREE {
            break;
        }
        probe = assembly::once_more(probe);
    }
    let Some((index, state)) = room else { return NONE };
    let Some(pod) = PODS.get_ptr_mut(index) else { return NONE };
    // SAFETY: as above; claimed by this CPU before it is written.
    unsafe {
        let word = &raw mut (*pod).state;
        if !assembly::compare_exchange(word, state, Pod::BUSY) {
            return NONE;
        }
        (&raw mut (*pod).address).cast::<Words>().write(wanted);
        (&raw mut (*pod).port).write(port);
        (&raw mut (*pod).way).write(way);
        (&raw mut (*pod).own).cast::<Words>().write(own);
        (&raw mut (*pod).seen).write_volatile(now);
        assembly::publish(word, Pod::THERE);
    }
    index
}

/// Notes that a flow to the pod was heard.
#[inline(always)]
pub fn touch(pod: *mut Pod, now: u32) {
    // SAFETY: points into the map, which outlives the program's run; an aligned word. Written once a second, since all
    // CPUs read what is beside it.
    unsafe {
        let seen = &raw mut (*pod).seen;
        if seen.read_volatile() != now {
            seen.write_volatile(now);
        }
    }
}
