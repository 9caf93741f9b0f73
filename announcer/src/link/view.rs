//! The uplinks at one moment, and how they are picked from what the kernel knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::reach::{Device, reaches_out};

/// An interface on which VIPs may be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name.
    pub name: String,
    /// The kernel's number for it; another one after the interface was removed and came back.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its addresses with their prefixes, sorted; without IPv6 link-local and tentative ones.
    pub prefixes: Vec<IpNet>,
    /// Set up by the administrator.
    pub up: bool,
    /// Its cable (or the other end) is there; of a bridge or bond, that of a port that leads out of this host.
    pub carrier: bool,
}

impl Uplink {
    /// Up and with carrier: frames get out.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }
}

/// All uplinks at one moment. One that is configured and missing is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// By name.
    pub uplinks: BTreeMap<String, Uplink>,
}

impl Links {
    /// The uplinks that frames get out of, by name.
    pub fn usable(&self) -> impl Iterator<Item = &Uplink> {
        self.uplinks.values().filter(|uplink| uplink.usable())
    }
}

/// Everything the kernel knows that matters here, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Ethernet interfaces by index.
    pub(super) devices: BTreeMap<u32, Device>,
    /// Interface index and address, without tentative ones.
    pub(super) addresses: Vec<(u32, IpNet)>,
    /// The interfaces that a default route leaves by.
    pub(super) default_routes: BTreeSet<u32>,
}

/// The uplinks among all interfaces: those that are `wanted` by name, or those with a default route.
pub(super) fn select(snapshot: &Snapshot, wanted: Option<&[String]>) -> Links {
    let is_wanted = |link: &Uplink| match wanted {
        Some(names) => names.contains(&link.name),
        None => snapshot.default_routes.contains(&link.index),
    };
    let judged = snapshot.devices.values().map(|device| {
        let carrier = device.link.carrier && (!device.link.up || reaches_out(device, &snapshot.devices));
        Uplink { carrier, ..device.link.clone() }
    });
    let uplinks = judged.filter(|link| is_wanted(link)).map(|link| {
        let mut prefixes: Vec<IpNet> = snapshot
            .addresses
            .iter()
            .filter(|(index, net)| *index == link.index && !is_link_local(net.addr()))
            .map(|(_, net)| *net)
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        (link.name.clone(), Uplink { prefixes, ..link })
    });
    Links { uplinks: uplinks.collect() }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reach::Kind, *};

    fn device(name: &str, index: u32, carrier: bool) -> (u32, Device) {
        let link = Uplink { name: name.into(), index, mac: [2, 0, 0, 0, 0, 1], prefixes: vec![], up: true, carrier };
        (index, Device { link, kind: Kind::Outward, master: None, forwards: true })
    }

    fn snapshot() -> Snapshot {
        let net = |text: &str| text.parse().unwrap();
        Snapshot {
            devices: BTreeMap::from([device("eth0", 2, true), device("eth1", 3, true), device("eth2", 4, false)]),
            addresses: vec![
                (2, net("fe80::1/64")),
                (2, net("fd77::1/64")),
                (2, net("10.77.0.1/24")),
                (3, net("10.78.0.1/24")),
            ],
            default_routes: BTreeSet::from([2]),
        }
    }

    #[test]
    fn without_names_the_uplinks_are_those_with_a_default_route() {
        let links = select(&snapshot(), None);
        assert_eq!(links.uplinks.keys().collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn names_pick_uplinks_and_missing_ones_are_left_out() {
        let links = select(&snapshot(), Some(&["eth1".into(), "eth2".into(), "eth9".into()]));
        assert_eq!(links.uplinks.keys().collect::<Vec<_>>(), ["eth1", "eth2"]);
        assert_eq!(links.usable().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>(), ["eth1"]);
    }

    #[test]
    fn a_bridge_has_carrier_only_while_its_card_has() {
        let (mut snapshot, (_, mut bridge)) = (snapshot(), device("br0", 9, true));
        bridge.kind = Kind::Bridge;
        snapshot.devices.insert(9, bridge);
        snapshot.devices.get_mut(&4).unwrap().master = Some(9);
        let usable = |snapshot: &Snapshot| select(snapshot, Some(&["br0".into()])).usable().count();
        assert_eq!(usable(&snapshot), 0, "eth2 has no carrier");
        snapshot.devices.get_mut(&4).unwrap().link.carrier = true;
        assert_eq!(usable(&snapshot), 1);
    }

    #[test]
    fn prefixes_are_sorted_and_without_link_local_ones() {
        let links = select(&snapshot(), None);
        let prefixes: Vec<String> = links.uplinks["eth0"].prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["10.77.0.1/24", "fd77::1/64"]);
    }
}
