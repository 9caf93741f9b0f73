//! Addresses and ports as words. The compiler does not know that they lie on words' boundaries, and would read byte by
//! byte what is read for every packet.

use core::mem::offset_of;

use forwarder_ebpf::{Address, Flow, Pod, Tuple, table::Words};

const _: () = assert!(offset_of!(Tuple, source) % 8 == 0 && offset_of!(Tuple, destination) % 8 == 0);
const _: () = assert!(offset_of!(Flow, client) % 8 == 0 && offset_of!(Flow, vip) % 8 == 0);
const _: () = assert!(offset_of!(Pod, address) % 8 == 0 && offset_of!(Pod, own) % 8 == 0);
const _: () = assert!(offset_of!(Tuple, source_port) % 4 == 0 && offset_of!(Flow, client_port) % 4 == 0);
const _: () = assert!(offset_of!(Tuple, destination_port) == offset_of!(Tuple, source_port) + 2);
const _: () = assert!(offset_of!(Flow, port) == offset_of!(Flow, client_port) + 2);

/// Where a packet comes from.
#[inline(always)]
pub fn source(tuple: &Tuple) -> Words {
    // SAFETY: on a word's boundary, by the assertions above and since what holds it is.
    unsafe { read(&raw const tuple.source) }
}

/// Where a packet goes.
#[inline(always)]
pub fn destination(tuple: &Tuple) -> Words {
    // SAFETY: see `source`.
    unsafe { read(&raw const tuple.destination) }
}

/// A flow's client.
#[inline(always)]
pub fn client(flow: &Flow) -> Words {
    // SAFETY: see `source`.
    unsafe { read(&raw const flow.client) }
}

/// A flow's VIP.
#[inline(always)]
pub fn vip(flow: &Flow) -> Words {
    // SAFETY: see `source`.
    unsafe { read(&raw const flow.vip) }
}

/// A pod's address.
#[inline(always)]
pub fn pod(pod: &Pod) -> Words {
    // SAFETY: see `source`.
    unsafe { read(&raw const pod.address) }
}

/// The address that a translated pod knows in the clients' place.
#[inline(always)]
pub fn own(pod: &Pod) -> Words {
    // SAFETY: see `source`.
    unsafe { read(&raw const pod.own) }
}

/// A packet's ports, as a word.
#[inline(always)]
pub fn ports(tuple: &Tuple) -> u32 {
    // SAFETY: see `source`.
    unsafe { (&raw const tuple.source_port).cast::<u32>().read() }
}

/// A flow's ports towards the VIP, as [`ports`].
#[inline(always)]
pub fn flow_ports(flow: &Flow) -> u32 {
    // SAFETY: see `source`.
    unsafe { (&raw const flow.client_port).cast::<u32>().read() }
}

#[inline(always)]
unsafe fn read(address: *const Address) -> Words {
    // SAFETY: the caller's: on a boundary, and initialised.
    unsafe { address.cast::<Words>().read() }
}
