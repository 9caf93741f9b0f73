//! What MetalLB was told by other means than its present objects: the ConfigMap `config` and the kind `AddressPool` of before
//! 0.13, and ConfigMaps that go on beside the objects.

use serde_norway::{Mapping, Value};

use super::{
    Migration,
    convert::{made, masked, text, title},
};

const BGP_POOL: &str = "was announced by BGP, which Crier does not have: it gets no L2Advertisement";

/// The present name of each former field of a pool.
const FIELDS: [(&str, &str); 6] = [
    ("addresses", "addresses"),
    ("auto-assign", "autoAssign"),
    ("autoAssign", "autoAssign"),
    ("avoid-buggy-ips", "avoidBuggyIPs"),
    ("avoidBuggyIPs", "avoidBuggyIPs"),
    ("avoid-buggy-IPs", "avoidBuggyIPs"),
];

/// An `AddressPool`: a pool and how it is announced in one.
pub(super) fn address_pool(object: &Value, namespace: &str, migration: &mut Migration) {
    let name = title(object);
    let Some(spec) = object.get("spec") else { return migration.note(name, "has no spec and is left out") };
    if pool(object, spec, &name, namespace, migration) {
        let pools = Value::Sequence(
            object.get("metadata").and_then(|metadata| metadata.get("name")).cloned().into_iter().collect(),
        );
        migration.objects.push(made(
            "L2Advertisement",
            object,
            namespace,
            [("ipAddressPools".into(), pools)].into_iter().collect(),
        ));
    }
}

/// A ConfigMap: whether it is one of those that say something.
pub(super) fn config_map(object: &Value, namespace: &str, migration: &mut Migration) -> bool {
    let name = title(object);
    let data = |key: &str| object.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
    if let Some(config) = data("config").filter(|config| config.contains("address-pools") || config.contains("peers")) {
        match serde_norway::from_str(config) {
            Ok(config) => configuration(&config, &name, namespace, migration),
            Err(error) => migration.note(name, format!("data.config cannot be read: {error}")),
        }
    } else if data("excludel2.yaml").is_some() {
        migration.note(
            name,
            "left out: Crier announces on uplinks only (interfaces with a default route, or those that `interfaces` in crier.yaml \
             names), and there on those whose prefixes contain the VIP",
        );
    } else if data("config.json").is_some() {
        migration
            .note(name, "left out: how fast dead nodes are found is gossip.watch in crier.yaml, 150 ms by default");
    } else if let Some(config) = data("config.conf") {
        // kube-proxy's. With IPVS it puts every VIP on an interface of every node.
        if config.contains("mode: ipvs") && !config.contains("strictARP: true") {
            migration.note(
                name,
                "kube-proxy works with IPVS: set ipvs.strictARP: true, or every node answers ARP for every VIP",
            );
        }
    } else {
        return false;
    }
    true
}

/// The text of the ConfigMap `config`.
fn configuration(config: &Value, name: &str, namespace: &str, migration: &mut Migration) {
    let mut announced = Vec::new();
    for spec in config.get("address-pools").and_then(Value::as_sequence).into_iter().flatten() {
        let own = format!("{name}, pool {}", text(spec, "name"));
        let named =
            [("metadata".into(), Value::Mapping([("name".into(), text(spec, "name").into())].into_iter().collect()))];
        if pool(&Value::Mapping(named.into_iter().collect()), spec, &own, namespace, migration) {
            announced.push(Value::from(text(spec, "name")));
        }
    }
    if !announced.is_empty() {
        let named = serde_norway::from_str("metadata: {name: layer2}").unwrap_or_default();
        let pools = [("ipAddressPools".into(), Value::Sequence(announced))].into_iter().collect();
        migration.objects.push(made("L2Advertisement", &named, namespace, pools));
    }
    for key in ["peers", "bgp-communities", "bfd-profiles", "peer-autodiscovery"] {
        if config.get(key).is_some() {
            migration.note(name, format!("{key}: left out, Crier has no BGP"));
        }
    }
}

/// A pool of either kind; whether it is announced by ARP and NDP.
fn pool(named: &Value, spec: &Value, name: &str, namespace: &str, migration: &mut Migration) -> bool {
    let mut kept = Mapping::new();
    for (old, new) in FIELDS {
        if let Some(value) = spec.get(old) {
            kept.insert(new.into(), value.clone());
        }
    }
    migration.objects.push(made("IPAddressPool", named, namespace, kept));
    masked(name, migration);
    let is_layer2 = text(spec, "protocol") == "layer2";
    if !is_layer2 {
        migration.note(name, BGP_POOL);
    }
    is_layer2
}
