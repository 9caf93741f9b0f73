//! Keeps [`Links`] true: hears link, address and route events of the kernel.
//!
//! An event is only the sign to look again: everything is read anew, so a lost event (the kernel says `ENOBUFS`) is no
//! special case, and no state is patched. A burst of events is read once. Events come on a socket of their own, since
//! the protocol crate gives up its connection when the kernel reports lost events.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    constants::{
        RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_IFINFO, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
    },
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        route::{RouteAttribute, RouteMessage},
    },
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::sync::watch;

use super::device::device;
use crate::link::view::{Links, Snapshot, Uplink, select};

/// At least this long between two reads, so that a storm of events (a thousand pods start) costs little.
const PAUSE: Duration = Duration::from_millis(5);
/// Until the next try after the tables could not be read.
const RETRY: Duration = Duration::from_secs(1);
/// Looked at again after this long without an event, in case one was lost silently.
const AUDIT: Duration = Duration::from_secs(30);

/// Why the uplinks cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel's tables could not be read.
    #[error("cannot read interfaces, addresses and routes from the kernel: {0}")]
    Read(#[source] rtnetlink::Error),
    /// None of the interfaces that are configured exists.
    #[error("none of the configured interfaces exists: {}; `ip link` lists what there is", .0.join(", "))]
    Missing(Vec<String>),
}

/// Watches the uplinks: those `wanted` by name, or (`None`) those with a default route. The first value is complete;
/// each change of what [`Links`] holds is a new one. A named interface that is missing is picked up when it appears.
/// Ends when the last receiver is dropped.
///
/// # Errors
/// See [`LinkError`]; [`LinkError::Missing`] only if none of the named interfaces exists.
pub async fn watch(wanted: Option<Vec<String>>) -> Result<watch::Receiver<Arc<Links>>, LinkError> {
    let events = subscribe(wanted.is_none()).map_err(LinkError::Socket)?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
    tokio::spawn(connection);
    let links = read(&handle, wanted.as_deref()).await.map_err(LinkError::Read)?;
    if let Some(names) = &wanted {
        if links.uplinks.is_empty() && !names.is_empty() {
            return Err(LinkError::Missing(names.clone()));
        }
        for name in names.iter().filter(|name| !links.uplinks.contains_key(*name)) {
            tracing::warn!(interface = %name, "configured interface does not exist; it is used as soon as it does");
        }
    } else if links.uplinks.is_empty() {
        tracing::warn!("no interface has a default route; name the uplinks under `interfaces`");
    }
    let (sender, receiver) = watch::channel(Arc::new(links));
    tokio::spawn(follow(events, handle, wanted, sender));
    Ok(receiver)
}

/// A socket that hears of each change; of routes only if those decide.
fn subscribe(routes: bool) -> io::Result<TokioSocket> {
    let mut groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_IFINFO;
    if routes {
        groups |= RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
    }
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

async fn follow(
    mut events: TokioSocket,
    mut handle: Handle,
    wanted: Option<Vec<String>>,
    sender: watch::Sender<Arc<Links>>,
) {
    let mut wait = AUDIT;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = next_event(&mut events) => {}
            () = tokio::time::sleep(wait) => {}
        }
        drain(&mut events);
        wait = match read(&handle, wanted.as_deref()).await {
            Ok(links) => {
                publish(&sender, links);
                AUDIT
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read interfaces and addresses; the last ones stay in use");
                // The connection may be what failed.
                if let Ok((connection, fresh, _)) = rtnetlink::new_connection() {
                    tokio::spawn(connection);
                    handle = fresh;
                }
                RETRY
            }
        };
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns when something has changed, or may have.
async fn next_event(events: &mut TokioSocket) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    // Lost events (ENOBUFS) end the wait like any event.
    if let Err(error) = events.recv(&mut buffer).await
        && error.raw_os_error() != Some(libc::ENOBUFS)
    {
        tracing::warn!(%error, "cannot hear of interface changes; looking again later");
        tokio::time::sleep(RETRY).await;
    }
}

/// Throws away the events that the coming read covers.
fn drain(events: &mut TokioSocket) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    while events.socket_ref().recv(&mut buffer, libc::MSG_DONTWAIT).is_ok_and(|length| length > 0) {
        buffer.clear();
    }
}

fn publish(sender: &watch::Sender<Arc<Links>>, links: Links) {
    sender.send_if_modified(|current| {
        if **current == links {
            return false;
        }
        for name in current.uplinks.keys().filter(|name| !links.uplinks.contains_key(*name)) {
            tracing::warn!(interface = %name, "uplink is gone");
        }
        for (name, uplink) in &links.uplinks {
            let before = current.uplinks.get(name);
            if before.map(Uplink::usable) != Some(uplink.usable()) {
                tracing::info!(interface = %name, up = uplink.up, carrier = uplink.carrier, "uplink changed");
            }
        }
        *current = Arc::new(links);
        true
    });
}

async fn read(handle: &Handle, wanted: Option<&[String]>) -> Result<Links, rtnetlink::Error> {
    let mut snapshot = Snapshot {
        devices: handle
            .link()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(device(&message).map(|device| (device.link.index, device))))
            .try_collect()
            .await?,
        addresses: handle
            .address()
            .get()
            .execute()
            .try_filter_map(async |message| Ok(address(&message)))
            .try_collect()
            .await?,
        default_routes: BTreeSet::new(),
    };
    if wanted.is_none() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let query = match version {
                IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
                IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
            };
            let mut routes = std::pin::pin!(handle.route().get(query).execute());
            while let Some(route) = routes.try_next().await? {
                default_route(&route, &mut snapshot.default_routes);
            }
        }
    }
    Ok(select(&snapshot, wanted))
}

/// An address that may be used, with its prefix.
fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut unusable = message.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed);
    let (mut own, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(value) => own = Some(*value),
            AddressAttribute::Address(value) => peer = Some(*value),
            AddressAttribute::Flags(flags) => {
                unusable |= flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
            }
            _ => {}
        }
    }
    if unusable {
        return None;
    }
    let net = IpNet::new(own.or(peer)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// Adds the interfaces that a default route of the main table leaves by.
fn default_route(route: &RouteMessage, found: &mut BTreeSet<u32>) {
    let unicast = route.header.kind == rtnetlink::packet_route::route::RouteType::Unicast;
    let family = matches!(route.header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    if route.header.destination_prefix_length != 0 || !unicast || !family {
        return;
    }
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => {
                found.insert(*index);
            }
            RouteAttribute::MultiPath(hops) => found.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
}
