//! What a Service asks for, by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv6Net};
use membership::NodeName;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Protocol, TrafficPolicy,
    endpoints::{self, Listed},
    health::{self, CheckWish},
    objects::{Labels, annotated, annotation},
    problem::Complaint,
};
use crate::ipam::{Family, is_possible_vip};

/// The `loadBalancerClass` that is ours; services without one are, too.
const CLASS: &str = "crier.io/crier";
/// `timeoutSeconds` where a Service with affinity says none: what Kubernetes documents.
const AFFINITY_SECONDS: i32 = 10_800;
/// A range that holds no client: the unspecified address.
const NOBODY: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128));

/// A service that is ours, read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    pub(super) labels: Labels,
    /// Addresses it must have, with the field that says so.
    pub(super) requested: (String, Vec<IpAddr>),
    /// Addresses it has had (`status`): it keeps them if it may.
    pub(super) previous: Vec<IpAddr>,
    /// The pool it must have its addresses from, with the annotation that says so.
    pub(super) pool: Option<(String, String)>,
    pub(super) share: Option<String>,
    pub(super) families: Families,
    pub(super) ports: Vec<PortWish>,
    pub(super) policy: TrafficPolicy,
    /// The node that should own its addresses while it can.
    pub(super) preferred: Option<NodeName>,
    pub(super) affinity: Option<Duration>,
    pub(super) sources: BTreeSet<IpNet>,
    pub(super) publish_not_ready: bool,
    pub(super) check: Option<CheckWish>,
    pub(super) listed: Vec<Listed>,
    pub(super) selector: BTreeMap<String, String>,
    /// Its pods wait for their probes to become ready.
    pub(super) gated: bool,
    /// Services with an address to lose go by age, then name: seconds since 1970 if the API said so.
    pub(super) created: Option<i64>,
}

/// `ipFamilies` and `ipFamilyPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Families {
    /// Those asked for, the first one first; may be empty.
    pub(super) named: Vec<Family>,
    pub(super) policy: FamilyPolicy,
}

/// `ipFamilyPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum FamilyPolicy {
    #[default]
    Single,
    Prefer,
    Require,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortWish {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// The pods' port, if the Service says it as a number.
    pub(super) target: Option<u16>,
}

/// Whether a Service is to be served: of type LoadBalancer, and of no other class.
#[must_use]
pub fn is_ours(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS)
    })
}

/// Whether its pods are to be told by a condition what their probes find.
#[must_use]
pub fn wants_conditions(service: &Service) -> bool {
    annotated(&service.metadata, annotation::READINESS_GATE).is_some_and(|(_, value)| value == "true")
}

/// Reads a Service; `None` if it is not ours, which is nobody's fault.
pub(super) fn read(service: &Service) -> (Option<Wish>, Vec<Complaint>) {
    let Some(spec) = &service.spec else { return (None, Vec::new()) };
    if !is_ours(service) {
        return (None, Vec::new());
    }
    let mut complaints = unknown_annotations(service);
    let mut wish = Wish {
        labels: service.metadata.labels.clone().unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        selector: spec.selector.clone().unwrap_or_default(),
        gated: wants_conditions(service),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        ..Wish::default()
    };
    read_ports(spec, &mut wish, &mut complaints);
    read_addresses(service, spec, &mut wish, &mut complaints);
    read_families(spec, &mut wish, &mut complaints);
    match spec.external_traffic_policy.as_deref() {
        None | Some("Cluster" | "") => {}
        Some("Local") => wish.policy = TrafficPolicy::Local,
        Some(other) => complaints
            .push(Complaint::error("spec.externalTrafficPolicy", format_args!("{other:?} is not Cluster or Local"))),
    }
    match read_affinity(spec) {
        Ok(affinity) => wish.affinity = affinity,
        Err(complaint) => complaints.push(complaint),
    }
    wish.sources = read_sources(spec, &mut complaints);
    let non_empty = |name| annotated(&service.metadata, name).filter(|(_, value)| !value.is_empty());
    wish.pool = non_empty(annotation::POOL).map(|(key, value)| (annotation_field(&key), value.to_owned()));
    wish.share = non_empty(annotation::SHARE).map(|(_, value)| value.to_owned());
    if let Some((key, text)) = non_empty(annotation::PREFERRED_NODE) {
        match text.parse() {
            Ok(node) => wish.preferred = Some(node),
            Err(error) => complaints.push(Complaint::error(annotation_field(&key), error)),
        }
    }
    if let Some((key, text)) = non_empty(annotation::HEALTH_CHECK) {
        match health::read_annotation(text) {
            Ok(check) => wish.check = Some(check),
            Err(error) => complaints.push(Complaint::error(annotation_field(&key), error)),
        }
    }
    if let Some((key, text)) = non_empty(annotation::BACKENDS) {
        match endpoints::read_listed(text).and_then(|listed| check_listed(&listed, &wish.ports).map(|()| listed)) {
            Ok(listed) => wish.listed = listed,
            Err(error) => complaints.push(Complaint::error(annotation_field(&key), error)),
        }
    }
    (Some(wish), complaints)
}

fn annotation_field(key: &str) -> String {
    format!("metadata.annotations.{key}")
}

/// `sessionAffinity` and its timeout, as the API server checks them.
fn read_affinity(spec: &ServiceSpec) -> Result<Option<Duration>, Complaint> {
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            return Err(Complaint::error("spec.sessionAffinity", format_args!("{other:?} is not None or ClientIP")));
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    match u64::try_from(seconds) {
        Ok(seconds @ 1..=86_400) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Complaint::error(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format_args!("{seconds} is not 1 to 86400"),
        )),
    }
}

/// `loadBalancerSourceRanges`. Who lists none lets all in; who lists only what is no range must not, so nobody is let in then.
fn read_sources(spec: &ServiceSpec, complaints: &mut Vec<Complaint>) -> BTreeSet<IpNet> {
    let mut sources = BTreeSet::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let net = text.trim().parse::<IpNet>().map(|net| net.trunc());
        if net.is_err() {
            complaints.push(Complaint::error(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                format_args!(
                    "{text:?} is no range of addresses, as in 10.0.0.0/8 or fd00::/8: its clients are not let in"
                ),
            ));
        }
        sources.insert(net.unwrap_or(NOBODY));
    }
    sources
}

/// Warnings for what is known and has no effect: nobody should believe it has.
fn unknown_annotations(service: &Service) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for key in service.metadata.annotations.iter().flatten().map(|(key, _)| key) {
        if let Some(name) = key.strip_prefix("crier.io/").filter(|name| !annotation::ALL.contains(name)) {
            let hint = crate::config::closest(name, annotation::ALL);
            complaints.push(Complaint::error(annotation_field(key), format_args!("unknown annotation{hint}")));
        }
    }
    complaints
}

fn read_ports(spec: &ServiceSpec, wish: &mut Wish, complaints: &mut Vec<Complaint>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        complaints.push(Complaint::error("spec.ports", "empty; a service needs at least one port"));
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        match read_port(port, ports.len() > 1) {
            Err((field, message)) => complaints.push(Complaint::error(format!("{at}.{field}"), message)),
            Ok(port) => {
                if !numbers.insert((port.protocol, port.port)) {
                    complaints
                        .push(Complaint::error(format!("{at}.port"), "the same port and protocol is there twice"));
                }
                if !names.insert(port.name.clone()) {
                    complaints.push(Complaint::error(format!("{at}.name"), "the same name is there twice"));
                }
                wish.ports.push(port);
            }
        }
    }
}

fn read_port(port: &ServicePort, must_be_named: bool) -> Result<PortWish, (&'static str, String)> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let name = port.name.clone().unwrap_or_default();
    if name.is_empty() && must_be_named {
        return Err(("name", "missing; in a service with several ports each needs a name".to_owned()));
    }
    let Some(wanted) = number(port.port) else { return Err(("port", "must be 1 to 65535".to_owned())) };
    let target = match &port.target_port {
        None => Some(wanted),
        Some(IntOrString::Int(0)) => Some(wanted),
        Some(IntOrString::Int(target)) => {
            Some(number(*target).ok_or(("targetPort", "must be 1 to 65535 or a name".to_owned()))?)
        }
        Some(IntOrString::String(_)) => None,
    };
    let protocol = port.protocol.as_deref();
    match endpoints::protocol(protocol) {
        Some(protocol) => Ok(PortWish { name, protocol, port: wanted, target }),
        None => Err(("protocol", format!("{:?} is not TCP, UDP or SCTP", protocol.unwrap_or_default()))),
    }
}

fn read_addresses(service: &Service, spec: &ServiceSpec, wish: &mut Wish, complaints: &mut Vec<Complaint>) {
    let (field, text) = match annotated(&service.metadata, annotation::ADDRESSES) {
        Some((key, text)) => (annotation_field(&key), text),
        None => ("spec.loadBalancerIP".to_owned(), spec.load_balancer_ip.as_deref().unwrap_or_default()),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.parse::<IpAddr>() {
            Ok(address) if !is_possible_vip(address) => {
                complaints.push(Complaint::error(&field, format_args!("{address} cannot be a VIP")));
            }
            Ok(address) if addresses.iter().any(|other| Family::of(*other) == Family::of(address)) => {
                let family = Family::of(address);
                complaints.push(Complaint::error(
                    &field,
                    format_args!("more than one {family} address; give one of a family"),
                ));
            }
            Ok(address) => addresses.push(address),
            Err(_) => complaints.push(Complaint::error(&field, format_args!("{entry:?} is not an IP address"))),
        }
    }
    wish.requested = (field, addresses);
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for ingress in status.iter().flat_map(|status| status.ingress.iter().flatten()) {
        let address = ingress.ip.as_deref().and_then(|ip| ip.parse().ok());
        wish.previous.extend(address.filter(|address| is_possible_vip(*address)));
    }
}

fn read_families(spec: &ServiceSpec, wish: &mut Wish, complaints: &mut Vec<Complaint>) {
    for (index, name) in spec.ip_families.iter().flatten().enumerate() {
        match name.as_str() {
            "IPv4" => wish.families.named.push(Family::V4),
            "IPv6" => wish.families.named.push(Family::V6),
            other => complaints.push(Complaint::error(
                format!("spec.ipFamilies[{index}]"),
                format_args!("{other:?} is not IPv4 or IPv6"),
            )),
        }
    }
    wish.families.named.dedup();
    wish.families.policy = match spec.ip_family_policy.as_deref() {
        // Two families say what is meant, with or without the policy that the API server would ask for.
        None | Some("") if wish.families.named.len() > 1 => FamilyPolicy::Require,
        None | Some("SingleStack" | "") => FamilyPolicy::Single,
        Some("PreferDualStack") => FamilyPolicy::Prefer,
        Some("RequireDualStack") => FamilyPolicy::Require,
        Some(other) => {
            let message = format_args!("{other:?} is not SingleStack, PreferDualStack or RequireDualStack");
            complaints.push(Complaint::error("spec.ipFamilyPolicy", message));
            FamilyPolicy::Single
        }
    };
    let families = &wish.families;
    if families.policy == FamilyPolicy::Single && families.named.len() > 1 {
        complaints.push(Complaint::error("spec.ipFamilies", "SingleStack allows one family"));
    }
    let has = |family| wish.requested.1.iter().any(|address| Family::of(*address) == family);
    if let Some(address) = wish.requested.1.iter().find(|address| {
        let family = Family::of(**address);
        !families.named.is_empty() && families.policy == FamilyPolicy::Single && !families.named.contains(&family)
    }) {
        complaints.push(Complaint::error(
            &wish.requested.0,
            format_args!("{address} is not of the families in spec.ipFamilies"),
        ));
    }
    let requested = !wish.requested.1.is_empty();
    if families.policy == FamilyPolicy::Require && requested && !(has(Family::V4) && has(Family::V6)) {
        let message = "RequireDualStack needs an IPv4 and an IPv6 address; add the other one";
        complaints.push(Complaint::error(&wish.requested.0, message));
    }
}

/// Which of the service's ports an entry of `crier.io/backends` is for: the one it names; else the only one; else
/// those whose target port it has.
pub(super) fn is_for(entry: &Listed, port: &PortWish, ports: &[PortWish]) -> bool {
    match &entry.port_name {
        Some(name) => *name == port.name,
        None => ports.len() == 1 || port.target == Some(entry.socket.port()),
    }
}

fn check_listed(listed: &[Listed], ports: &[PortWish]) -> Result<(), String> {
    match listed.iter().find(|entry| !ports.iter().any(|port| is_for(entry, port, ports))) {
        None => Ok(()),
        Some(Listed { port_name: Some(name), .. }) => Err(format!("the service has no port named {name:?}")),
        Some(entry) => Err(format!(
            "{} is the target of no port of the service; write PORTNAME={} to say which port it is for",
            entry.socket, entry.socket
        )),
    }
}
