//! Which pods of a service port are usable.

use std::net::IpAddr;

use membership::{Target, Verdict, View};

use crate::model::{Backend, ServicePort};

/// What a VIP's port is served from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving<'a> {
    /// The usable pods of the VIP's family, in the port's order.
    pub backends: Vec<&'a Backend>,
    /// No pod is known to be healthy, so all ready ones are used.
    pub failed_open: bool,
}

/// The pods that may get new connections to `vip`: ready, not terminating, on a node that is up and forwarding, not
/// found unhealthy there. If none is left of those that are ready, all ready ones.
#[must_use]
pub fn serving<'a>(port: &'a ServicePort, vip: IpAddr, view: &View) -> Serving<'a> {
    let member = |backend: &Backend| backend.node.as_ref().and_then(|node| view.members.get(node));
    let ready: Vec<&Backend> = port
        .backends
        .iter()
        .filter(|backend| backend.address.is_ipv4() == vip.is_ipv4() && backend.ready && !backend.terminating)
        .filter(|backend| member(backend).is_some_and(|m| m.state.is_up() && m.document.facts.forwarding))
        .collect();
    let unhealthy = |backend: &Backend| {
        let (Some(check), Some(member)) = (&port.check, member(backend)) else { return false };
        let target = Target { address: backend.address, port: check.port.unwrap_or(backend.port), check: check.id() };
        member.document.health.get(&target) == Some(&Verdict::Unhealthy)
    };
    let healthy: Vec<&Backend> = ready.iter().copied().filter(|backend| !unhealthy(backend)).collect();
    if healthy.is_empty() && !ready.is_empty() {
        Serving { backends: ready, failed_open: true }
    } else {
        Serving { backends: healthy, failed_open: false }
    }
}
