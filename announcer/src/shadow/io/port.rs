//! An uplink's sockets: one for asks and answers, and memberships, by which the network card lets frames to shadowed MACs
//! in. Both go with the process.

use std::{
    io,
    task::{Context, Poll},
};

use membership::document::Mac;

use crate::{
    io::{
        lines::Sockets,
        packet::{Admitted, Memberships, PacketSocket},
    },
    shadow::frame::ETHERTYPE,
};

/// An uplink's sockets.
#[derive(Debug)]
pub(super) struct Port {
    index: u32,
    probes: PacketSocket,
    members: Memberships,
}

impl Sockets for Port {
    fn open(index: u32) -> io::Result<Self> {
        Ok(Self { index, probes: PacketSocket::open(index, ETHERTYPE, None)?, members: Memberships::open()? })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.probes.send(frame)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.probes.poll_recv(cx, buffer)
    }
}

impl Port {
    /// Lets frames to this MAC in, or not any more.
    pub(super) fn admit(&self, mac: Mac, admit: bool) -> io::Result<()> {
        let frames = Admitted::Unicast(mac);
        if admit { self.members.join(self.index, frames) } else { self.members.leave(self.index, frames) }
    }
}
