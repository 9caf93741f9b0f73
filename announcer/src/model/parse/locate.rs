//! On which line of a text a field stands.
//!
//! Errors that are found after parsing (an address outside every pool) know their object and field, not their line.
//! [`line_of`] walks the text once more along the path and fails on purpose where it ends: the YAML library adds the place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::problem::Origin;

/// The line, from 1, of `field` in the document of `text` that `origin` names; of the nearest parent that is there,
/// if the field is not. `None` if the document has changed beyond recognition.
#[must_use]
pub fn line_of(text: &str, origin: &Origin, field: &str) -> Option<usize> {
    let prefix = origin.item.map_or(String::new(), |item| format!("items[{item}]"));
    let mut path = match (prefix.is_empty(), field.is_empty()) {
        (true, _) => field.to_owned(),
        (false, true) => prefix,
        (false, false) => format!("{prefix}.{field}"),
    };
    loop {
        let document = serde_norway::Deserializer::from_str(text).nth(origin.document.checked_sub(1)?)?;
        if let Err(error) = (Walk { path: &path }).deserialize(document) {
            return error.location().map(|location| location.line());
        }
        if path.is_empty() {
            return None;
        }
        path.truncate(path.rfind(['.', '[']).unwrap_or(0));
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a str,
}

impl<'a> Walk<'a> {
    /// What is left of the path inside the mapping's value for `key`.
    fn into_key(self, key: &str) -> Option<Self> {
        let rest = self.path.strip_prefix(key)?;
        let ends = rest.is_empty() || rest.starts_with(['.', '[']);
        ends.then(|| Self { path: rest.strip_prefix('.').unwrap_or(rest) })
    }

    /// The index the path begins with, and what is left behind it.
    fn into_index(self) -> Option<(usize, Self)> {
        let (index, rest) = self.path.strip_prefix('[')?.split_once(']')?;
        Some((index.parse().ok()?, Self { path: rest.strip_prefix('.').unwrap_or(rest) }))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The error that stops the walk.
fn here<E: serde::de::Error>(walk: Walk<'_>) -> Result<(), E> {
    if walk.path.is_empty() { Err(E::custom("here")) } else { Ok(()) }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        here(self)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        here(self)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        here(self)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        here(self)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        here(self)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        here(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        here(self)?;
        let Some((wanted, rest)) = self.into_index() else {
            while access.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        for _ in 0..wanted {
            if access.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        access.next_element_seed(rest)?;
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        if self.path.is_empty() {
            return Err(A::Error::custom("here"));
        }
        while let Some(key) = access.next_key::<String>()? {
            match self.into_key(&key) {
                Some(rest) => access.next_value_seed(rest)?,
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
