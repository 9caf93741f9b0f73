//! Measures programs that change packets. `BPF_PROG_TEST_RUN` repeats a program on one packet without restoring it: from
//! the second time on, the program would see what it made itself. So the program that is repeated is one of these: it
//! writes the headers of the next client's packet, and tail-calls the program that is measured. With one that does
//! nothing in its place the cost of that is known, and subtracted.
//!
//! The other programs are those of [`scale`], and the ends of a test with real frames: `generate` sends, `count`
//! receives, and `reflect` is the least that can be between them.
#![no_std]
#![no_main]

mod plan;
mod scale;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};

use crate::plan::{CHECKSUM_V4, Plan, TCP_CHECKSUM, TCP_V4, TCP_V6, WORDS, WORDS_V4};

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
/// What is measured. One for each type: an array of programs takes those of one type only.
#[map]
static TC_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static XDP_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Frames that came to `count`.
#[map]
static COUNTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes a packet, and gives it to a TC program.
#[classifier]
#[inline(always)]
pub fn harness_tc(ctx: TcContext) -> i32 {
    if write_packet(ctx.data(), ctx.data_end()) {
        // SAFETY: nothing is left to be done.
        unsafe { TC_TARGET.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

/// In the place of a TC program: nothing.
#[classifier]
#[inline(always)]
pub fn null_tc(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// Writes a packet, and gives it to an XDP program.
#[xdp]
#[inline(always)]
pub fn harness_xdp(ctx: XdpContext) -> u32 {
    if write_packet(ctx.data(), ctx.data_end()) {
        // SAFETY: nothing is left to be done.
        unsafe { XDP_TARGET.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// In the place of an XDP program: nothing.
#[xdp]
#[inline(always)]
pub fn null_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Writes a packet, and sends it.
#[xdp]
#[inline(always)]
pub fn generate(ctx: XdpContext) -> u32 {
    if write_packet(ctx.data(), ctx.data_end()) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// Sends back what comes.
#[xdp]
#[inline(always)]
pub fn reflect(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Counts what comes.
#[xdp]
#[inline(always)]
pub fn count(_ctx: XdpContext) -> u32 {
    if let Some(count) = COUNTED.get_ptr_mut(0) {
        // SAFETY: the counter is this CPU's own.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

/// Writes the next flow's packet; false if there is no room for it.
#[inline(always)]
fn write_packet(data: usize, end: usize) -> bool {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return false };
    // SAFETY: points into the map, which outlives the program's run, and is used by one CPU.
    let plan = unsafe { &mut *plan };
    plan.last = Plan::next(plan.mask, plan.last);
    let client = Plan::client(plan.first.wrapping_add(plan.last));
    // SAFETY: `room` is checked by each, and the verifier checks it again.
    unsafe {
        match plan.kind {
            0 => write::<WORDS_V4, 0>(data, end, plan, client),
            Plan::TO_CLIENT => write::<WORDS_V4, { Plan::TO_CLIENT }>(data, end, plan, client),
            Plan::V6 => write::<WORDS, { Plan::V6 }>(data, end, plan, client),
            _ => write::<WORDS, { Plan::V6 | Plan::TO_CLIENT }>(data, end, plan, client),
        }
    }
}

/// # Safety
/// From `data` to `end` there must be a packet.
#[inline(always)]
unsafe fn write<const N: usize, const KIND: u32>(data: usize, end: usize, plan: &Plan, client: (u16, u16)) -> bool {
    if data + N * 8 > end {
        return false;
    }
    let (address_at, port_at) = Plan::places(KIND);
    let (address, port) = client;
    let sum = plan.transport_sum + address as u32 + port as u32;
    let tcp = if KIND & Plan::V6 != 0 { TCP_V6 } else { TCP_V4 };
    // SAFETY: all places lie in the first N words, which are there. Frames are not aligned as Rust would have it; the
    // machines that eBPF is measured on do not mind.
    unsafe {
        let words = data as *mut u64;
        let mut at = 0;
        while at < N {
            *words.add(at) = plan.frame[at];
            at += 1;
        }
        *((data + address_at) as *mut u16) = address.to_be();
        *((data + port_at) as *mut u16) = port.to_be();
        *((data + tcp + TCP_CHECKSUM) as *mut u16) = Plan::checksum(sum).to_be();
        if KIND & Plan::V6 == 0 {
            *((data + CHECKSUM_V4) as *mut u16) = Plan::checksum(plan.network_sum + address as u32).to_be();
        }
    }
    true
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
