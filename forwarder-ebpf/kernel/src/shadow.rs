//! Standing in for a VIP's owner whose link was lost: the switch has forgotten its port and floods what is addressed
//! to its MAC, so the frames come by here. This node carries them if the agent has armed it for that MAC and VIP, and
//! the owner gives no sign of life.
//!
//! Two nodes that carry one frame make a duplicate, so the guard is here, where it is fast: a frame *from* a MAC while
//! frames *to* it are flooded shows that its owner lives, and ends the standing in until the agent arms anew. An agent
//! that is told of a flood asks the owner at once, so that one who lives is heard within a millisecond or two.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_skb_change_type},
    programs::TcContext,
};
use forwarder_ebpf::{Shadow, ShadowEvent, ShadowKey, ShadowState, ShadowedVip};

use crate::{
    bytes::{GROUP, Mac, mac_bytes},
    maps::{self, ALARM, FLOODS, SHADOW_STATES, SHADOWED_VIPS, SHADOWS},
    parse::{Frame, Packet},
};

/// `PACKET_HOST`: addressed to this machine.
const PACKET_HOST: u32 = 0;

/// Another node's frame that this one may carry.
pub struct Standing {
    owner: ShadowKey,
    armed: bool,
}

/// A frame that is not addressed to this node: one that it may have to carry for another?
#[inline(always)]
pub fn standing_in(ctx: &TcContext, frame: &Frame) -> Option<Standing> {
    // Broadcast and multicast.
    if frame.destination & GROUP != 0 {
        heard(ctx, frame);
        return None;
    }
    let owner = key(ctx, frame.destination);
    // SAFETY: the agent replaces entries by new elements, the old one lives until this run ends.
    let Some(shadow) = (unsafe { SHADOWS.get(owner) }) else {
        heard(ctx, frame);
        return None;
    };
    let armed = note(frame, shadow)?;
    Some(Standing { owner, armed })
}

/// Takes the packet as if it were addressed to this node, if it is for a VIP that this node stands in for.
#[inline(always)]
pub fn takes(ctx: &TcContext, standing: &Standing, packet: &Packet) -> bool {
    let vip = ShadowedVip { vip: packet.tuple.destination, owner: standing.owner };
    if SHADOWED_VIPS.get_ptr(&vip).is_none() {
        maps::count_event(ShadowEvent::Passed as u32);
        return false;
    }
    if !standing.armed {
        maps::count_event(ShadowEvent::Refused as u32);
        return false;
    }
    // The stack drops what is addressed to others.
    // SAFETY: the context is valid for the program's run; changes no packet data.
    if unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) } != 0 {
        maps::count_event(ShadowEvent::Refused as u32);
        return false;
    }
    maps::count_event(ShadowEvent::Carried as u32);
    true
}

/// A frame whose sender may be a shadowed MAC's owner: a sign of life, if frames to it are flooded now.
///
/// Costs a look at one word while there is no flood.
#[inline(always)]
pub fn heard(ctx: &TcContext, frame: &Frame) {
    let Some(alarm) = ALARM.get(0) else { return };
    // SAFETY: no arguments, no effects.
    if *alarm == 0 || (unsafe { bpf_ktime_get_coarse_ns() }).saturating_sub(*alarm) > 2 * ShadowState::PAUSE {
        return;
    }
    // SAFETY: see `standing_in`.
    let Some(shadow) = (unsafe { SHADOWS.get(key(ctx, frame.source)) }) else { return };
    let Some(state) = SHADOW_STATES.get_ptr_mut(shadow.slot) else { return };
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: points into the map, which outlives the program's run; aligned words.
    unsafe {
        let began = (&raw const (*state).began).read_volatile();
        let flooded = (&raw const (*state).flooded).read_volatile();
        let now_or_just_now = now.saturating_sub(flooded) <= ShadowState::PAUSE;
        if began != 0 && now_or_just_now && now.saturating_sub(began) > ShadowState::ON_ITS_WAY {
            (&raw mut (*state).stood_down).write_volatile(shadow.round);
        }
    }
}

/// Notes a frame to a shadowed MAC. Whether it may be carried; `None` if it has no place for its state.
#[inline(always)]
fn note(frame: &Frame, shadow: &Shadow) -> Option<bool> {
    let state = SHADOW_STATES.get_ptr_mut(shadow.slot)?;
    // SAFETY: no arguments, no effects.
    let (now, coarse) = unsafe { (bpf_ktime_get_ns(), bpf_ktime_get_coarse_ns()) };
    if let Some(alarm) = ALARM.get_ptr_mut(0) {
        // SAFETY: points into the map, which outlives the program's run; an aligned word.
        unsafe { alarm.write_volatile(coarse) };
    }
    // SAFETY: points into the map, which outlives the program's run; aligned words. Of two CPUs that write at once one
    // wins: the times are alike, and `seen` has changed in any case.
    let stood_down = unsafe {
        let flooded = (&raw const (*state).flooded).read_volatile();
        if now.saturating_sub(flooded) > ShadowState::PAUSE || flooded == 0 {
            (&raw mut (*state).began).write_volatile(now);
            let _ = FLOODS.output::<u32>(&shadow.slot, 0);
        }
        (&raw mut (*state).flooded).write_volatile(now);
        let seen = (&raw const (*state).seen).read_volatile();
        (&raw mut (*state).seen).write_volatile(seen + 1);
        if frame.source == frame.destination {
            // Its owner sent it, to find out whether this segment floods.
            (&raw mut (*state).stood_down).write_volatile(shadow.round);
        }
        (&raw const (*state).stood_down).read_volatile()
    };
    Some(now < shadow.until && stood_down != shadow.round)
}

#[inline(always)]
fn key(ctx: &TcContext, mac: Mac) -> ShadowKey {
    ShadowKey { interface: maps::interface(ctx), mac: mac_bytes(mac), pad: [0; 2] }
}
