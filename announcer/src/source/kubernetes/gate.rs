//! The readiness gate: pods of services that ask for it get a condition that says what their probes find.
//!
//! A pod whose `spec.readinessGates` names the condition is not ready before it is True, so these pods are probed whether they
//! are ready or not ([`gated`](crate::model::Desired::gated)), and the condition depends on the probes alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use membership::{Verdict, View};

use super::{picture::Picture, store::Store};
use crate::{
    app::report::vip_of,
    model::{
        SERVICE_LABEL, Service, ServiceName,
        objects::{Kind, Object},
        wants_conditions,
    },
    serving::verdict,
};

/// A pod that gets the condition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GatedPod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// As the EndpointSlice has it; may be empty.
    pub(super) uid: String,
    /// As the EndpointSlice has it.
    pub(super) ready: bool,
}

/// The pods behind services that ask for the condition, by their addresses.
pub(super) fn pods(store: &Store) -> BTreeMap<ServiceName, BTreeMap<IpAddr, GatedPod>> {
    let asks = |object: &Object| matches!(object, Object::Service(service) if wants_conditions(service));
    let asking: BTreeSet<ServiceName> =
        store.objects(Kind::Service).filter(|(_, object)| asks(object)).filter_map(|(key, _)| key.service()).collect();
    let mut gated: BTreeMap<ServiceName, BTreeMap<IpAddr, GatedPod>> = BTreeMap::new();
    if asking.is_empty() {
        return gated;
    }
    for (key, object) in store.objects(Kind::EndpointSlice) {
        let Object::EndpointSlice(slice) = object else { continue };
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)) else { continue };
        let name = ServiceName { namespace: key.namespace.clone(), name: service.clone() };
        if !asking.contains(&name) {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(target) = endpoint.target_ref.as_ref().filter(|one| one.kind.as_deref() == Some("Pod")) else {
                continue;
            };
            let pod = GatedPod {
                namespace: key.namespace.clone(),
                name: target.name.clone().unwrap_or_default(),
                uid: target.uid.clone().unwrap_or_default(),
                ready: endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
            };
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
            gated.entry(name.clone()).or_default().extend(addresses.map(|address| (address, pod.clone())));
        }
    }
    gated
}

/// Of those pods, whether all probes of them succeed: at each address, for each service. A pod that is not probed yet is left out.
pub(super) fn verdicts(picture: &Picture, view: &View) -> BTreeMap<GatedPod, bool> {
    let mut verdicts: BTreeMap<GatedPod, Option<bool>> = BTreeMap::new();
    for (name, pods) in &picture.gated {
        let Some(service) = picture.assigned.services.get(name) else { continue };
        let probed = probed(service, view);
        for (address, pod) in pods {
            let Some(passes) = probed.get(address) else { continue };
            let entry = verdicts.entry(pod.clone()).or_insert(Some(true));
            *entry = both(*entry, *passes);
        }
    }
    verdicts.into_iter().filter_map(|(pod, passes)| Some((pod, passes?))).collect()
}

/// Of a service's pods, whether they pass the probes of all ports that are probed; `None`: not known yet.
fn probed(service: &Service, view: &View) -> BTreeMap<IpAddr, Option<bool>> {
    let mut pods = BTreeMap::new();
    for port in &service.ports {
        for backend in &port.backends {
            let passes = match &port.check {
                None => Some(true),
                Some(_) => verdict(port, backend, vip_of(service, backend.address.is_ipv4()), view)
                    .map(|verdict| verdict != Verdict::Unhealthy),
            };
            let entry = pods.entry(backend.address).or_insert(Some(true));
            *entry = both(*entry, passes);
        }
    }
    pods
}

/// What fails, fails whatever is not known yet.
fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    if one == Some(false) || other == Some(false) { Some(false) } else { one.and(other) }
}
