//! What can become of a packet, and what the kernel is told.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect,
    programs::TcContext,
};
use forwarder_ebpf::{Address, DropReason};

use crate::maps;

/// Tells the egress hook that a packet is one that the ingress hook hands on: no pod's reply, so it need not be looked up. The
/// field is for traffic control alone and is not on the wire.
const HANDED_ON: u32 = 0xc71e;

/// A decision about a packet. References are into maps: the stack holds 512 bytes.
pub enum Verdict {
    /// Not ours.
    Pass,
    /// Not to be carried.
    Drop(DropReason),
    /// To another node on the segment, with so many hops left.
    Forward { mac: &'static [u8; 6], counted: u32, hops: u8, second_hop: bool },
    /// To a pod of this node.
    Deliver { address: &'static Address, port: [u8; 2], client_port: [u8; 2], counted: u32, new: bool },
    /// From a pod of this node, to look as if from the VIP, to the client's own port.
    Reply { vip: &'static Address, port: [u8; 2], client_port: [u8; 2], counted: u32 },
}

/// What the kernel is told.
pub enum Action {
    /// Let the next program, and then the stack, have it.
    Next,
    /// Free it.
    Drop,
    /// Send it out of the interface it came in by.
    Redirect(u32),
}

impl Action {
    /// Frees a packet for a reason that is counted.
    #[inline(always)]
    pub fn count_drop(reason: DropReason) -> Self {
        maps::count_event(reason as u32);
        Self::Drop
    }

    /// The number the kernel expects.
    #[inline(always)]
    pub fn code(self, ctx: &TcContext) -> i32 {
        match self {
            Self::Next => TC_ACT_UNSPEC,
            Self::Drop => TC_ACT_SHOT,
            Self::Redirect(interface) => {
                // SAFETY: the context is valid for the program's run; the helper takes integers only, and sets the target of
                // the redirect for this packet.
                unsafe {
                    (*ctx.skb.skb).tc_index = HANDED_ON;
                    bpf_redirect(interface, 0) as i32
                }
            }
        }
    }
}

/// Whether the ingress hook has just handed this packet on.
#[inline(always)]
pub fn is_handed_on(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the program's run.
    unsafe { (*ctx.skb.skb).tc_index == HANDED_ON }
}
