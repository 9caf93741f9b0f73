//! Who was served at which address, as this agent resolved last: a newcomer's mistake must not take it away.
//!
//! Only conflicts are decided by it; without one, the same objects give the same addresses on every node whatever was
//! served before. It is memory of this process alone, so where a conflict stands, an agent that was restarted (or that
//! saw the two objects in another order) may decide otherwise than its peers until the objects are corrected.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    ipam::Tenant,
    model::{ServiceName, service::Wish},
};

/// What every resolved service held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::model) struct Incumbents(BTreeMap<ServiceName, Holding>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holding {
    tenant: Tenant,
    addresses: Vec<IpAddr>,
}

/// How strong a service's claim is to the addresses it asks for; the lower one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// It was served at all of them, on these ports and on these terms of sharing. Two of these never conflict.
    Held,
    /// It was served at one of them, on other ports or terms.
    Changed,
    /// Its status says that it had them, as the API server remembers.
    Recorded,
    /// It is new there.
    New,
}

impl Incumbents {
    /// Notes that a service was served at these addresses.
    pub(super) fn insert(&mut self, tenant: Tenant, addresses: Vec<IpAddr>) {
        self.0.insert(tenant.service.clone(), Holding { tenant, addresses });
    }

    /// How strong the claim of `tenant`, which asks by `wish`, is to the addresses it asks for.
    pub(super) fn claim(&self, tenant: &Tenant, wish: &Wish) -> Claim {
        let requested = &wish.requested.1;
        let held = self.0.get(&tenant.service);
        let all = |holding: &Holding| {
            requested.iter().all(|address| holding.addresses.contains(address))
                && tenant.ports.is_subset(&holding.tenant.ports)
                && tenant.share == holding.tenant.share
                && tenant.local_to == holding.tenant.local_to
        };
        let any = |holding: &Holding| requested.iter().any(|address| holding.addresses.contains(address));
        if held.is_some_and(all) {
            Claim::Held
        } else if held.is_some_and(any) {
            Claim::Changed
        } else if requested.iter().all(|address| wish.previous.contains(address)) {
            Claim::Recorded
        } else {
            Claim::New
        }
    }

    /// The addresses a service was served at.
    pub(super) fn addresses(&self, service: &ServiceName) -> &[IpAddr] {
        self.0.get(service).map(|holding| holding.addresses.as_slice()).unwrap_or_default()
    }
}
