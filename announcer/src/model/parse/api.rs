//! Objects as the API server gives them. It has checked them against schemas already, and may know fields of its own kinds
//! that are newer than this program: those are ignored. Crier's own kinds are read as strictly as from a file.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Document, read_object, vet};
use crate::model::{
    objects::{API_VERSION, Kind, Object, ObjectKey},
    problem::{Complaint, Origin, Severity},
};

/// What objects of the API are called in problems instead of a file.
pub const API: &str = "kubernetes";
/// Parts of the metadata that nobody here reads, and that are often larger than all the rest.
const UNREAD: [&str; 2] = ["managedFields", "selfLink"];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads one object; `None` if it has no name, so that it is none.
#[must_use]
pub fn read_api(kind: Kind, mut object: Value) -> Option<(ObjectKey, Document)> {
    trim(kind, &mut object);
    let name = text(&object, "name")?;
    let namespace = if kind.is_namespaced() { text(&object, "namespace").unwrap_or_default() } else { String::new() };
    let key = ObjectKey { kind, namespace, name };
    let origin = Origin { file: API.to_owned(), document: 0, item: None };
    let document = if kind.api_version() == API_VERSION {
        strictly(kind, &origin, object)
    } else {
        freely(key.clone(), origin, object)
    };
    Some((key, document))
}

fn text(object: &Value, field: &str) -> Option<String> {
    object.get("metadata")?.get(field)?.as_str().map(str::to_owned)
}

/// Drops what is never read. Of a Node that is most of its status.
fn trim(kind: Kind, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in UNREAD {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    if kind == Kind::Node
        && let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
    {
        status.retain(|field, _| field == "addresses");
    }
}

fn strictly(kind: Kind, origin: &Origin, mut object: Value) -> Document {
    if let Some(fields) = object.as_object_mut() {
        // Items of a list do not say what they are.
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.to_string().into());
    }
    let tree = serde_norway::to_value(&object).unwrap_or_default();
    read_object(origin.clone(), &tree)
}

fn freely(key: ObjectKey, origin: Origin, object: Value) -> Document {
    let read = match key.kind {
        Kind::Namespace => boxed(object).map(Object::Namespace),
        Kind::Node => boxed(object).map(Object::Node),
        Kind::Service => boxed(object).map(Object::Service),
        Kind::EndpointSlice => boxed(object).map(Object::EndpointSlice),
        Kind::IPAddressPool | Kind::L2Advertisement | Kind::HealthCheck => {
            Err(Complaint::error("kind", "not one of Kubernetes' own"))
        }
    };
    let (object, complaints) = match read {
        Ok(object) => {
            let errors: Vec<_> = vet(&object).into_iter().filter(|one| one.severity == Severity::Error).collect();
            (errors.is_empty().then_some(object), errors)
        }
        Err(complaint) => (None, vec![complaint]),
    };
    let problems = complaints.into_iter().map(|complaint| complaint.at(&origin, &key)).collect();
    Document { origin, key: Some(key), object, problems }
}

fn boxed<T: DeserializeOwned>(object: Value) -> Result<Box<T>, Complaint> {
    serde_json::from_value(object).map(Box::new).map_err(|error| Complaint::error("", error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_newer_api_are_ignored_and_unknown_ones_of_criers_kinds_are_named() {
        let service = json!({
            "metadata": {"name": "web", "namespace": "default", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "fieldOfTheFuture": 1}
        });
        let (key, document) = read_api(Kind::Service, service).unwrap();
        assert_eq!(key.to_string(), "Service default/web");
        let Some(Object::Service(service)) = document.object else { panic!("{:?}", document.problems) };
        assert_eq!(service.metadata.managed_fields, None);

        let pool =
            json!({"metadata": {"name": "lan", "namespace": "crier-system"}, "spec": {"adresses": ["10.0.0.0/28"]}});
        let (_, document) = read_api(Kind::IPAddressPool, pool).unwrap();
        assert_eq!(document.object, None);
        assert!(
            document.problems.iter().any(|problem| problem.to_string().contains("adresses")),
            "{:?}",
            document.problems
        );
    }

    #[test]
    fn a_mistake_is_told_with_the_object_and_the_field() {
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.300"]}], "ports": []
        });
        let (_, document) = read_api(Kind::EndpointSlice, slice).unwrap();
        let told = document.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(told.contains("EndpointSlice default/web-1") && told.contains("10.0.0.300"), "{told}");
    }

    #[test]
    fn what_has_no_name_is_no_object() {
        assert!(read_api(Kind::Service, json!({"metadata": {}})).is_none());
        assert!(read_api(Kind::Service, json!(["?"])).is_none());
    }
}
