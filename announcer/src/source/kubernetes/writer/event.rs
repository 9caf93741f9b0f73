//! What is told about objects: Kubernetes' events.

use std::hash::{Hash, Hasher};

use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

use crate::model::ServiceName;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) regarding: Regarding,
    warning: bool,
    reason: &'static str,
    note: String,
}

/// What it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regarding {
    pub(super) namespace: String,
    name: String,
    uid: String,
}

impl Regarding {
    pub(super) fn service(name: &ServiceName, uid: &str) -> Self {
        Self { namespace: name.namespace.clone(), name: name.name.clone(), uid: uid.to_owned() }
    }
}

/// The API takes no longer note.
const LONGEST: usize = 1024;

impl Event {
    pub(super) fn normal(regarding: Regarding, reason: &'static str, note: String) -> Self {
        Self { regarding, warning: false, reason, note }
    }

    pub(super) fn warning(regarding: Regarding, reason: &'static str, note: String) -> Self {
        Self { regarding, warning: true, reason, note }
    }

    /// The object, as told by `node` at a moment in RFC 3339. What is told twice has the same name, so that two agents, or one
    /// that was restarted, tell it once as long as it is kept.
    pub(super) fn object(&self, node: &str, at: &str) -> Value {
        let mut hasher = Xxh3::new();
        (&self.regarding.uid, self.reason, &self.note).hash(&mut hasher);
        let Regarding { namespace, name, uid } = &self.regarding;
        let mut note = self.note.clone();
        let end = note.char_indices().map(|(at, _)| at).take_while(|at| *at < LONGEST - 3).last().unwrap_or(0);
        if note.len() > LONGEST {
            note.truncate(end);
            note.push('…');
        }
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}.{:016x}", hasher.finish()), "namespace": namespace},
            "eventTime": at,
            "type": if self.warning { "Warning" } else { "Normal" },
            "reason": self.reason,
            "action": self.reason,
            "note": note,
            "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name, "uid": uid},
            "reportingController": "crier.io/crier",
            "reportingInstance": node,
        })
    }
}
