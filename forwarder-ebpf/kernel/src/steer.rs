//! Decides what becomes of a packet. Reads maps, remembers flows, touches no packet.

use forwarder_ebpf::{DropReason, NodeEntry, ServiceEntry, steer};

use crate::{
    flow, maps,
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
    let hash = steer::flow_hash(&packet.tuple);
    let slot = maps::slot(service.node_row, service.node_slots, hash);
    let (current, previous) = (slot as u16, (slot >> 16) as u16);
    let searches = packet.is_tcp() && !packet.opens() && packet.hops > SEARCH_OVER;
    let Some(node) = maps::node(current, &frame.uplink) else {
        // Nobody takes new connections; pods on their way out may still have theirs.
        return match elsewhere(frame, packet, previous) {
            Some((mac, hops)) if searches => Verdict::Forward { mac, counted: service.counted, hops, second_hop: true },
            _ => Verdict::Drop(DropReason::NoBackend),
        };
    };
    if node.flags & NodeEntry::SELF == 0 && node.mac != frame.source {
        let hops = packet.hops.saturating_sub(1);
        return Verdict::Forward { mac: &node.mac, counted: service.counted, hops, second_hop: false };
    }
    if searches {
        if let Some((mac, hops)) = search(frame, packet, node, previous) {
            return Verdict::Forward { mac, counted: service.counted, hops, second_hop: true };
        }
    }
    to_pod(packet, service, hash)
}

/// Where a mid-flow packet goes on whose flow is not here, though the slot is this node's or its node sent it here;
/// and with how many hops left.
///
/// First to the slot's other node, where its connections lived before, or live while the slot's own node is away.
/// If that is who sent it here, back to it, marked: what this node remembers is older than what the sender knows,
/// whose own record comes next. If there is none, back to the slot's node, which searches no more: it has lost the
/// flow, and its tables find the pod again; or the connection is dead, and its pod says so.
#[inline(always)]
fn search(frame: &Frame, packet: &Packet, node: &'static NodeEntry, previous: u16) -> Option<(&'static [u8; 6], u8)> {
    let other = elsewhere(frame, packet, previous);
    if other.is_some() {
        return other;
    }
    let own = node.flags & NodeEntry::SELF != 0;
    if own && packet.hops > SEARCHED {
        let sender = maps::node(previous, &frame.uplink).filter(|sender| sender.mac == frame.source)?;
        return Some((&sender.mac, SEARCHED));
    }
    (!own && packet.hops <= SEARCHED).then_some((&node.mac, SEARCH_OVER))
}

/// The slot's other node, unless it is this one or the packet's sender; and the hops left to the packet.
#[inline(always)]
fn elsewhere(frame: &Frame, packet: &Packet, previous: u16) -> Option<(&'static [u8; 6], u8)> {
    let other = maps::node(previous, &frame.uplink)?;
    let away = other.flags & NodeEntry::SELF == 0 && other.mac != frame.source;
    away.then_some((&other.mac, if packet.hops > SEARCHED { SEARCHED } else { packet.hops.saturating_sub(1) }))
}

/// A packet for one of this node's pods, of a connection this node does not know. Mid-flow TCP too: the pod's
/// stack answers what it does not know by a reset, which the client should get at once.
#[inline(always)]
fn to_pod(packet: &Packet, service: &'static ServiceEntry, hash: u32) -> Verdict {
    let index = maps::slot(service.local_row, service.local_slots, steer::local_hash(hash));
    let Some(backend) = maps::backend(index) else { return Verdict::Drop(DropReason::NoBackend) };
    let mut client_port = packet.tuple.source_port;
    // A reset leaves nothing to be remembered.
    if !packet.resets() {
        match flow::remember(packet, hash, index, backend, service.counted) {
            Ok(port) => client_port = port,
            Err(reason) => return Verdict::Drop(reason),
        }
    }
    let new = !packet.is_tcp() || packet.opens();
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
