//! Objects field by field, for scenarios that are about the fields: [`load_balancer`], [`pool`], [`advertisement`]. Those that are
//! about traffic say [`ServiceSpec`](crate::manifests::ServiceSpec) instead.
//!
//! They are JSON, which is YAML. What is applied again without a field loses it.

use serde_json::{Value, json};

/// A Service of type `LoadBalancer` with port 80, unless `more`, which is merged over it, says otherwise.
#[must_use]
pub fn load_balancer(name: &str, more: Value) -> String {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]},
    });
    merge(&mut service, more);
    service.to_string()
}

/// The annotations of an object, for [`load_balancer`].
#[must_use]
pub fn annotated(annotations: &[(&str, &str)]) -> Value {
    let annotations: Value = annotations.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    json!({"metadata": {"annotations": annotations}})
}

/// An `IPAddressPool`, with more fields in its `spec`.
#[must_use]
pub fn pool(name: &str, addresses: &[&str], more: Value) -> String {
    let mut spec = json!({"addresses": addresses});
    merge(&mut spec, more);
    own("IPAddressPool", name, spec)
}

/// An `L2Advertisement`.
#[must_use]
pub fn advertisement(name: &str, spec: Value) -> String {
    own("L2Advertisement", name, spec)
}

/// One of Crier's own objects.
#[must_use]
pub fn own(kind: &str, name: &str, spec: impl Into<Value>) -> String {
    json!({
        "apiVersion": "crier.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec.into(),
    })
    .to_string()
}

/// A Pod with the readiness gate, on a node.
#[must_use]
pub fn gated_pod(name: &str, node: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "main"}],
            "readinessGates": [{"conditionType": "crier.io/healthy"}],
        },
    })
    .to_string()
}

/// Merges into a value, field by field.
pub fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_goes_over_what_is_usual() {
        let mut wish = annotated(&[("a", "b")]);
        merge(&mut wish, json!({"metadata": {"namespace": "blue"}, "spec": {"ports": [{"port": 81}]}}));
        let service: Value = serde_json::from_str(&load_balancer("web", wish)).expect("it is JSON");
        let metadata = json!({"name": "web", "namespace": "blue", "annotations": {"a": "b"}});
        assert_eq!((&service["metadata"], &service["spec"]["ports"]), (&metadata, &json!([{"port": 81}])));
    }
}
