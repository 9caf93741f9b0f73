//! A packet's bytes where they lie, a word at a time. Words are read as the kernel's own code reads them, on whatever boundary: the
//! programs run only where it permits that (x86, arm64).

use aya_ebpf::programs::TcContext;
use forwarder_ebpf::{Address, NodeEntry, Uplink};

/// A MAC in a word, as it lies in memory; the upper two bytes are 0.
pub type Mac = u64;

/// What is before the IPv4 address in an IPv4-mapped one, as it lies in memory.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// Set in a MAC that is no machine's: broadcast and multicast.
pub const GROUP: Mac = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);

/// No header that is read begins further behind: a bound that the kernel's verifier sees.
const FURTHEST: u32 = 0x3fff;

/// The bytes from an offset on, if the packet has so many.
///
/// They lie where they can be read at once, but for rare packets whose headers are in pieces: those are put together, so whatever was
/// returned before is of no use then.
#[inline(always)]
pub fn at(ctx: &TcContext, offset: u32, length: u32) -> Option<*const u8> {
    let there = readable(ctx, offset, length);
    if there.is_some() || ctx.len() < offset + length {
        return there;
    }
    ctx.pull_data(offset + length).ok()?;
    readable(ctx, offset, length)
}

#[inline(always)]
fn readable(ctx: &TcContext, offset: u32, length: u32) -> Option<*const u8> {
    let from = ctx.data() + (offset & FURTHEST) as usize;
    (from + length as usize <= ctx.data_end()).then_some(from as *const u8)
}

/// The same number, of which the kernel's verifier now knows nothing: what it knows to differ it goes through separately, and so
/// through all that follows. By way of a word of the packet's own that is for programs' use.
#[inline(always)]
pub fn unforeseen(ctx: &TcContext, number: u32) -> u32 {
    // SAFETY: the context is valid for the program's run.
    unsafe {
        let word = (&raw mut (*ctx.skb.skb).cb).cast::<u32>();
        word.write_volatile(number);
        word.read_volatile()
    }
}

/// The same of a flag, which no branch makes of the number.
#[inline(always)]
pub fn unforeseen_flag(ctx: &TcContext, flag: bool) -> bool {
    let bit = (unforeseen(ctx, flag as u32) & 1) as u8;
    // SAFETY: 0 or 1.
    unsafe { core::mem::transmute::<u8, bool>(bit) }
}

/// # Safety
/// Two bytes there are the packet's, or a map's.
#[inline(always)]
pub unsafe fn half(at: *const u8) -> u16 {
    // SAFETY: the caller's.
    unsafe { at.cast::<u16>().read() }
}

/// # Safety
/// Four bytes there are the packet's, or a map's.
#[inline(always)]
pub unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: the caller's.
    unsafe { at.cast::<u32>().read() }
}

/// Half an IPv6 address.
///
/// # Safety
/// Eight bytes there are the packet's.
#[inline(always)]
pub unsafe fn double(at: *const u8) -> u64 {
    // SAFETY: the caller's.
    unsafe { word(at) as u64 | (word(at.add(4)) as u64) << 32 }
}

/// # Safety
/// Six bytes there are the packet's, or a map's.
#[inline(always)]
pub unsafe fn mac(at: *const u8) -> Mac {
    // SAFETY: the caller's.
    unsafe { word(at) as u64 | (half(at.add(4)) as u64) << 32 }
}

/// An IPv6 address.
///
/// # Safety
/// Sixteen bytes there are the packet's.
#[inline(always)]
pub unsafe fn address(at: *const u8) -> Address {
    // SAFETY: the caller's.
    let [a, b, c, d, e, f, g, h] = unsafe { double(at) }.to_ne_bytes();
    // SAFETY: the caller's.
    let [i, j, k, l, m, n, o, p] = unsafe { double(at.add(8)) }.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Whether an IPv6 address is an IPv4-mapped one.
///
/// # Safety
/// Sixteen bytes there are the packet's.
#[inline(always)]
pub unsafe fn is_mapped(at: *const u8) -> bool {
    // SAFETY: the caller's.
    unsafe { word(at.add(8)) == MAPPED && double(at) == 0 }
}

/// A node's MAC on a segment.
#[inline(always)]
pub fn mac_of_node(node: &NodeEntry) -> Mac {
    // SAFETY: points into the map, which outlives the program's run.
    unsafe { mac((&raw const node.mac).cast()) }
}

/// This node's MAC on an uplink.
#[inline(always)]
pub fn mac_of(uplink: &Uplink) -> Mac {
    // SAFETY: points into the map, which outlives the program's run.
    unsafe { mac((&raw const uplink.mac).cast()) }
}

/// A MAC's bytes.
#[inline(always)]
pub fn mac_bytes(mac: Mac) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = mac.to_ne_bytes();
    [a, b, c, d, e, f]
}
