//! MetalLB's objects to Crier's, and notes of what has no counterpart.

use std::collections::BTreeMap;

use announcer::model::objects::API_VERSION;
use ipnet::IpNet;
use serde_norway::{Mapping, Value};

use super::{Migration, legacy};

/// The fields that both have, by kind; those of `serviceAllocation` are the same too.
const POOL: [&str; 4] = ["addresses", "autoAssign", "avoidBuggyIPs", "serviceAllocation"];
const ADVERTISEMENT: [&str; 5] =
    ["ipAddressPools", "ipAddressPoolSelectors", "nodeSelectors", "interfaces", "serviceSelectors"];

const NO_BGP: &str = "Crier has no BGP. Where the nodes and the router share a segment, an L2Advertisement for the same pools does \
                      (one for all pools: no fields at all); otherwise leave these pools to MetalLB";
const NO_PREFERENCE: &str = "spec.preferredNodeSelectors has no counterpart here: the annotation crier.io/preferred-node on a Service names \
                             the node that should own its VIPs; nodeSelectors bind them to nodes";

/// Makes Crier's objects, in `namespace`, of MetalLB's.
pub(super) fn convert(objects: &[Value], namespace: &str) -> Migration {
    let mut migration = Migration::default();
    let mut others: BTreeMap<&str, u32> = BTreeMap::new();
    for object in objects {
        let kind = text(object, "kind");
        if !read(object, kind, namespace, &mut migration) {
            *others.entry(if kind.is_empty() { "document without a kind" } else { kind }).or_default() += 1;
        }
    }
    if !others.is_empty() {
        let list: Vec<_> = others.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        migration.note("", format!("left out, as nothing of it is for Crier: {}", list.join(", ")));
    }
    uncovered(&mut migration);
    migration
}

/// Whether the object's kind is known.
fn read(object: &Value, kind: &str, namespace: &str, migration: &mut Migration) -> bool {
    let name = title(object);
    let group = text(object, "apiVersion").split('/').next().unwrap_or_default();
    match (group, kind) {
        ("metallb.io", "IPAddressPool") => {
            let spec = kept(object, &POOL, &name, migration);
            migration.objects.push(pool(object, namespace, spec));
            masked(&name, migration);
        }
        ("metallb.io", "L2Advertisement") => {
            if object.get("spec").is_some_and(|spec| spec.get("preferredNodeSelectors").is_some()) {
                migration.note(&name, NO_PREFERENCE);
            }
            let spec = kept(object, &ADVERTISEMENT, &name, migration);
            migration.objects.push(made("L2Advertisement", object, namespace, spec));
        }
        ("metallb.io", "AddressPool") => legacy::address_pool(object, namespace, migration),
        ("metallb.io", "BGPAdvertisement") => migration.note(&name, NO_BGP),
        ("metallb.io", "BGPPeer" | "Community") | ("frrk8s.metallb.io", _) => migration.note(&name, "left out: Crier has no BGP"),
        ("metallb.io", "BFDProfile") => migration.note(
            &name,
            "left out: Crier finds dead nodes by a watch of its own, within 150 ms unless gossip.watch in crier.yaml says otherwise",
        ),
        // What MetalLB says, not what is wished. Crier's VIP objects tell the same.
        ("metallb.io", "ServiceL2Status" | "ServiceBGPStatus" | "ConfigurationState") => {}
        ("v1", "ConfigMap") => return legacy::config_map(object, namespace, migration),
        ("v1", "Service") => service(object, &name, migration),
        _ => return false,
    }
    true
}

/// The fields of `spec` that Crier has too; others are told of.
fn kept(object: &Value, known: &[&str], name: &str, migration: &mut Migration) -> Mapping {
    let mut spec = Mapping::new();
    for (key, value) in object.get("spec").and_then(Value::as_mapping).into_iter().flatten() {
        match key.as_str() {
            Some(key) if known.contains(&key) => drop(spec.insert(key.into(), value.clone())),
            Some("preferredNodeSelectors") => {}
            _ => migration.note(name, format!("spec.{} is not known and left out", key.as_str().unwrap_or("?"))),
        }
    }
    spec
}

fn pool(object: &Value, namespace: &str, spec: Mapping) -> Value {
    made("IPAddressPool", object, namespace, spec)
}

/// An object of Crier's with another's name and labels, by which selectors find it.
pub(super) fn made(kind: &str, like: &Value, namespace: &str, spec: Mapping) -> Value {
    let metadata = like.get("metadata");
    let mut own = Mapping::new();
    own.insert("name".into(), metadata.and_then(|metadata| metadata.get("name")).cloned().unwrap_or_default());
    own.insert("namespace".into(), namespace.into());
    if let Some(labels) = metadata.and_then(|metadata| metadata.get("labels")) {
        own.insert("labels".into(), labels.clone());
    }
    let fields = [
        ("apiVersion", API_VERSION.into()),
        ("kind", kind.into()),
        ("metadata", Value::Mapping(own)),
        ("spec", Value::Mapping(spec)),
    ];
    Value::Mapping(fields.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

/// MetalLB reads 10.0.0.5/24 as 10.0.0.0/24. Crier takes it for a slip, so the latest pool's prefixes are written as they are meant.
pub(super) fn masked(name: &str, migration: &mut Migration) {
    let Migration { objects, notes } = migration;
    let addresses = objects.last_mut().and_then(|pool| pool.get_mut("spec")?.get_mut("addresses")?.as_sequence_mut());
    for address in addresses.into_iter().flatten() {
        let Some(net) = address.as_str().and_then(|text| text.trim().parse::<IpNet>().ok()) else { continue };
        if net.trunc() != net {
            let message = format!("{net} has been written as {}, which is how MetalLB reads it", net.trunc());
            notes.push(super::Note { object: name.to_owned(), message });
            *address = net.trunc().to_string().into();
        }
    }
}

/// Services go on as they are, but for their class.
fn service(object: &Value, name: &str, migration: &mut Migration) {
    let field =
        |key: &str| object.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_str).unwrap_or_default();
    let class = field("loadBalancerClass");
    if field("type") == "LoadBalancer" && !class.is_empty() && class != "crier.io/crier" {
        migration.note(
            name,
            format!(
                "spec.loadBalancerClass is {class}. To move it: set spec.type to ClusterIP and the class to null, then spec.type to \
                 LoadBalancer with the class crier.io/crier"
            ),
        );
    }
}

/// Pools that no L2Advertisement names have been announced by BGP, or not at all.
fn uncovered(migration: &mut Migration) {
    let of = |kind: &'static str| migration.objects.iter().filter(move |object| text(object, "kind") == kind);
    let list =
        |ad: &Value, key: &str| ad.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_sequence).cloned();
    // Whom selectors mean depends on labels; who uses them knows.
    let covers_all = of("L2Advertisement").any(|ad| {
        list(ad, "ipAddressPoolSelectors").is_some() || list(ad, "ipAddressPools").is_none_or(|pools| pools.is_empty())
    });
    if covers_all {
        return;
    }
    let named: Vec<Value> = of("L2Advertisement").filter_map(|ad| list(ad, "ipAddressPools")).flatten().collect();
    let name =
        |pool: &Value| pool.get("metadata").and_then(|metadata| metadata.get("name")).cloned().unwrap_or_default();
    let missing: Vec<String> = of("IPAddressPool").filter(|pool| !named.contains(&name(pool))).map(title).collect();
    for pool in missing {
        migration
            .note(pool, "no L2Advertisement names it, so its addresses will be announced by nobody until one does");
    }
}

/// `KIND NAMESPACE/NAME`.
pub(super) fn title(object: &Value) -> String {
    let metadata = object.get("metadata");
    let field = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (field("namespace"), field("name"));
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{} {namespace}{slash}{name}", text(object, "kind"))
}

/// A field that is text, or nothing.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}
