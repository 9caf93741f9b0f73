//! Decides what becomes of a packet. Reads maps, remembers flows, touches no packet.

use forwarder_ebpf::{DropReason, NodeEntry, ServiceEntry, steer};

use crate::{
    flow, maps,
    parse::{Frame, Packet},
    verdict::Verdict,
};

/// A whole packet to a VIP, from a frame addressed to this node.
#[inline(always)]
pub fn inbound(frame: &Frame, packet: &Packet) -> Verdict {
    if let Some(flow) = flow::known(packet) {
        return Verdict::Deliver { address: &flow.address, port: flow.port, counted: flow.counted, new: false };
    }
    match maps::service(&packet.tuple) {
        Some(service) => to_node(frame, packet, service),
        None => Verdict::Drop(DropReason::NoService),
    }
}

/// A packet without a flow here: this node's, or another's?
#[inline(always)]
fn to_node(frame: &Frame, packet: &Packet, service: &'static ServiceEntry) -> Verdict {
    let hash = steer::flow_hash(&packet.tuple);
    let slot = maps::slot(service.node_row, service.node_slots, hash);
    let (current, previous) = (slot as u16, (slot >> 16) as u16);
    let Some(node) = maps::node(current, &frame.uplink) else { return Verdict::Drop(DropReason::NoBackend) };
    if node.flags & NodeEntry::SELF == 0 {
        // The slot's own node has sent it here: as the second hop, or because tables differ for a moment. Sending
        // it back would make it circle.
        if node.mac == frame.source {
            return to_pod(packet, service, hash);
        }
        return Verdict::Forward { mac: &node.mac, counted: service.counted, second_hop: false };
    }
    if packet.is_tcp() && !packet.opens() {
        if let Some(mac) = second_hop(frame, previous) {
            return Verdict::Forward { mac, counted: service.counted, second_hop: true };
        }
    }
    to_pod(packet, service, hash)
}

/// Where the connections of a slot that moved here may still live.
#[inline(always)]
fn second_hop(frame: &Frame, previous: u16) -> Option<&'static [u8; 6]> {
    let node = maps::node(previous, &frame.uplink)?;
    let elsewhere = node.flags & NodeEntry::SELF == 0 && node.mac != frame.source;
    elsewhere.then_some(&node.mac)
}

/// A packet for one of this node's pods, of a connection this node does not know. Mid-flow TCP too: the pod's
/// stack answers what it does not know by a reset, which the client should get at once.
#[inline(always)]
fn to_pod(packet: &Packet, service: &'static ServiceEntry, hash: u32) -> Verdict {
    let index = maps::slot(service.local_row, service.local_slots, steer::local_hash(hash));
    let Some(backend) = maps::backend(index) else { return Verdict::Drop(DropReason::NoBackend) };
    if flow::remember(&packet.tuple, index, backend, service.counted).is_err() {
        return Verdict::Drop(DropReason::FlowTable);
    }
    let new = !packet.is_tcp() || packet.opens();
    Verdict::Deliver { address: &backend.address, port: backend.port, counted: service.counted, new }
}

/// A whole packet about to leave by an uplink: a reply of one of this node's pods?
#[inline(always)]
pub fn outbound(packet: &Packet) -> Verdict {
    match flow::reply(&packet.tuple) {
        Some(reply) => Verdict::Reply { vip: &reply.vip, port: reply.port, counted: reply.counted },
        None => Verdict::Pass,
    }
}
