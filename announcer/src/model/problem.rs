//! What is wrong with the objects, in words a user can act on.
//!
//! A [`Problem`] says where (file, line, object, field), what, and what to do. Parsing and resolving collect
//! problems and go on: one mistake never takes the other objects with it.

use std::fmt;

use super::objects::ObjectKey;

/// Whether an object, or a part of it, is left out because of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object (or the new version of it) is not used.
    Error,
    /// The object is used; something in it has no effect, or will surprise.
    Warning,
}

/// Where an object, or a mistake, comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file's name in its folder.
    pub file: String,
    /// The document's number in the file, from 1; 0: the file as a whole.
    pub document: usize,
    /// The item's number in a `List` document, from 0.
    pub item: Option<usize>,
}

/// Something wrong, or without effect, in the objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whether the object is left out.
    pub severity: Severity,
    /// Where it is written; `None`: the folder as a whole.
    pub origin: Option<Origin>,
    /// The line in the file, from 1, if it could be found.
    pub line: Option<usize>,
    /// The object at fault, if the mistake lies in one.
    pub object: Option<ObjectKey>,
    /// The field's path in the object as `spec.ports[0].port`; empty: the object as a whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// An error of the file or folder as a whole.
    #[must_use]
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        let origin = (!file.is_empty()).then(|| Origin { file: file.to_owned(), document: 0, item: None });
        Self {
            severity: Severity::Error,
            origin,
            line: None,
            object: None,
            field: String::new(),
            message: message.into(),
        }
    }

    /// An error in `object`.
    #[must_use]
    pub fn error(origin: &Origin, object: &ObjectKey, field: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            origin: Some(origin.clone()),
            line: None,
            object: Some(object.clone()),
            field: field.to_owned(),
            message: message.into(),
        }
    }

    /// Where it is written, as far as is known: `web.yaml:12 (document 2)`.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let origin = self.origin.as_ref()?;
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let document = if origin.document > 0 { format!(" (document {})", origin.document) } else { String::new() };
        Some(format!("{}{line}{document}", origin.file))
    }

    /// What is wrong in which field, for whoever looks at the object.
    #[must_use]
    pub fn advice(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }

    /// The same, as a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place() {
            write!(f, "{place}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.advice())
    }
}

/// What one object's reader has to say about it, before it is known where the object came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) severity: Severity,
    pub(super) field: String,
    pub(super) message: String,
}

impl Complaint {
    /// The object cannot be used.
    pub(super) fn error(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { severity: Severity::Error, field: field.into(), message: message.to_string() }
    }

    /// Something in the object has no effect.
    pub(super) fn warning(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { severity: Severity::Warning, field: field.into(), message: message.to_string() }
    }

    /// As a problem of `object`.
    pub(super) fn at(self, origin: &Origin, object: &ObjectKey) -> Problem {
        Problem { severity: self.severity, ..Problem::error(origin, object, &self.field, self.message) }
    }
}
