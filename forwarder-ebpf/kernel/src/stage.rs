//! From one of the ingress program's parts to another: see [`forwarder_ebpf::Stage`].

use aya_ebpf::{macros::map, maps::ProgramArray, programs::TcContext};
use forwarder_ebpf::{DropReason, Stage};

use crate::verdict::Action;

/// The agent fills it, and pins it: the kernel empties an array of programs that no user holds any more.
#[map]
static STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::COUNT, 0);

/// Goes on there. What is returned is for the case that it could not.
#[inline(always)]
pub fn enter(ctx: &TcContext, stage: Stage) -> Action {
    // SAFETY: nothing is left to be done here.
    unsafe { STAGES.tail_call(ctx, stage as u32) };
    Action::count_drop(DropReason::Stage)
}
