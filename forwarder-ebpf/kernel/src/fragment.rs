//! Parts of datagrams (RFC 791; RFC 8200, 4.5). The first alone has ports. It goes the way of a whole packet, and what became of it is
//! remembered for a while, so that the others follow: to the same node, to the same pod, or out in the same VIP's name.
//!
//! Senders send the first part first. One that comes before it, or whose first part was not carried, is dropped: to keep it
//! until then is not for a program without memory of its own. What parts overlap is for their receiver to see.

use aya_ebpf::programs::TcContext;
use forwarder_ebpf::{Address, Direction, DropReason, Predecessor, Stage, table::Words};

use crate::{
    age, bytes,
    counters::{self, Account},
    elsewhere,
    maps::{self, FRAGMENTED},
    parse::{self, ETHERNET, Frame, Packet, Transport},
    rewrite, scratch, stage,
    steer::{self, Whose},
    verdict::{Action, Deliver, Forward, Reply},
    words,
};

/// Seconds after its first part in which a datagram's other parts are carried: as long as Linux puts them together.
const PATIENCE: i32 = 30;
/// An offset of an IPv4 fragment, as it lies in a packet.
const OFFSET_V4: u16 = 0x1fff_u16.to_be();

/// What the parts of a datagram have in common.
#[repr(C)]
pub struct Datagram {
    source: Words,
    destination: Words,
    /// By which its sender tells it from others, network order.
    id: u32,
    /// The interface by which it comes; 0: it goes.
    interface: u32,
    /// What is in it, of IPv4; there numbers are of a protocol's own.
    protocol: u8,
    pad: [u8; 7],
}

/// What became of a datagram's first part.
#[repr(C)]
pub struct Course {
    /// The pod's address, or the VIP's.
    address: Address,
    /// When, in seconds.
    seen: u32,
    /// By what it is counted; when handed on, by the service's number alone.
    account: Account,
    /// The next node's MAC.
    mac: [u8; 6],
    /// The most hops that are left.
    hops: u8,
    /// [`DELIVERED`], [`HANDED_ON`] or [`REPLIED`].
    what: u8,
}

const DELIVERED: u8 = 1;
const HANDED_ON: u8 = 2;
const REPLIED: u8 = 3;

const _: () = assert!(size_of::<Datagram>() == 48 && size_of::<Course>() == 40);

/// A part of a packet to a VIP.
#[inline(always)]
pub fn arrives(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    match read(ctx, &mut packet, maps::interface(ctx)) {
        Ok(true) => {}
        Ok(false) => return follow(ctx, &frame, &packet),
        Err(reason) => return Action::count_drop(reason),
    }
    match parse::transport(ctx, &mut packet) {
        Transport::Whole => {}
        Transport::Unfit(reason) => return lost(reason),
        _ => return lost(DropReason::Fragment),
    }
    packet.blur(ctx);
    match steer::known(&packet) {
        // Its other parts would have to be translated, too.
        Some(deliver) if deliver.translated => lost(DropReason::Fragment),
        Some(deliver) => {
            delivered(&deliver);
            deliver.perform(ctx, &packet)
        }
        None => stage::enter(ctx, Stage::FragmentConnect),
    }
}

/// A first part without a flow here, as [`crate::connect`] has it of whole packets; what becomes of it is remembered for the others.
#[inline(always)]
pub fn connects(ctx: &TcContext) -> Action {
    let Some(frame) = parse::uplink_frame(ctx) else { return Action::Drop };
    let Some(mut packet) = parse::network(ctx) else { return Action::Drop };
    let Ok(true) = read(ctx, &mut packet, maps::interface(ctx)) else { return Action::Drop };
    let Transport::Whole = parse::transport(ctx, &mut packet) else { return Action::Drop };
    packet.blur(ctx);
    let Some(()) = stage::leave_unknown_to_predecessor(ctx, &packet) else { return Action::Drop };
    let Some(service) = maps::service(&packet.tuple) else {
        elsewhere(&packet);
        return lost(DropReason::NoService);
    };
    match steer::whose(&frame, &packet, service) {
        Whose::Nobodys(reason) => {
            elsewhere(&packet);
            lost(reason)
        }
        Whose::Others(forward) => {
            elsewhere(&packet);
            handed_on(&forward);
            forward.perform(ctx, &packet, frame.uplink)
        }
        Whose::Mine(hash, index) => match steer::to_pod(&packet, service, hash, index) {
            Ok(deliver) if deliver.translated => lost(DropReason::Fragment),
            Ok(deliver) => {
                delivered(&deliver);
                deliver.perform(ctx, &packet)
            }
            Err(reason) => {
                elsewhere(&packet);
                lost(reason)
            }
        },
    }
}

/// A first part that is not carried; nor are the others.
#[inline(always)]
fn lost(reason: DropReason) -> Action {
    forget();
    Action::count_drop(reason)
}

/// A part of a packet about to leave by an uplink.
#[inline(always)]
pub fn leaves(ctx: &TcContext) -> Action {
    let Some(mut packet) = parse::network(ctx) else { return Action::Next };
    match read(ctx, &mut packet, 0) {
        Ok(true) => {}
        Ok(false) => return follow_out(ctx, &packet),
        Err(_) => return Action::Next,
    }
    if let Transport::Whole = parse::transport(ctx, &mut packet) {
        packet.blur(ctx);
        if let Some(reply) = steer::outbound(&packet) {
            replied(&reply);
            return reply.perform(ctx, &packet);
        }
        stage::leave_to_predecessor(ctx, Predecessor::Leaving);
    }
    forget();
    Action::Next
}

/// Reads as which part of which datagram a packet came by an interface (0: goes). Whether it is the first, whose ports can be
/// read next.
#[inline(always)]
fn read(ctx: &TcContext, packet: &mut Packet, interface: u32) -> Result<bool, DropReason> {
    let (id, first, protocol) = if packet.v6 { read_v6(ctx, packet)? } else { read_v4(ctx, packet)? };
    let scratch = scratch::get().ok_or(DropReason::Fragment)?;
    // SAFETY: points into the map, which outlives the program's run; this CPU's own, and on words' boundaries.
    unsafe {
        let datagram = &raw mut (*scratch).datagram;
        (&raw mut (*datagram).source).write(words::source(&packet.tuple));
        (&raw mut (*datagram).destination).write(words::destination(&packet.tuple));
        (&raw mut (*datagram).id).write(id);
        (&raw mut (*datagram).interface).write(interface);
        (&raw mut (*datagram).protocol).write(protocol);
    }
    packet.unfit = None;
    Ok(bytes::unforeseen_flag(ctx, first))
}

#[inline(always)]
fn read_v4(ctx: &TcContext, packet: &Packet) -> Result<(u32, bool, u8), DropReason> {
    if packet.unfit != Some(DropReason::Fragment) {
        return Err(DropReason::Malformed);
    }
    let header = bytes::at(ctx, ETHERNET, 20).ok_or(DropReason::Malformed)?;
    // SAFETY: these bytes are the packet's.
    let (id, offset) = unsafe { (bytes::half(header.add(4)), bytes::half(header.add(6))) };
    Ok((id as u32, offset & OFFSET_V4 == 0, packet.tuple.protocol))
}

/// Up to what is behind the fragment header, which in the first part may be further extensions.
#[inline(always)]
fn read_v6(ctx: &TcContext, packet: &mut Packet) -> Result<(u32, bool, u8), DropReason> {
    match parse::skip_extensions(ctx, packet) {
        Some(DropReason::Fragment) => {}
        Some(reason) => return Err(reason),
        None => return Err(DropReason::Malformed),
    }
    packet.transport = bytes::unforeseen(ctx, packet.transport);
    let header: [u8; 8] = ctx.load(packet.transport as usize).map_err(|_| DropReason::Malformed)?;
    let [next, _, high, low, a, b, c, d] = header;
    packet.tuple.protocol = next;
    packet.transport += 8;
    Ok((u32::from_ne_bytes([a, b, c, d]), high == 0 && low & 0xf8 == 0, 0))
}

/// The first part goes to a pod.
#[inline(always)]
fn delivered(deliver: &Deliver) {
    remember(DELIVERED, Some(deliver.address), None, 0, deliver.account);
}

/// The first part goes to another node.
#[inline(always)]
fn handed_on(forward: &Forward) {
    let account = Account { counted: forward.counted, tag: 0, place: counters::NONE };
    remember(HANDED_ON, None, Some(forward.mac), forward.hops, account);
}

/// The first part goes out in a VIP's name.
#[inline(always)]
fn replied(reply: &Reply) {
    remember(REPLIED, Some(reply.vip), None, 0, reply.account);
}

#[inline(always)]
fn remember(what: u8, address: Option<&'static Address>, mac: Option<&'static [u8; 6]>, hops: u8, account: Account) {
    let Some(scratch) = scratch::get() else { return };
    // SAFETY: points into the map, which outlives the program's run; this CPU's own.
    unsafe {
        let course = &raw mut (*scratch).course;
        if let Some(address) = address {
            (&raw mut (*course).address).write(*address);
        }
        if let Some(mac) = mac {
            (&raw mut (*course).mac).write(*mac);
        }
        (&raw mut (*course).seen).write(age::seconds());
        (&raw mut (*course).account).write(account);
        (&raw mut (*course).hops).write(hops);
        (&raw mut (*course).what).write(what);
        // Without room the other parts are lost, and counted.
        let _ = FRAGMENTED.insert(&(*scratch).datagram, &*course, 0);
    }
}

/// The first part is not carried, or not as a VIP's: nor are the others.
#[inline(always)]
fn forget() {
    let Some(scratch) = scratch::get() else { return };
    // SAFETY: as above.
    let _ = FRAGMENTED.remove(unsafe { &(*scratch).datagram });
}

/// What became of the first part, if that was lately.
#[inline(always)]
fn course() -> Option<&'static Course> {
    let scratch = scratch::get()?;
    // SAFETY: as above. The element may be reused for another datagram while it is read: this part then goes where that goes, and
    // fits nothing there.
    let course = unsafe { &*FRAGMENTED.get_ptr(&(*scratch).datagram)? };
    (age::silence(age::seconds(), course.seen) <= PATIENCE).then_some(course)
}

/// Carries a part that is not the first of a datagram to a VIP.
#[inline(always)]
fn follow(ctx: &TcContext, frame: &Frame, packet: &Packet) -> Action {
    let Some(course) = course() else {
        stage::leave_to_predecessor(ctx, Predecessor::Ongoing);
        return Action::count_drop(DropReason::Fragment);
    };
    if course.what == HANDED_ON {
        // Never more than it came with, so that nothing circles.
        let left = packet.hops.saturating_sub(1);
        let hops = if course.hops < left { course.hops } else { left };
        return Forward { mac: &course.mac, counted: course.account.counted, hops, second_hop: false }.perform(
            ctx,
            packet,
            frame.uplink,
        );
    }
    if rewrite::destination_address(ctx, packet, &course.address).is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    counters::count(ctx, course.account, Direction::Inbound, 0);
    Action::Next
}

/// The same of a pod's reply, if it is one.
#[inline(always)]
fn follow_out(ctx: &TcContext, packet: &Packet) -> Action {
    let Some(course) = course() else {
        stage::leave_to_predecessor(ctx, Predecessor::Leaving);
        return Action::Next;
    };
    if rewrite::source_address(ctx, packet, &course.address).is_err() {
        return Action::count_drop(DropReason::Rewrite);
    }
    counters::count(ctx, course.account, Direction::Outbound, 0);
    Action::Next
}
