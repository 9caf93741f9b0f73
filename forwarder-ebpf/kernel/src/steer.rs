//! Decides what becomes of a packet. Reads maps, remembers flows, touches no packet.

use forwarder_ebpf::{BackendEntry, DropReason, NodeEntry, NodeSlot, ServiceEntry, steer};

use crate::{
    affinity, flow, maps,
    parse::{Frame, Packet},
    verdict::Verdict,
};

/// The hops left to a packet whose flow is searched for: the mark of a search, and what bounds it. Enough for the way
/// from there to a pod. A client so far away that its packets arrive with fewer is one whose searches end early.
const SEARCHED: u8 = 8;
/// With this many left the search is over.
const SEARCH_OVER: u8 = 6;

/// A whole packet to a VIP, from a frame addressed to this node.
#[inline(always)]
pub fn inbound(frame: &Frame, packet: &Packet) -> Verdict {
    if let Some(flow::Known { pod, client_port, counted }) = flow::known(packet) {
        return Verdict::Deliver { address: &pod.address, port: pod.port, client_port, counted, new: false };
    }
    let verdict = match maps::service(&packet.tuple) {
        Some(service) => to_node(frame, packet, service),
        None => Verdict::Drop(DropReason::NoService),
    };
    if packet.opens() && !matches!(verdict, Verdict::Deliver { .. }) {
        flow::forget(&packet.tuple);
    }
    verdict
}

/// A packet without a flow here: this node's, or another's?
///
/// Nothing is handed straight back to whom it came from, but by a search, which the hops left bound ([`search`]). So
/// between two nodes nothing circles, however much their tables differ; a circle of more ends with the search, or,
/// if no search began in it, with the TTL.
#[inline(always)]
fn to_node(frame: &Frame, packet: &Packet, service: &'static ServiceEntry) -> Verdict {
    let hash = if service.affinity == 0 {
        steer::flow_hash(&packet.tuple)
    } else {
        steer::client_hash(steer::words(&packet.tuple.source))
    };
    let slot = maps::node_slot(service, hash);
    if let Some((index, backend)) = affinity::pod(packet, service) {
        return deliver(packet, service, hash, index, backend);
    }
    // A client whose pod is to stay the same is searched for as a connection is: whoever has it has its next one too.
    let searches = (packet.continues() || service.affinity != 0) && packet.hops > SEARCH_OVER;
    let Some(node) = maps::node(slot.current(), frame.uplink) else {
        // Nobody takes new connections; pods on their way out may still have theirs.
        return match elsewhere(frame, packet, slot) {
            Some((mac, hops)) if searches => Verdict::Forward { mac, counted: service.counted, hops, second_hop: true },
            _ => Verdict::Drop(DropReason::NoBackend),
        };
    };
    if node.flags & NodeEntry::SELF == 0 && node.mac != frame.source {
        if searches && packet.hops <= SEARCHED {
            if let Some((mac, hops)) = next_in_line(frame, packet, slot) {
                return Verdict::Forward { mac, counted: service.counted, hops, second_hop: true };
            }
        }
        let hops = packet.hops.saturating_sub(1);
        return Verdict::Forward { mac: &node.mac, counted: service.counted, hops, second_hop: false };
    }
    if searches {
        if let Some((mac, hops)) = search(frame, packet, node, slot) {
            return Verdict::Forward { mac, counted: service.counted, hops, second_hop: true };
        }
    }
    to_pod(packet, service, hash)
}

/// Where a mid-flow packet goes on whose flow is not here, though the slot is this node's or its node sent it here;
/// and with how many hops left.
///
/// First to the newest of the slot's other nodes, where its connections lived before, or live while the slot's own node is
/// away; who has not the flow either passes it on to the next. If the slot's own node sent it here, and there is no
/// other, it goes back, and is searched for no more: that node has lost the flow, and its tables find the pod again; or the
/// connection is dead, and its pod says so. If who sent it here is the only other, it goes back too, marked: what this node
/// remembers is older than what the sender knows, whose own record comes next.
#[inline(always)]
fn search(frame: &Frame, packet: &Packet, node: &'static NodeEntry, slot: NodeSlot) -> Option<(&'static [u8; 6], u8)> {
    let other = elsewhere(frame, packet, slot);
    if other.is_some() {
        return other;
    }
    let own = node.flags & NodeEntry::SELF != 0;
    if own && packet.hops > SEARCHED {
        let [previous, ..] = slot.before();
        let sender = maps::node(previous, frame.uplink).filter(|sender| sender.mac == frame.source)?;
        return Some((&sender.mac, SEARCHED));
    }
    (!own && packet.hops <= SEARCHED).then_some((&node.mac, SEARCH_OVER))
}

/// The newest of the slot's other nodes that is not the packet's sender, and the hops left to the packet. A packet that is
/// searched for already has been at those newer than this one.
#[inline(always)]
fn elsewhere(frame: &Frame, packet: &Packet, slot: NodeSlot) -> Option<(&'static [u8; 6], u8)> {
    let searched = packet.hops <= SEARCHED;
    let mut found = None;
    for number in slot.before() {
        match candidate(number, frame) {
            Candidate::Other(mac) if found.is_none() => found = Some(mac),
            Candidate::Me if searched => found = None,
            _ => {}
        }
    }
    Some((found?, if searched { packet.hops.saturating_sub(1) } else { SEARCHED }))
}

/// The node that had the slot before this one had it, for a packet that is searched for and came from one who had it later.
#[inline(always)]
fn next_in_line(frame: &Frame, packet: &Packet, slot: NodeSlot) -> Option<(&'static [u8; 6], u8)> {
    let mut passed = false;
    let mut found = None;
    for number in slot.before() {
        match candidate(number, frame) {
            Candidate::Other(mac) if passed && found.is_none() => found = Some(mac),
            Candidate::Me => passed = true,
            _ => {}
        }
    }
    Some((found?, packet.hops.saturating_sub(1)))
}

/// One of a slot's earlier nodes.
enum Candidate {
    /// Not there, or the packet's sender.
    No,
    Me,
    Other(&'static [u8; 6]),
}

#[inline(always)]
fn candidate(number: u16, frame: &Frame) -> Candidate {
    match maps::node(number, frame.uplink) {
        Some(node) if node.flags & NodeEntry::SELF != 0 => Candidate::Me,
        Some(node) if node.mac != frame.source => Candidate::Other(&node.mac),
        _ => Candidate::No,
    }
}

/// A packet for one of this node's pods, of a connection this node does not know. Mid-flow TCP too: the pod's
/// stack answers what it does not know by a reset, which the client should get at once.
#[inline(always)]
fn to_pod(packet: &Packet, service: &'static ServiceEntry, hash: u64) -> Verdict {
    let index = maps::local_slot(service, hash);
    let Some(backend) = maps::backend(index) else { return Verdict::Drop(DropReason::NoBackend) };
    affinity::remember(packet, service, index, backend);
    deliver(packet, service, hash, index, backend)
}

/// To a pod that was chosen; what follows goes there too.
#[inline(always)]
fn deliver(
    packet: &Packet,
    service: &'static ServiceEntry,
    hash: u64,
    index: u32,
    backend: &'static BackendEntry,
) -> Verdict {
    let mut client_port = packet.tuple.source_port;
    // A reset leaves nothing to be remembered.
    if !packet.resets() {
        match flow::remember(packet, hash, index, backend, service.counted) {
            Ok(port) => client_port = port,
            Err(reason) => return Verdict::Drop(reason),
        }
    }
    let new = !packet.continues();
    Verdict::Deliver { address: &backend.address, port: backend.port, client_port, counted: service.counted, new }
}

/// A whole packet about to leave by an uplink: a reply of one of this node's pods?
#[inline(always)]
pub fn outbound(packet: &Packet) -> Verdict {
    if packet.opens() {
        flow::forget_reply(&packet.tuple);
        return Verdict::Pass;
    }
    match flow::reply(packet) {
        Some(reply) => {
            let (vip, port, client_port) = (&reply.vip, reply.port, reply.client_port);
            Verdict::Reply { vip, port, client_port, counted: reply.counted }
        }
        None => Verdict::Pass,
    }
}
