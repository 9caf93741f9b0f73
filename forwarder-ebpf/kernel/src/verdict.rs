//! What can become of a packet, how that is carried out, and what the kernel is told.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use forwarder_ebpf::{Address, Direction, DropReason, SECOND_HOPS, Uplink};

use crate::{
    counters::{self, Account},
    maps,
    parse::Packet,
    rewrite,
};

/// Tells the egress hook that a packet is one that the ingress hook hands on: no pod's reply, so it need not be looked up. The
/// field is for traffic control alone and is not on the wire.
const HANDED_ON: u32 = 0xc71e;

/// To another node on the segment. References are into maps: the stack holds 512 bytes.
pub struct Forward {
    pub mac: &'static [u8; 6],
    pub counted: u32,
    /// What is left of them.
    pub hops: u8,
    /// To a node that may have the packet's flow.
    pub second_hop: bool,
}

/// To a pod of this node.
pub struct Deliver {
    pub address: &'static Address,
    pub port: [u8; 2],
    /// The client's port as the pod knows it.
    pub client_port: [u8; 2],
    pub account: Account,
    /// What the packet is beside one more, see [`counters`].
    pub what: u32,
    /// It is for [`crate::translate`] to carry it out.
    pub translated: bool,
}

/// From a pod of this node, to look as if from the VIP, to the client's own port.
pub struct Reply {
    pub vip: &'static Address,
    pub port: [u8; 2],
    pub client_port: [u8; 2],
    pub account: Account,
    /// As [`Deliver::what`].
    pub what: u32,
}

impl Forward {
    /// Carries it out.
    #[inline(always)]
    pub fn perform(self, ctx: &TcContext, packet: &Packet, uplink: &Uplink) -> Action {
        if self.hops == 0 {
            return Action::count_drop(DropReason::TtlExpired);
        }
        if rewrite::hand_on(ctx, packet, uplink, self.mac, self.hops).is_err() {
            return Action::count_drop(DropReason::Rewrite);
        }
        if self.second_hop {
            maps::count_event(SECOND_HOPS);
        }
        counters::count_handed(self.counted, maps::size(ctx));
        Action::Redirect(maps::interface(ctx))
    }
}

impl Deliver {
    /// Carries it out.
    #[inline(always)]
    pub fn perform(self, ctx: &TcContext, packet: &Packet) -> Action {
        if rewrite::destination(ctx, packet, self.address, self.port, self.client_port).is_err() {
            return Action::count_drop(DropReason::Rewrite);
        }
        counters::count(ctx, self.account, Direction::Inbound, self.what);
        Action::Next
    }
}

impl Reply {
    /// Carries it out.
    #[inline(always)]
    pub fn perform(self, ctx: &TcContext, packet: &Packet) -> Action {
        if rewrite::source(ctx, packet, self.vip, self.port, self.client_port).is_err() {
            return Action::count_drop(DropReason::Rewrite);
        }
        counters::count(ctx, self.account, Direction::Outbound, self.what);
        Action::Next
    }
}

/// What the kernel is told.
pub enum Action {
    /// Let the next program, and then the stack, have it.
    Next,
    /// Free it.
    Drop,
    /// Send it out of the interface it came in by.
    Redirect(u32),
    /// Send it out of this interface, to its next hop there.
    Route(u32),
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
            // SAFETY: as above; without a next hop the helper looks for it itself.
            Self::Route(interface) => unsafe {
                (*ctx.skb.skb).tc_index = HANDED_ON;
                bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) as i32
            },
        }
    }
}

/// Whether the ingress hook has just handed this packet on.
#[inline(always)]
pub fn is_handed_on(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the program's run.
    unsafe { (*ctx.skb.skb).tc_index == HANDED_ON }
}
