//! Decides what becomes of a packet. Reads maps, remembers flows, touches no packet.

use forwarder_ebpf::{BackendEntry, DropReason, NodeEntry, NodeSlot, Pod, ServiceEntry, steer};

use crate::{
    affinity,
    bytes::mac_of_node,
    counters::{self, Account},
    flow, maps,
    parse::{Frame, Packet},
    scratch, table,
    verdict::{Deliver, Forward, Reply},
};

/// The hops left to a packet whose flow is searched for: the mark of a search, and what bounds it. Enough for the way
/// from there to a pod. A client so far away that its packets arrive with fewer is one whose searches end early.
const SEARCHED: u8 = 8;
/// With this many left the search is over.
const SEARCH_OVER: u8 = 6;

/// A packet of a flow that lives here.
#[inline(always)]
pub fn known(packet: &Packet) -> Option<Deliver> {
    let (end, what) = flow::known(packet)?;
    Some(deliver(end, what))
}

#[inline(always)]
fn deliver(end: flow::Known, what: u32) -> Deliver {
    let flow::Known { pod, client_port, account } = end;
    let translated = pod.way == Pod::TRANSLATED;
    Deliver { address: &pod.address, port: pod.port, client_port, account, what, translated }
}

/// Whose a packet to a service is.
pub enum Whose {
    /// Nobody's.
    Nobodys(DropReason),
    /// Another node's.
    Others(Forward),
    /// This node's: for the pod of this index, by the packet's hash.
    Mine(u64, u32),
}

/// An ICMP error about a flow, in the shape of a mid-flow packet of it: the pod that it is for, or what else becomes of it. It
/// goes the way of the flow's packets, so that it finds the flow where they do.
#[inline(always)]
pub fn error(frame: &Frame, about: &Packet) -> Result<flow::Known, Option<Forward>> {
    if let Some(end) = flow::find(&about.tuple) {
        return Ok(end);
    }
    scratch::note_found(scratch::get().ok_or(None)?, table::NOWHERE);
    let Some(service) = maps::service(&about.tuple) else { return Err(None) };
    match away(frame, about, service, maps::node_slot(service, hash(about, service))) {
        Whose::Others(forward) => Err(Some(forward)),
        Whose::Nobodys(_) | Whose::Mine(..) => Err(None),
    }
}

/// What a packet's slots are found by.
#[inline(always)]
fn hash(packet: &Packet, service: &ServiceEntry) -> u64 {
    if service.affinity == 0 {
        steer::flow_hash(&packet.tuple)
    } else {
        steer::client_hash(steer::words(&packet.tuple.source))
    }
}

/// A packet without a flow here: another node's?
///
/// Nothing is handed straight back to whom it came from, but by a search, which the hops left bound ([`search`]). So
/// between two nodes nothing circles, however much their tables differ; a circle of more ends with the search, or,
/// if no search began in it, with the TTL.
#[inline(always)]
pub fn whose(frame: &Frame, packet: &Packet, service: &'static ServiceEntry) -> Whose {
    if !maps::lets_in(service, &packet.tuple.source) {
        return Whose::Nobodys(DropReason::SourceRange);
    }
    let hash = hash(packet, service);
    let known = affinity::pod(packet, service);
    if known != 0 {
        return Whose::Mine(hash, known);
    }
    match away(frame, packet, service, maps::node_slot(service, hash)) {
        Whose::Mine(..) => Whose::Mine(hash, maps::local_slot(service, hash)),
        others => others,
    }
}

/// What becomes of a packet that is not, or not yet, for a pod of this node.
#[inline(always)]
fn away(frame: &Frame, packet: &Packet, service: &'static ServiceEntry, slot: NodeSlot) -> Whose {
    let counted = service.counted;
    // A client whose pod is to stay the same is searched for as a connection is: whoever has it has its next one too.
    let searches = (packet.continues() || service.affinity != 0) && packet.hops > SEARCH_OVER;
    let line = if searches { Line::of(frame, packet, slot) } else { Line::NONE };
    let second = |(number, hops): (u16, u8)| {
        let mac = &maps::node(number, frame.uplink)?.mac;
        Some(Whose::Others(Forward { mac, counted, hops, second_hop: true }))
    };
    let Some(node) = maps::node(slot.current(), frame.uplink) else {
        // Nobody takes new connections; pods on their way out may still have theirs.
        return match line.next(packet).and_then(second) {
            Some(others) => others,
            None if flow::late(packet).is_some() => Whose::Mine(0, 0),
            None => Whose::Nobodys(DropReason::NoBackend),
        };
    };
    if node.flags & NodeEntry::SELF != 0 || mac_of_node(node) == frame.source {
        let found = if searches { search(frame, packet, node, slot, &line).and_then(second) } else { None };
        return found.unwrap_or(Whose::Mine(0, 0));
    }
    if line.passed {
        if let Some(others) = line.next(packet).and_then(second) {
            return others;
        }
    }
    let hops = packet.hops.saturating_sub(1);
    Whose::Others(Forward { mac: &node.mac, counted, hops, second_hop: false })
}

/// Where a mid-flow packet goes on whose flow is not here, though the slot is this node's or its node sent it here;
/// and with how many hops left.
///
/// First to the newest of the slot's other nodes, where its connections lived before, or live while the slot's own node is
/// away; who has not the flow either passes it on to the next. If the slot's own node sent it here, and there is no
/// other, it goes back, and is searched for no more: that node has lost the flow, and its tables find the pod again; or the
/// connection is dead, and its pod says so. If who sent it here is the only other, it goes back too, marked: what this node
/// remembers is older than what the sender knows, whose own record comes next. Who has a closed connection from the packet's
/// port is such a last one too: so it goes no farther back, and to that connection's pod.
#[inline(always)]
fn search(frame: &Frame, packet: &Packet, node: &NodeEntry, slot: NodeSlot, line: &Line) -> Option<(u16, u8)> {
    let next = line.next(packet).or(line.newer(packet));
    if next.is_some() || flow::late(packet).is_some() {
        return next;
    }
    if node.flags & NodeEntry::SELF == 0 {
        return Some((slot.current(), if is_searched(packet) { SEARCH_OVER } else { SEARCHED }));
    }
    let [previous, ..] = slot.before();
    let sent = maps::node(previous, frame.uplink).is_some_and(|sender| mac_of_node(sender) == frame.source);
    (sent && !is_searched(packet)).then_some((previous, SEARCHED))
}

/// Whether a search for the packet's flow has begun.
#[inline(always)]
fn is_searched(packet: &Packet) -> bool {
    packet.hops <= SEARCHED
}

/// A slot's earlier nodes, as a packet sees them that is searched for.
struct Line {
    /// The newest that is not the packet's sender; 0: none. A packet that is searched for already has been at those newer than
    /// this one.
    next: u16,
    /// This node is among them, and the packet came from one who had the slot later.
    passed: bool,
    /// The newest of those before this one: the packet has been there if its sender's record is like this one. A node that was away has
    /// another.
    newer: u16,
}

impl Line {
    const NONE: Self = Self { next: 0, passed: false, newer: 0 };

    #[inline(always)]
    fn of(frame: &Frame, packet: &Packet, slot: NodeSlot) -> Self {
        let mut line = Self::NONE;
        for number in slot.before() {
            let Some(node) = maps::node(number, frame.uplink) else { continue };
            if node.flags & NodeEntry::SELF != 0 {
                if is_searched(packet) {
                    line = Self { next: 0, passed: true, newer: line.next };
                }
            } else if line.next == 0 && mac_of_node(node) != frame.source {
                line.next = number;
            }
        }
        line
    }

    /// Who is next, and how many hops the packet is then left with.
    #[inline(always)]
    fn next(&self, packet: &Packet) -> Option<(u16, u8)> {
        let hops = if is_searched(packet) { packet.hops.saturating_sub(1) } else { SEARCHED };
        (self.next != 0).then_some((self.next, hops))
    }

    /// The last that is left, when there is no next.
    #[inline(always)]
    fn newer(&self, packet: &Packet) -> Option<(u16, u8)> {
        (self.newer != 0).then_some((self.newer, packet.hops.saturating_sub(1)))
    }
}

/// A packet for one of this node's pods, of a connection this node does not know. Mid-flow TCP too: the pod's
/// stack answers what it does not know by a reset, which the client should get at once. The pod of a closed connection from the same
/// port is asked before any other.
#[inline(always)]
pub fn to_pod(packet: &Packet, service: &ServiceEntry, hash: u64, index: u32) -> Result<Deliver, DropReason> {
    if let Some(end) = flow::late(packet) {
        return Ok(deliver(end, 0));
    }
    let backend = maps::backend(index).ok_or(DropReason::NoBackend)?;
    affinity::remember(packet, service, index, backend);
    let account = Account { counted: backend.counted, tag: backend.counted_by, place: counters::NONE };
    let translated = backend.flags & BackendEntry::TRANSLATED != 0;
    let mut client_port = packet.tuple.source_port;
    // A reset leaves nothing to be remembered.
    if !packet.resets() {
        client_port = flow::remember(packet, hash, index, backend)?;
    } else if translated {
        return Err(DropReason::NatStray);
    }
    let what = if packet.continues() { 0 } else { counters::NEW };
    Ok(Deliver { address: &backend.address, port: backend.port, client_port, account, what, translated })
}

/// A whole packet about to leave by an uplink: a reply of one of this node's pods?
#[inline(always)]
pub fn outbound(packet: &Packet) -> Option<Reply> {
    if packet.opens() {
        flow::forget_reply(&packet.tuple);
        return None;
    }
    let (reply, account, what) = flow::reply(packet)?;
    Some(Reply { vip: &reply.vip, port: reply.port, client_port: reply.client_port, account, what })
}
