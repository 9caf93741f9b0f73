//! What is done to the network: links that go down, ports that go deaf, partitions, loss.
//!
//! Link state and port state are set on the bridge port; partitions and loss are one nftables chain in the switch,
//! rendered whole from the [`FaultPlan`] each time and replaced in one transaction. Slow lines and bad disks are made
//! in [`mod@line`] and [`disk`].

pub mod disk;
pub mod line;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{agent::GOSSIP_PORT, observe::eventually, topology::Lan};

/// The faults that are in force, but for links that are down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// (from, to) hosts between which nothing passes in that direction.
    blocked: BTreeSet<(String, String)>,
    /// Pairs of hosts between which no gossip passes, but everything else.
    no_gossip: BTreeSet<(String, String)>,
    /// Hosts whose ports are deaf; not part of the chain.
    cut: BTreeSet<String>,
    /// Per cent of the frames lost from and, again, to a host.
    loss: BTreeMap<String, u8>,
    /// (host, address): the host says nothing of having that address.
    mute: BTreeSet<(String, IpAddr)>,
}

impl FaultPlan {
    /// The nftables script that makes it so.
    fn render(&self) -> String {
        let mut script = String::from(
            "add table bridge faults\n\
             add chain bridge faults cross { type filter hook forward priority 0; policy accept; }\n\
             flush chain bridge faults cross\n",
        );
        for (from, to) in &self.blocked {
            let _ = writeln!(script, "add rule bridge faults cross iifname {from} oifname {to} drop");
        }
        for (host, address) in &self.mute {
            let rule = match address {
                IpAddr::V4(address) => format!("ether type arp arp saddr ip {address}"),
                // The target is 8 bytes into the advertisement.
                IpAddr::V6(address) => {
                    format!("icmpv6 type nd-neighbor-advert @th,64,128 {:#034x}", address.to_bits())
                }
            };
            let _ = writeln!(script, "add rule bridge faults cross iifname {host} {rule} drop");
        }
        for (from, to) in &self.no_gossip {
            for ip in ["ip protocol", "ip6 nexthdr"] {
                let _ = writeln!(
                    script,
                    "add rule bridge faults cross iifname {from} oifname {to} {ip} udp udp dport {GOSSIP_PORT} drop"
                );
            }
        }
        for (host, percent) in &self.loss {
            for side in ["iifname", "oifname"] {
                let _ = writeln!(
                    script,
                    "add rule bridge faults cross {side} {host} numgen random mod 100 < {percent} drop"
                );
            }
        }
        script
    }
}

impl Lan {
    /// The host's port loses its link: the switch forgets its address, and its eth0 loses carrier.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn link_down(&self, host: &str) -> Result<()> {
        self.host(host)?;
        self.switch.ip(&[format!("link set {host} down")])
    }

    /// The host is cut off with its link up: nothing passes its port, nobody notices.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn cut(&self, host: &str) -> Result<()> {
        self.host(host)?;
        self.port_state(host, "0")?;
        self.plan().cut.insert(host.to_owned());
        Ok(())
    }

    /// Undoes what was done to this host's port, and its loss, partitions and muted addresses.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn heal(&self, host: &str) -> Result<()> {
        self.host(host)?;
        self.change(|plan| {
            plan.loss.remove(host);
            plan.blocked.retain(|(from, to)| from != host && to != host);
            plan.mute.retain(|(muted, _)| muted != host);
            plan.no_gossip.retain(|(from, to)| from != host && to != host);
        })?;
        self.switch.ip(&[format!("link set {host} up")])?;
        if self.plan().cut.remove(host) {
            // A port that was also down takes no state before its carrier is back, a moment after "up".
            eventually(Duration::from_secs(2), "the port forwards again", || self.port_state(host, "3"))?;
        }
        Ok(())
    }

    /// Undoes every fault.
    ///
    /// # Errors
    /// When `ip`, `bridge` or `nft` fails.
    pub fn heal_all(&self) -> Result<()> {
        self.host_names().iter().try_for_each(|host| self.heal(host))
    }

    /// Splits the segment: hosts hear only those of their own set. Hosts in no set hear everyone.
    ///
    /// # Errors
    /// When a host does not exist.
    pub fn partition(&self, sets: &[&[&str]]) -> Result<()> {
        for host in sets.iter().copied().flatten() {
            self.host(host)?;
        }
        self.change(|plan| {
            for (i, ours) in sets.iter().enumerate() {
                for theirs in sets.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, set)| set) {
                    for from in *ours {
                        plan.blocked.extend(theirs.iter().map(|to| ((*from).to_owned(), (*to).to_owned())));
                    }
                }
            }
        })
    }

    /// Nothing passes from `from` to `to`; the way back stays open.
    ///
    /// # Errors
    /// When a host does not exist.
    pub fn block_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.host(from)?;
        self.host(to)?;
        self.change(|plan| {
            plan.blocked.insert((from.to_owned(), to.to_owned()));
        })
    }

    /// No gossip passes between the two hosts, as behind a firewall; everything else does.
    ///
    /// # Errors
    /// When a host does not exist.
    pub fn block_gossip(&self, one: &str, other: &str) -> Result<()> {
        self.host(one)?;
        self.host(other)?;
        self.change(|plan| {
            plan.no_gossip.insert((one.to_owned(), other.to_owned()));
            plan.no_gossip.insert((other.to_owned(), one.to_owned()));
        })
    }

    /// The host is heard by nobody and hears everyone.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn silence(&self, host: &str) -> Result<()> {
        self.host_names().iter().filter(|other| *other != host).try_for_each(|other| self.block_one_way(host, other))
    }

    /// The host hears nobody and is heard by everyone.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn deafen(&self, host: &str) -> Result<()> {
        self.host_names().iter().filter(|other| *other != host).try_for_each(|other| self.block_one_way(other, host))
    }

    /// Loses `percent` of the frames from the host, and of those to it.
    ///
    /// # Errors
    /// When the host does not exist or `percent` is above 100.
    pub fn loss(&self, host: &str, percent: u8) -> Result<()> {
        self.host(host)?;
        ensure!(percent <= 100, "{percent} % cannot be lost");
        self.change(|plan| {
            plan.loss.insert(host.to_owned(), percent);
        })
    }

    /// Nothing leaves the host by which it answers for `address` or announces it (ARP, neighbour advertisements): its
    /// announcer is silent, everything else goes on.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn mute(&self, host: &str, address: IpAddr) -> Result<()> {
        self.host(host)?;
        self.change(|plan| {
            plan.mute.insert((host.to_owned(), address));
        })
    }

    fn change(&self, edit: impl FnOnce(&mut FaultPlan)) -> Result<()> {
        let mut plan = self.plan();
        let mut next = plan.clone();
        edit(&mut next);
        if next != *plan {
            self.switch.output("nft", &["-f", "-"], &next.render())?;
            *plan = next;
        }
        Ok(())
    }

    fn plan(&self) -> MutexGuard<'_, FaultPlan> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port_state(&self, host: &str, state: &str) -> Result<()> {
        self.switch.output("bridge", &["link", "set", "dev", host, "state", state], "").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_renders_every_fault_and_replaces_what_was() {
        let mut plan = FaultPlan::default();
        plan.blocked.insert(("n1".into(), "n2".into()));
        plan.loss.insert("n3".into(), 20);
        plan.mute.insert(("n2".into(), "10.77.0.100".parse().unwrap()));
        plan.mute.insert(("n2".into(), "fd77::100".parse().unwrap()));
        plan.no_gossip.insert(("n1".into(), "n2".into()));
        let script = plan.render();
        assert!(script.contains("iifname n1 oifname n2 ip protocol udp udp dport 9651 drop\n"));
        assert!(script.contains("iifname n2 ether type arp arp saddr ip 10.77.0.100 drop\n"));
        assert!(script.contains("@th,64,128 0xfd770000000000000000000000000100 drop\n"), "{script}");
        assert!(script.contains("flush chain bridge faults cross\n"));
        assert!(script.contains("iifname n1 oifname n2 drop\n"));
        assert!(script.contains("oifname n3 numgen random mod 100 < 20 drop\n"));
        assert!(!script.contains("iifname n2 oifname n1"), "one direction only");
    }
}
