//! Traffic of which nothing may be lost: datagrams, and connections that live long, over some VIPs at once.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use crate::{
    longlived::{LongLived, all_survived},
    observe::eventually,
    scenario::{Cluster, DNS, SETTLE, WEB},
    traffic::{Load, Meter, Transport},
};

/// Long-lived connections over all VIPs.
pub const CONNECTIONS: usize = 200;
/// Requests a second over all VIPs.
pub const REQUESTS: u32 = 1000;

/// What goes on meanwhile.
#[derive(Debug)]
pub struct Traffic {
    requests: Vec<(IpAddr, Meter)>,
    connections: Vec<LongLived>,
}

impl Traffic {
    /// Datagrams and long-lived connections, in equal shares over these VIPs.
    ///
    /// # Errors
    /// When no traffic comes about.
    pub fn start(cluster: &Cluster, vips: &[IpAddr]) -> Result<Self> {
        Self::of(cluster, vips, &[(Transport::Udp, DNS)])
    }

    /// As [`Self::start`], but half of the requests are connections of their own.
    ///
    /// # Errors
    /// When no traffic comes about.
    pub fn mixed(cluster: &Cluster, vips: &[IpAddr]) -> Result<Self> {
        Self::of(cluster, vips, &[(Transport::Udp, DNS), (Transport::Tcp, WEB)])
    }

    fn of(cluster: &Cluster, vips: &[IpAddr], kinds: &[(Transport, u16)]) -> Result<Self> {
        let share = u32::try_from(vips.len() * kinds.len())?;
        let mut traffic = Self { requests: Vec::new(), connections: Vec::new() };
        for vip in vips {
            traffic.connections.push(cluster.long_lived(*vip, CONNECTIONS / vips.len())?);
            for (transport, port) in kinds {
                let load = Load::new(*transport, SocketAddr::new(*vip, *port)).per_second(REQUESTS / share).sources(64);
                traffic.requests.push((*vip, load.start(&cluster.client().ns)?));
            }
        }
        traffic.go_on(200)?;
        Ok(traffic)
    }

    /// Waits for so many more answers from each VIP.
    ///
    /// # Errors
    /// When they do not come.
    pub fn go_on(&self, more: u64) -> Result<()> {
        let before: Vec<_> = self.requests.iter().map(|(_, meter)| meter.answered()).collect();
        for ((vip, meter), before) in self.requests.iter().zip(before) {
            eventually(SETTLE, &format!("the load on {vip} goes on"), || {
                ensure!(meter.answered() >= before + more);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// If anything was lost, or came twice.
    pub fn lost_nothing(self) -> Result<()> {
        self.lost_nothing_but(|_| false)
    }

    /// Ends it; connections to pods that `gone` names may have broken.
    ///
    /// # Errors
    /// If anything else was lost, or came twice.
    pub fn lost_nothing_but(self, gone: impl Fn(&str) -> bool) -> Result<()> {
        let (mut sent, mut connections) = (0, 0);
        for (vip, meter) in self.requests {
            let report = meter.stop()?;
            ensure!((report.lost, report.duplicates) == (0, 0), "requests to {vip}: {report:?}");
            sent += report.sent;
        }
        for open in self.connections {
            let ended = open.finish()?;
            all_survived(&ended, |pod| !gone(pod))?;
            connections += ended.len();
        }
        println!("{sent} requests and {connections} connections: none lost");
        Ok(())
    }
}
