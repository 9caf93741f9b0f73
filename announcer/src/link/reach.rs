//! Whether frames of an interface get out of this host: pure.
//!
//! A bridge keeps its carrier for as long as any port is alive, be it a virtual machine's tap, and a bond without a monitor
//! keeps it for ever. So an interface that stands on others is judged by those:
//!
//! - A *bridge* by its ports that lead outside, which are all but those that end on this host by their kind (tap, veth, dummy).
//!   One of them must be up, have carrier and forward: a port that spanning tree (IEEE 802.1D) blocks is dead. A bridge
//!   that has no such port is judged by its carrier alone: its whole segment is on this host.
//! - A *bond* by its members, in the same way. Which member is the active one is the bond's own affair.
//! - A *VLAN* or *macvlan* interface also by the interface below it.

use std::collections::BTreeMap;

use super::view::Uplink;

/// Interfaces stand on each other at most this deep (a macvlan on a VLAN on a bridge on a bond on a card); what is
/// deeper counts as alive.
const DEEPEST: u8 = 6;

/// What an interface is, as far as it matters for where its frames go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// A card, a tunnel: leads outside by itself.
    #[default]
    Outward,
    /// Ends on this host, with a virtual machine or a container behind it.
    Inward,
    /// Connects its ports.
    Bridge,
    /// Made of several cards.
    Bond,
    /// Stands on the interface with this index, in the same namespace.
    On(u32),
}

/// An interface with its place among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// What is known of it by itself, without prefixes.
    pub(super) link: Uplink,
    /// What it is.
    pub(super) kind: Kind,
    /// The bridge or bond that it belongs to, by index.
    pub(super) master: Option<u32>,
    /// False for a bridge's port that does not forward.
    pub(super) forwards: bool,
}

impl Device {
    fn works(&self) -> bool {
        self.link.usable() && self.forwards
    }
}

/// Whether frames that leave `device` reach its segment beyond this host.
pub(super) fn reaches_out(device: &Device, all: &BTreeMap<u32, Device>) -> bool {
    reaches(device, all, DEEPEST)
}

fn reaches(device: &Device, all: &BTreeMap<u32, Device>, deep: u8) -> bool {
    if !device.works() {
        return false;
    }
    let Some(deeper) = deep.checked_sub(1) else { return true };
    let members = || all.values().filter(|member| member.master == Some(device.link.index));
    match device.kind {
        Kind::Outward | Kind::Inward => true,
        // One that is not seen (any more) says nothing.
        Kind::On(below) => all.get(&below).is_none_or(|below| reaches(below, all, deeper)),
        Kind::Bond => members().next().is_none() || members().any(|member| reaches(member, all, deeper)),
        Kind::Bridge => {
            let mut outward = members().filter(|port| port.kind != Kind::Inward).peekable();
            outward.peek().is_none() || outward.any(|port| reaches(port, all, deeper))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up, with carrier, on its own.
    fn device(index: u32, kind: Kind) -> Device {
        let link = Uplink { name: format!("i{index}"), index, mac: [2; 6], prefixes: vec![], up: true, carrier: true };
        Device { link, kind, master: None, forwards: true }
    }

    fn port(index: u32, kind: Kind, master: u32) -> Device {
        Device { master: Some(master), ..device(index, kind) }
    }

    fn dead(mut device: Device) -> Device {
        device.link.carrier = false;
        device
    }

    fn blocked(device: Device) -> Device {
        Device { forwards: false, ..device }
    }

    /// Whether the first of the devices reaches out.
    fn judge(devices: &[Device]) -> bool {
        let all = devices.iter().map(|device| (device.link.index, device.clone())).collect();
        reaches_out(&devices[0], &all)
    }

    #[test]
    fn a_card_is_judged_by_itself() {
        assert!(judge(&[device(1, Kind::Outward)]));
        assert!(!judge(&[dead(device(1, Kind::Outward))]));
        assert!(judge(&[device(1, Kind::Inward)]), "a container's only interface is its uplink");
    }

    #[test]
    fn a_bridge_whose_card_is_dead_reaches_nobody_however_many_machines_are_on_it() {
        let (bridge, tap) = (device(1, Kind::Bridge), port(3, Kind::Inward, 1));
        let card = port(2, Kind::Outward, 1);
        assert!(judge(&[bridge.clone(), card.clone(), tap.clone()]));
        assert!(!judge(&[bridge.clone(), dead(card.clone()), tap.clone()]));
        assert!(!judge(&[bridge.clone(), blocked(card.clone()), tap.clone()]), "spanning tree blocks it");
        assert!(judge(&[bridge, dead(card), port(4, Kind::Outward, 1), tap]), "a second card");
    }

    #[test]
    fn a_bridge_with_nothing_but_local_ports_is_a_segment_of_its_own() {
        let (bridge, tap) = (device(1, Kind::Bridge), port(3, Kind::Inward, 1));
        assert!(judge(&[bridge.clone(), tap]));
        assert!(judge(std::slice::from_ref(&bridge)));
        assert!(!judge(&[dead(bridge)]));
    }

    #[test]
    fn a_bond_needs_one_member_with_carrier() {
        let bond = device(1, Kind::Bond);
        let member = |index| port(index, Kind::Outward, 1);
        assert!(judge(&[bond.clone(), dead(member(2)), member(3)]));
        assert!(
            !judge(&[bond.clone(), dead(member(2)), dead(member(3))]),
            "without a monitor the bond keeps its carrier"
        );
        assert!(!judge(&[dead(bond), member(2)]), "the bond knows better");
    }

    #[test]
    fn what_stands_on_a_bridge_falls_with_its_card() {
        let (vlan, bridge) = (device(1, Kind::On(2)), device(2, Kind::Bridge));
        let card = port(3, Kind::Outward, 2);
        assert!(judge(&[vlan.clone(), bridge.clone(), card.clone()]));
        assert!(!judge(&[vlan.clone(), bridge, dead(card)]));
        assert!(judge(&[vlan]), "the interface below is in another namespace");
    }

    #[test]
    fn a_circle_ends() {
        assert!(judge(&[device(1, Kind::On(2)), device(2, Kind::On(1))]));
    }
}
