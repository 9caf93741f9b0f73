//! The stateless step, and the fast way through it: a packet whose slot is another node's goes straight on to that node.
//! It is most of what an owner does, so it is a shorter way beside the whole one ([`crate::steer`]), with the same answer: it
//! reads the packet where it lies, looks at four arrays and at no hash map, and asks no clock. XDP takes this way alone.
//!
//! It takes what is plain: a frame for this node's own MAC, IPv4 without options or IPv6 without extensions, whole, TCP, UDP or SCTP, to
//! a service, with hops left, and none of whose slot's connections may live here. All else is left as it was found.

use aya_ebpf::programs::{TcContext, XdpContext};
use forwarder_ebpf::{NodeEntry, SCTP, TCP, UDP, directory, steer};

use crate::{
    bytes::{double, half, is_mapped, mac, mac_of, mac_of_node, word},
    counters,
    maps::{self, Size},
    parse,
};

const V4: usize = 14;
const V6: usize = 14;
const V4_END: usize = V4 + 20 + 4;
const V6_END: usize = V6 + 40 + 4;
/// Ethertypes and the fragment bits as they lie in a packet.
const ETHERTYPE_V4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_V6: u16 = 0x86dd_u16.to_be();
const FRAGMENT: u16 = 0x3fff_u16.to_be();

/// A packet where it lies.
pub trait Wire {
    /// Where it begins and ends, as far as it can be read at once.
    fn bounds(&self) -> (usize, usize);
    /// The interface it came in by.
    fn interface(&self) -> u32;
    /// Whether a tag for a VLAN, another segment's, was taken off it.
    fn was_tagged(&self) -> bool;
    /// How much it is on the wire.
    fn size(&self) -> Size;
    /// An IPv6 packet has one hop less: to whom that matters for a checksum of the whole frame.
    fn note_hop(&self);
}

impl Wire for TcContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        maps::interface(self)
    }

    #[inline(always)]
    fn was_tagged(&self) -> bool {
        parse::is_tagged(self)
    }

    #[inline(always)]
    fn size(&self) -> Size {
        maps::size(self)
    }

    #[inline(always)]
    fn note_hop(&self) {
        // The difference that one hop less makes to the sum of 16-bit words; the kernel adds it where it keeps such a sum.
        // SAFETY: the context is valid for the program's run.
        unsafe { aya_ebpf::helpers::generated::bpf_csum_update(self.skb.skb, 0xffff_feff) };
    }
}

impl Wire for XdpContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// It is still there.
    #[inline(always)]
    fn was_tagged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn size(&self) -> Size {
        Size { packets: 1, bytes: (self.data_end() - self.data()) as u64 }
    }

    #[inline(always)]
    fn note_hop(&self) {}
}

/// What is read of a packet.
struct Read {
    source: [u64; 2],
    destination: [u64; 2],
    /// Both ports as they lie in the packet.
    ports: u32,
    protocol: u8,
    hops: u8,
    v6: bool,
}

/// Hands the packet on, if that is plain. The caller sends it out by the interface it came in by.
#[inline(always)]
pub fn hand_on(wire: &impl Wire) -> bool {
    let (start, end) = wire.bounds();
    if start + V4_END > end {
        return false;
    }
    let Some(uplink) = maps::uplink(wire.interface()) else { return false };
    let frame = start as *mut u8;
    // SAFETY: the first 38 bytes are the packet's, checked above.
    let (to, from) = unsafe { (mac(frame), mac(frame.add(6))) };
    if to != mac_of(uplink) || wire.was_tagged() {
        return false;
    }
    let Some(read) = read(frame, start, end) else { return false };
    if read.hops <= 1 || !matches!(read.protocol, TCP | UDP | SCTP) {
        return false;
    }
    let [high, low] = read.destination;
    let port = (read.ports >> 16) as u16;
    let route = directory::route_words(high, low, port, read.protocol);
    let Some(service) = maps::service_at(&route, high, low, port as u32 | (read.protocol as u32) << 16) else {
        return false;
    };
    if service.sources != 0 {
        return false;
    }
    let hash = if service.affinity == 0 {
        steer::hash_words(read.source, read.destination, read.ports, read.protocol)
    } else {
        steer::client_hash(read.source)
    };
    let slot = maps::node_slot(service, hash);
    if slot.is_mine() {
        return false;
    }
    let Some(node) = maps::node(slot.current(), uplink) else { return false };
    let next = mac_of_node(node);
    if node.flags & NodeEntry::SELF != 0 || next == from {
        return false;
    }
    // SAFETY: within the bytes that `read` has checked; see there.
    unsafe { rewrite(frame, &read, to, next) };
    if read.v6 {
        wire.note_hop();
    }
    counters::count_handed(service.counted, wire.size());
    true
}

/// Reads the IP header and the ports.
#[inline(always)]
fn read(frame: *mut u8, start: usize, end: usize) -> Option<Read> {
    // SAFETY: up to V4_END the caller has checked the packet's end, up to V6_END it is checked here. See [`crate::bytes`].
    unsafe {
        match half(frame.add(12)) {
            ETHERTYPE_V4 => {
                let ip = frame.add(V4);
                if *ip != 0x45 || half(ip.add(6)) & FRAGMENT != 0 {
                    return None;
                }
                let mapped = |address: u32| [0, (address as u64) << 32 | 0xffff_0000];
                Some(Read {
                    source: mapped(word(ip.add(12))),
                    destination: mapped(word(ip.add(16))),
                    ports: word(ip.add(20)),
                    protocol: *ip.add(9),
                    hops: *ip.add(8),
                    v6: false,
                })
            }
            ETHERTYPE_V6 if start + V6_END <= end => {
                let ip = frame.add(V6);
                if is_mapped(ip.add(8)) || is_mapped(ip.add(24)) {
                    return None;
                }
                Some(Read {
                    source: [double(ip.add(8)), double(ip.add(16))],
                    destination: [double(ip.add(24)), double(ip.add(32))],
                    ports: word(ip.add(40)),
                    protocol: *ip.add(6),
                    hops: *ip.add(7),
                    v6: true,
                })
            }
            _ => None,
        }
    }
}

/// One hop less, and the next node's address.
///
/// # Safety
/// The headers that were read are the packet's.
#[inline(always)]
unsafe fn rewrite(frame: *mut u8, read: &Read, from: u64, to: u64) {
    // SAFETY: the caller's.
    unsafe {
        if read.v6 {
            *frame.add(V6 + 7) = read.hops - 1;
        } else {
            // RFC 1624: a TTL that is one less makes the checksum 0x0100 more.
            let sum = half(frame.add(V4 + 10)) as u32 + 0x0100_u16.to_be() as u32;
            frame.add(V4 + 10).cast::<u16>().write((sum + (sum >= 0xffff) as u32) as u16);
            *frame.add(V4 + 8) = read.hops - 1;
        }
        frame.cast::<u32>().write(to as u32);
        frame.add(4).cast::<u16>().write((to >> 32) as u16);
        frame.add(6).cast::<u32>().write(from as u32);
        frame.add(10).cast::<u16>().write((from >> 32) as u16);
    }
}
