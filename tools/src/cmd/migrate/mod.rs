//! `crierctl migrate`: from MetalLB's objects to Crier's.
//!
//! [`read`] gets the objects from files or from `kubectl`; [`convert`] makes Crier's of them, and notes of what has no
//! counterpart ([`legacy`] knows the ConfigMap of MetalLB before 0.13). What is printed has gone through the agent's own
//! parser, so what it would not take is said here.

mod convert;
mod legacy;
mod read;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use announcer::model::parse::parse_file;
use anyhow::Result;
use serde_norway::Value;

use crate::{Outcome, args::Output, render::printable};

/// Something the person who migrates should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    /// The object it is about, as `BGPPeer metallb-system/router`; empty: all.
    object: String,
    /// What has no counterpart, and what to do.
    message: String,
}

/// What became of MetalLB's objects.
#[derive(Debug, Default)]
struct Migration {
    /// Crier's objects.
    objects: Vec<Value>,
    /// What is to be known beside them.
    notes: Vec<Note>,
}

impl Migration {
    fn note(&mut self, object: impl Into<String>, message: impl Into<String>) {
        self.notes.push(Note { object: object.into(), message: message.into() });
    }
}

/// Reads MetalLB's objects from the files, or the cluster that `kubectl` talks to, and prints Crier's.
pub(crate) fn run(files: &[PathBuf], namespace: &str, output: Output) -> Result<Outcome> {
    let objects = if files.is_empty() { read::live()? } else { read::files(files)? };
    let mut migration = convert::convert(&objects, namespace);
    let yaml = print(&migration.objects)?;
    vet(&yaml, &mut migration);
    let text = match output {
        Output::Table => yaml,
        Output::Json => {
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": migration.objects });
            serde_json::to_string_pretty(&list)? + "\n"
        }
    };
    if migration.objects.is_empty() {
        migration.note("", "no pools and no L2Advertisements of MetalLB's were found: nothing to migrate");
    }
    let notes = migration.notes.iter().map(line).collect();
    Ok(Outcome { notes, ..Outcome::ok(text) })
}

fn line(note: &Note) -> String {
    let colon = if note.object.is_empty() { "" } else { ": " };
    printable(&format!("{}{colon}{}", note.object, note.message)) + "\n"
}

fn print(objects: &[Value]) -> Result<String> {
    let documents = objects.iter().map(serde_norway::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}

/// What the agent would say about the objects becomes notes.
fn vet(yaml: &str, migration: &mut Migration) {
    match parse_file("migrated.yaml", yaml) {
        Ok(documents) => {
            for problem in documents.iter().flat_map(|document| &document.problems) {
                let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
                migration.note(object, format!("{}: {}; correct it before applying", problem.field, problem.message));
            }
        }
        Err(problem) => migration.note("", problem.to_string()),
    }
}
