//! Memberships in solicited-node groups: without them switches that snoop and interfaces that filter keep solicitations away.
//!
//! Joined through IPv6 sockets, so that the kernel sends MLD reports. Each membership takes socket memory
//! (`net.core.optmem_max`, some hundreds of groups at its default), so when a socket is full another one is opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv6Addr,
};

use socket2::{Domain, Socket, Type};

/// A group on the interface with this index.
type Membership = (u32, Ipv6Addr);

/// The memberships held.
#[derive(Debug, Default)]
pub(super) struct Groups {
    sockets: Vec<Socket>,
    /// Which socket holds it.
    joined: BTreeMap<Membership, usize>,
    failed: BTreeSet<Membership>,
}

impl Groups {
    /// Leaves and joins until exactly the `wanted` are held; what was refused before is not tried again until
    /// [`Self::retry`]. Returns the interfaces on which a group was refused now.
    pub(super) fn sync(&mut self, wanted: &BTreeSet<Membership>) -> BTreeSet<u32> {
        self.failed.retain(|membership| wanted.contains(membership));
        let gone: Vec<_> = self.joined.keys().filter(|membership| !wanted.contains(membership)).copied().collect();
        for (index, group) in gone {
            if let Some(socket) = self.joined.remove(&(index, group)).and_then(|at| self.sockets.get(at))
                && let Err(error) = socket.leave_multicast_v6(&group, index)
            {
                // The kernel has dropped it by itself if the interface is gone.
                tracing::debug!(%group, index, %error, "could not leave a group");
            }
        }
        let mut refused = BTreeSet::new();
        for &(index, group) in wanted {
            if self.joined.contains_key(&(index, group)) || self.failed.contains(&(index, group)) {
                continue;
            }
            match self.join(index, group) {
                Ok(socket) => {
                    self.joined.insert((index, group), socket);
                }
                Err(error) => {
                    tracing::warn!(%group, index, %error, "cannot join a solicited-node group; letting all multicast in instead");
                    self.failed.insert((index, group));
                    refused.insert(index);
                }
            }
        }
        refused
    }

    /// Whether groups wait for a retry.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Makes [`Self::sync`] try again what was refused.
    pub(super) fn retry(&mut self) {
        self.failed.clear();
    }

    /// Joins by the first socket that is not full, or by a new one; returns the socket's place.
    fn join(&mut self, index: u32, group: Ipv6Addr) -> io::Result<usize> {
        for (place, socket) in self.sockets.iter().enumerate() {
            match socket.join_multicast_v6(&group, index) {
                Err(error) if is_full(&error) => {}
                result => return result.map(|()| place),
            }
        }
        if !self.sockets.is_empty() {
            tracing::info!(sockets = self.sockets.len(), "sockets for group memberships are full; opening another");
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, index)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}
