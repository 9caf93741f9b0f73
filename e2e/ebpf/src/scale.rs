//! What to hold figures against on the machine at hand: the least that a load balancer can do, and the price of what
//! programs are made of. Whoever gives figures of another machine beside these can give both.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    helpers::generated::bpf_redirect,
    macros::{classifier, map, xdp},
    maps::{Array, HashMap},
    programs::{TcContext, XdpContext},
};

use crate::plan::{ETHERNET, TCP_V4};

/// MACs of as many nodes as the hash has slots; nobody writes them.
#[map]
static SLOTS: Array<[u8; 8]> = Array::with_max_entries(1 << 16, 0);
/// A small table with nothing in it.
#[map]
static TABLE: HashMap<u32, u32> = HashMap::with_max_entries(64, BPF_F_NO_PREALLOC);

/// Hash of the ends of an IPv4 packet, MAC from an array, sent back out: without counters, state, TTL, or a look at whose
/// the packet is.
#[classifier]
#[inline(always)]
pub fn least_tc(ctx: TcContext) -> i32 {
    if !rewrite(ctx.data(), ctx.data_end()) {
        return TC_ACT_SHOT;
    }
    // SAFETY: the context is valid for the program's run; the helper takes integers only.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

/// The same in XDP.
#[xdp]
#[inline(always)]
pub fn least_xdp(ctx: XdpContext) -> u32 {
    if rewrite(ctx.data(), ctx.data_end()) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// One read of 20 bytes by the kernel's helper.
#[classifier]
#[inline(always)]
pub fn load_tc(ctx: TcContext) -> i32 {
    match ctx.load::<[u8; 20]>(ETHERNET) {
        Ok(header) if header[0] == 0 => TC_ACT_SHOT,
        _ => TC_ACT_OK,
    }
}

/// One lookup in a hash map.
#[classifier]
#[inline(always)]
pub fn lookup_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for the program's run.
    let key = unsafe { (*ctx.skb.skb).ifindex };
    if TABLE.get_ptr(&key).is_some() { TC_ACT_SHOT } else { TC_ACT_OK }
}

#[inline(always)]
fn rewrite(data: usize, end: usize) -> bool {
    if data + TCP_V4 + 4 > end {
        return false;
    }
    // SAFETY: what is read and written was found to be there.
    unsafe {
        let word = |at: usize| *((data + at) as *const u32);
        let mut hash = 0x9e37_79b9_u32;
        for part in [word(ETHERNET + 12), word(ETHERNET + 16), word(TCP_V4)] {
            hash = (hash ^ part).wrapping_mul(0x85eb_ca6b);
            hash ^= hash >> 15;
        }
        let Some(mac) = SLOTS.get(hash & 0xffff) else { return false };
        let own = [*(data as *const u16), *((data + 2) as *const u16), *((data + 4) as *const u16)];
        let mac = mac.as_ptr().cast::<u16>();
        for at in 0..3 {
            *((data + 2 * at) as *mut u16) = *mac.add(at);
            *((data + 6 + 2 * at) as *mut u16) = own[at];
        }
    }
    true
}
