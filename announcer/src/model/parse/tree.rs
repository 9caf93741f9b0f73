//! YAML and JSON to trees, within a budget; and the paths that errors name.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_norway::{Mapping, Value};

use crate::model::problem::{Origin, Problem};

/// Nodes a file's trees may have in all, aliases expanded: 10,000 services with their slices in one file have half of it.
const MAX_NODES: usize = 2_000_000;
/// Bytes of text the trees may hold in all, aliases expanded.
const MAX_TEXT: usize = 32 << 20;

/// Reads all documents of a file; the error is a problem of the file.
pub(super) fn read(name: &str, text: &str) -> Result<Vec<Value>, Box<Problem>> {
    let budget = Budget { nodes: Cell::new(MAX_NODES), text: Cell::new(MAX_TEXT) };
    if name.ends_with(".json") {
        let mut json = serde_json::Deserializer::from_str(text);
        let tree = Node(&budget).deserialize(&mut json).and_then(|tree| json.end().map(|()| tree));
        return tree.map(|tree| vec![tree]).map_err(|error| {
            let line = error.line();
            Box::new(broken(name, 1, (line > 0).then_some(line), &error.to_string()))
        });
    }
    let mut trees = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        match Node(&budget).deserialize(document) {
            Ok(tree) => trees.push(tree),
            Err(error) => {
                let line = error.location().map(|location| location.line());
                return Err(Box::new(broken(name, trees.len() + 1, line, &error.to_string())));
            }
        }
    }
    Ok(trees)
}

fn broken(name: &str, document: usize, line: Option<usize>, error: &str) -> Problem {
    let origin = Origin { file: name.to_owned(), document, item: None };
    Problem { origin: Some(origin), line, ..Problem::of_file(name, format!("cannot be read: {error}")) }
}

/// What is left to spend.
struct Budget {
    nodes: Cell<usize>,
    text: Cell<usize>,
}

impl Budget {
    fn spend<E: serde::de::Error>(&self, text: usize) -> Result<(), E> {
        let (Some(nodes), Some(text)) = (self.nodes.get().checked_sub(1), self.text.get().checked_sub(text)) else {
            return Err(E::custom(format_args!(
                "too large: more than {MAX_NODES} values or {MAX_TEXT} bytes with its aliases expanded; split the file"
            )));
        };
        self.nodes.set(nodes);
        self.text.set(text);
        Ok(())
    }
}

/// Reads one value, and the values in it, on the budget.
struct Node<'a>(&'a Budget);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value, sequence or mapping")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.0.spend(0).map(|()| Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.spend(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.spend(0).map(|()| Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.spend(0).map(|()| Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.spend(0).map(|()| Value::from(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.spend(value.len()).map(|()| Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.spend(0)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Node(self.0))? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.spend(0)?;
        let mut mapping = Mapping::new();
        while let Some(key) = access.next_key_seed(Node(self.0))? {
            let value = access.next_value_seed(Node(self.0))?;
            if mapping.contains_key(&key) {
                let key = String::deserialize(key).unwrap_or_else(|_| "(not a text)".to_owned());
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            mapping.insert(key, value);
        }
        Ok(Value::Mapping(mapping))
    }
}

/// A field's path as users write it: `spec.ports[0].port`.
pub(super) fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => {
            let parent = path_text(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => path_text(parent),
    }
}

/// An error of the YAML library in two parts: the field's path and what is wrong, without the place in a text that
/// the user has never seen.
pub(super) fn split_error(error: &serde_norway::Error) -> (String, String) {
    let whole = error.to_string();
    let text = match whole.rfind(" at line ") {
        Some(end) if error.location().is_some() => &whole[..end],
        _ => whole.as_str(),
    };
    let (path, message) = match text.split_once(": ") {
        Some((path, message)) if path.contains(['.', '[']) || !path.contains(' ') => (path, message),
        _ => ("", text),
    };
    let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) else {
        return (path.to_owned(), message.to_owned());
    };
    let (name, expected) = unknown;
    let known = expected.split('`').skip(1).step_by(2);
    let field = if path.is_empty() || path == "." { name.to_owned() } else { format!("{path}.{name}") };
    (field, format!("unknown field{}", crate::config::closest(name, known)))
}
