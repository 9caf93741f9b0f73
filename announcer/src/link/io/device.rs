//! One interface as the kernel describes it (RTM_NEWLINK).

use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};

use crate::link::{
    reach::{Device, Kind},
    view::Uplink,
};

/// An Ethernet interface that is not the loopback.
pub(super) fn device(message: &LinkMessage) -> Option<Device> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let (mut name, mut mac, mut master, mut below, mut elsewhere) = (None, None, None, None, false);
    let mut info: &[LinkInfo] = &[];
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
            LinkAttribute::Controller(index) => master = Some(*index),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(entries) => info = entries,
            _ => {}
        }
    }
    Some(Device {
        link: Uplink {
            name: name?,
            index: message.header.index,
            mac: mac?,
            prefixes: Vec::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
        },
        kind: kind(info, below.filter(|_| !elsewhere)),
        master,
        forwards: forwards(info),
    })
}

fn kind(info: &[LinkInfo], below: Option<u32>) -> Kind {
    let named = info.iter().find_map(|entry| if let LinkInfo::Kind(kind) = entry { Some(kind) } else { None });
    match named {
        Some(InfoKind::Bridge) => Kind::Bridge,
        Some(InfoKind::Bond) => Kind::Bond,
        // The kernel calls teams so; they are bonds by another name.
        Some(InfoKind::Other(name)) if name == "team" => Kind::Bond,
        Some(InfoKind::Tun | InfoKind::Veth | InfoKind::Dummy | InfoKind::Ifb) => Kind::Inward,
        Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::MacSec) => {
            below.map_or(Kind::Outward, Kind::On)
        }
        _ => Kind::Outward,
    }
}

/// Whether a bridge's port forwards; true for all that is no such port.
fn forwards(info: &[LinkInfo]) -> bool {
    let state = info.iter().find_map(|entry| {
        let LinkInfo::PortData(InfoPortData::BridgePort(port)) = entry else { return None };
        port.iter().find_map(|entry| if let InfoBridgePort::State(state) = entry { Some(state) } else { None })
    });
    state.is_none_or(|state| *state == BridgePortState::Forwarding)
}
