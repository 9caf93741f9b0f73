//! From one of the ingress program's parts to another: see [`forwarder_ebpf::Stage`]. And to a predecessor's programs, while
//! its flows are taken over ([`forwarder_ebpf::Predecessor`]): it has other maps, and goes on until all that it knows is known here.

use aya_ebpf::{macros::map, maps::ProgramArray, programs::TcContext};
use forwarder_ebpf::{DropReason, Predecessor, Stage, table::State};

use crate::{
    parse::{self, Packet},
    scratch::{self, PACKET},
    table,
    verdict::Action,
};

/// The agent fills it, and pins it: the kernel empties an array of programs that no user holds any more.
#[map]
static STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::COUNT + Predecessor::COUNT, 0);

/// Goes on there, or leaves the frame to whoever comes next.
#[inline(always)]
pub fn enter_if_there(ctx: &TcContext, stage: Stage) -> Action {
    // SAFETY: nothing is left to be done here.
    unsafe { STAGES.tail_call(ctx, stage as u32) };
    Action::Next
}

/// Goes on there. What is returned is for the case that it could not.
#[inline(always)]
pub fn enter(ctx: &TcContext, stage: Stage) -> Action {
    // SAFETY: nothing is left to be done here.
    unsafe { STAGES.tail_call(ctx, stage as u32) };
    Action::count_drop(DropReason::Stage)
}

/// Leaves the packet, of which nothing is known here, to the predecessor's program; comes back if there is none.
///
/// The packet must be as it came: a predecessor that does not know it either decides as this program would have.
#[inline(always)]
pub fn leave_to_predecessor(ctx: &TcContext, which: Predecessor) {
    // SAFETY: nothing is left to be done here, nor anything begun.
    unsafe { STAGES.tail_call(ctx, which as u32) };
}

/// The same of a packet to a VIP without a flow here. `None` where nothing can be done, so that the verifier follows one way only.
#[inline(always)]
pub fn leave_unknown_to_predecessor(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let scratch = scratch::get()?;
    scratch::note(scratch, PACKET, &packet.tuple);
    let slot = crier_predecessor(packet.flags as u32, packet.quic as u32);
    // SAFETY: as above.
    unsafe { STAGES.tail_call(ctx, slot) };
    Some(())
}

/// Where the packet that is noted as the scratch's [`PACKET`] is asked about; it is noted, too, where its home is, and where its flow
/// lies, should that be one that takes it no more. One that begins a connection whose ends are known here, of an earlier one, is not the
/// predecessor's, which would know the earlier one still. A function of its own, so that the verifier sees a number, and not each way to
/// it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crier_predecessor(flags: u32, quic: u32) -> u32 {
    let Some(scratch) = scratch::get() else { return NOBODY };
    let home = table::home(scratch::noted(scratch, PACKET));
    let alone = table::is_alone(&home);
    scratch::note_home(scratch, home.hash, alone);
    let found = if alone { table::NOWHERE } else { table::crier_find(PACKET, State::FORWARD) };
    scratch::note_found(scratch, found);
    if parse::continues(scratch::noted(scratch, PACKET).protocol, flags as u8, quic != 0) {
        Predecessor::Ongoing as u32
    } else if found == table::NOWHERE {
        Predecessor::Beginning as u32
    } else {
        NOBODY
    }
}

/// Nothing is there.
const NOBODY: u32 = u32::MAX;
