//! Text to objects, strictly.
//!
//! A document goes through three steps: YAML or JSON to a tree (within a budget, so that an alias bomb is an error
//! and not an outage), the tree to a typed object (an unknown field is an error), the object to its reader's
//! complaints (an address that is none is an error). A file that is not well-formed is refused as a whole; a
//! well-formed document with a mistake is refused alone.

mod api;
mod locate;
mod tree;

use serde::Deserialize;
use serde_norway::Value;

use super::{
    endpoints, health,
    objects::{API_VERSION, Kind, Object, ObjectKey},
    pool,
    problem::{Complaint, Origin, Problem, Severity},
    service,
};
pub use api::{API, read_api};
pub use locate::line_of;

/// A document, or an item of a `List`, that should be an object.
#[derive(Debug)]
pub struct Document {
    /// Where it stands.
    pub origin: Origin,
    /// What it is called, if that could be read.
    pub key: Option<ObjectKey>,
    /// The object; or `None` if it has mistakes or is of a kind that is not read.
    pub object: Option<Object>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Reads a file's text; `name` is what it is called in problems, and `.json` at its end means JSON.
///
/// # Errors
/// When the text is not well-formed: nothing of it should be used.
pub fn parse_file(name: &str, text: &str) -> Result<Vec<Document>, Box<Problem>> {
    let trees = tree::read(name, text)?;
    let mut documents = Vec::new();
    for (index, tree) in trees.into_iter().enumerate() {
        let origin = Origin { file: name.to_owned(), document: index + 1, item: None };
        if tree.is_null() {
            continue;
        }
        match list_items(&tree) {
            Some(items) => documents.extend(
                items
                    .iter()
                    .enumerate()
                    .map(|(item, tree)| read_object(Origin { item: Some(item), ..origin.clone() }, tree)),
            ),
            None => documents.push(read_object(origin, &tree)),
        }
    }
    Ok(documents)
}

/// The items, if this is a `List` as `kubectl get -o yaml` prints it.
fn list_items(tree: &Value) -> Option<&Vec<Value>> {
    let is_list = text(tree, "kind").is_some_and(|kind| kind.ends_with("List")) && tree.get("items").is_some();
    if is_list { tree.get("items")?.as_sequence() } else { None }
}

fn text<'a>(tree: &'a Value, key: &str) -> Option<&'a str> {
    tree.get(key)?.as_str()
}

fn read_object(origin: Origin, tree: &Value) -> Document {
    let mut document = Document { origin, key: None, object: None, problems: Vec::new() };
    let kind = match kind_of(tree) {
        Ok(kind) => kind,
        Err(complaint) => {
            document.problems.push(nameless(&document.origin, tree, complaint));
            return document;
        }
    };
    let key = match key_of(kind, tree) {
        Ok(key) => key,
        Err(complaint) => {
            document.problems.push(nameless(&document.origin, tree, complaint));
            return document;
        }
    };
    let complaints = match typed(kind, tree) {
        Ok(object) => {
            let errors: Vec<_> = vet(&object).into_iter().filter(|c| c.severity == Severity::Error).collect();
            document.object = errors.is_empty().then_some(object);
            errors
        }
        Err(complaints) => complaints,
    };
    document.problems = complaints.into_iter().map(|complaint| complaint.at(&document.origin, &key)).collect();
    document.key = Some(key);
    document
}

/// A problem of a document that has no key; it still says what the document calls itself.
fn nameless(origin: &Origin, tree: &Value, complaint: Complaint) -> Problem {
    let kind = text(tree, "kind").unwrap_or("object");
    let name = tree.get("metadata").and_then(|metadata| text(metadata, "name")).unwrap_or("(unnamed)");
    Problem {
        severity: complaint.severity,
        origin: Some(origin.clone()),
        line: None,
        object: None,
        field: complaint.field,
        message: format!("{} ({kind} {name})", complaint.message),
    }
}

fn kind_of(tree: &Value) -> Result<Kind, Complaint> {
    if !tree.is_mapping() {
        return Err(Complaint::error("", "not an object: expected apiVersion, kind, metadata"));
    }
    let Some(kind) = text(tree, "kind") else {
        return Err(Complaint::error("kind", "missing; every document names its apiVersion and kind"));
    };
    let version = text(tree, "apiVersion").unwrap_or_default();
    let Some(known) = Kind::ALL.into_iter().find(|known| known.to_string() == kind) else {
        return Err(if version.starts_with("crier.io/") {
            let hint = crate::config::closest(kind, Kind::ALL.map(|kind| kind.to_string()).iter().map(String::as_str));
            Complaint::error("kind", format_args!("{kind:?} is not a kind of crier.io{hint}"))
        } else {
            Complaint::warning("kind", "Crier does not read this kind; the document has no effect")
        });
    };
    if version == known.api_version() {
        return Ok(known);
    }
    let migrate = if version.starts_with("metallb.io/") { "MetalLB's objects are not read as they are; " } else { "" };
    let expected = if known.api_version() == API_VERSION { API_VERSION } else { known.api_version() };
    Err(Complaint::error("apiVersion", format_args!("{migrate}change {version:?} to {expected:?}")))
}

fn key_of(kind: Kind, tree: &Value) -> Result<ObjectKey, Complaint> {
    let metadata = tree.get("metadata");
    let field = |name: &str| metadata.and_then(|metadata| text(metadata, name)).filter(|value| !value.is_empty());
    let name = field("name").ok_or_else(|| Complaint::error("metadata.name", "missing; every object needs a name"))?;
    let namespace = if kind.is_namespaced() { field("namespace").unwrap_or("default") } else { "" };
    for (field, value) in [("metadata.name", name), ("metadata.namespace", namespace)] {
        let valid = value.len() <= 253 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
        if !valid {
            return Err(Complaint::error(field, "only letters, digits, '-' and '.', at most 253 characters"));
        }
    }
    Ok(ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

fn typed(kind: Kind, tree: &Value) -> Result<Object, Vec<Complaint>> {
    Ok(match kind {
        Kind::Namespace => Object::Namespace(strict(tree)?),
        Kind::Node => Object::Node(strict(tree)?),
        Kind::IPAddressPool => Object::IPAddressPool(strict(tree)?),
        Kind::L2Advertisement => Object::L2Advertisement(strict(tree)?),
        Kind::HealthCheck => Object::HealthCheck(strict(tree)?),
        Kind::Service => Object::Service(strict(tree)?),
        Kind::EndpointSlice => Object::EndpointSlice(strict(tree)?),
    })
}

/// The typed object, if every field is known and of its type.
///
/// The tree is written out and read again because only reading from text gives errors that name the field.
fn strict<T: for<'de> Deserialize<'de>>(tree: &Value) -> Result<Box<T>, Vec<Complaint>> {
    let text = serde_norway::to_string(tree).map_err(|error| vec![Complaint::error("", error)])?;
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(serde_norway::Deserializer::from_str(&text), |path| {
        unknown.push(Complaint::error(tree::path_text(&path), "unknown field; correct its spelling or remove it"));
    });
    match read {
        Ok(object) if unknown.is_empty() => Ok(Box::new(object)),
        Ok(_) => Err(unknown),
        Err(error) => {
            let (field, message) = tree::split_error(&error);
            unknown.push(Complaint::error(field, message));
            Err(unknown)
        }
    }
}

/// What its reader says about an object by itself, whatever other objects there are.
pub(super) fn vet(object: &Object) -> Vec<Complaint> {
    match object {
        Object::Namespace(_) | Object::Node(_) => Vec::new(),
        Object::IPAddressPool(pool) => pool::read_pool(pool).1,
        Object::L2Advertisement(advertisement) => pool::vet_advertisement(advertisement),
        Object::HealthCheck(check) => health::read_object(check).1,
        Object::Service(service) => service::read(service).1,
        Object::EndpointSlice(slice) => endpoints::read_slice(slice).1,
    }
}
