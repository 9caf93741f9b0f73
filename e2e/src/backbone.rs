//! A second segment beside the first: what happens to one says nothing of the other.
//!
//! ```text
//!   sw: br1 ---- n1 eth1 10.79.0.1  fd79::1    02:c7:00:02:00:01
//!        +------ c1 eth1 10.79.0.9  fd79::9
//! ```
//! A bridge port has the name of its host with a `b` behind it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    netns::Netns,
    topology::{Host, Lan, Mac},
};

/// The host's IPv4 address on the second segment.
#[must_use]
pub fn address(host: &Host) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, host.v4.octets()[3])
}

/// The host's hardware address on the second segment.
#[must_use]
pub fn mac(host: &Host) -> Mac {
    Mac([2, 0xc7, 0, 2, 0, host.v4.octets()[3]])
}

impl Lan {
    /// Gives every node and the client an eth1 on the second segment.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn build_backbone(&self) -> Result<()> {
        self.switch.ip(&[
            "link add br1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".to_owned(),
            "link set br1 up".to_owned(),
        ])?;
        self.host_names().iter().try_for_each(|name| attach(&self.switch, self.host(name)?))
    }

    /// The host's port on the second segment loses its link, or has it again.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn backbone_link(&self, host: &str, up: bool) -> Result<()> {
        self.host(host)?;
        self.switch.ip(&[format!("link set {host}b {}", if up { "up" } else { "down" })])
    }
}

fn attach(switch: &Netns, host: &Host) -> Result<()> {
    let (name, mac, v4) = (&host.name, mac(host), address(host));
    let v6 = Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, v4.octets()[3].into());
    host.ns.ip(&[
        format!("link add eth1 address {mac} type veth peer name {name}b netns {}", switch.name()),
        format!("addr add {v4}/24 dev eth1"),
        format!("addr add {v6}/64 dev eth1 nodad"),
        "link set eth1 up".to_owned(),
    ])?;
    switch.ip(&[format!("link set {name}b master br1 up")])
}
