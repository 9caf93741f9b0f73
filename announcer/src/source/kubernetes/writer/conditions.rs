//! What is said of Crier's own objects: whether they are sound, and how full pools are.

use std::{collections::BTreeSet, time::SystemTime};

use membership::View;
use serde_json::{Value, json};

use super::plan::Change;
use crate::{
    model::{
        PoolUsage, Problem, Severity,
        objects::{Kind, ObjectKey},
    },
    ownership::uplinks,
    source::kubernetes::picture::{Judged, Picture},
};

/// A condition, before it is known since when it holds.
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The objects whose status should say something else.
pub(super) fn plan(picture: &Picture, view: &View, now: SystemTime) -> Vec<Change> {
    let uplinks = uplinks(view);
    picture.judged.iter().filter_map(|(key, judged)| change(picture, &uplinks, key, judged, now)).collect()
}

fn change(
    picture: &Picture,
    uplinks: &BTreeSet<&str>,
    key: &ObjectKey,
    judged: &Judged,
    now: SystemTime,
) -> Option<Change> {
    let mut conditions = vec![valid(picture, uplinks, key, judged)];
    let mut status = serde_json::Map::new();
    if key.kind == Kind::IPAddressPool
        && let Some(usage) = picture.pools.get(&key.name)
    {
        let free = usage.addresses.saturating_sub(usage.used as u128);
        status.insert("addresses".into(), usage.addresses.to_string().into());
        status.insert("used".into(), usage.used.into());
        status.insert("free".into(), free.to_string().into());
        conditions.push(exhausted(usage));
    }
    let at = humantime::format_rfc3339_seconds(now).to_string();
    let conditions = conditions.into_iter().map(|one| one.object(judged, &at)).collect::<Vec<_>>();
    status.insert("conditions".into(), conditions.into());
    let status = Value::Object(status);
    (status != judged.status).then(|| Change::Status { object: key.clone(), status })
}

fn valid(picture: &Picture, uplinks: &BTreeSet<&str>, key: &ObjectKey, judged: &Judged) -> Condition {
    let of = |problem: &&Problem| problem.object.as_ref() == Some(key);
    let problems: Vec<&Problem> = picture.problems.iter().filter(of).collect();
    let mut said: Vec<String> = problems.iter().map(|problem| problem.advice()).collect();
    said.extend(absent_interfaces(uplinks, judged));
    let holds = !problems.iter().any(|problem| problem.severity == Severity::Error);
    let reason = match (holds, said.is_empty()) {
        (false, _) => "Mistake",
        (true, false) => "Warning",
        (true, true) => "Accepted",
    };
    said.truncate(8);
    Condition { kind: "Valid", holds, reason, message: said.join("; ") }
}

/// Warnings about interfaces that no node has, as far as any node is known.
fn absent_interfaces(uplinks: &BTreeSet<&str>, judged: &Judged) -> Vec<String> {
    let there = || uplinks.iter().copied().collect::<Vec<_>>().join(", ");
    let absent = judged.interfaces.iter().enumerate().filter(|(_, name)| !uplinks.contains(name.as_str()));
    let absent = absent.filter(|_| !uplinks.is_empty());
    absent
        .map(|(index, name)| {
            format!(
                "spec.interfaces[{index}]: no node that is up has an uplink named {name:?} (there are: {})",
                there()
            )
        })
        .collect()
}

fn exhausted(usage: &PoolUsage) -> Condition {
    let (holds, reason, message) = match usage.full {
        Some((family, size)) => (true, "AllTaken", format!("{size} of {size} {family} addresses are taken")),
        None => (false, "SomeLeft", format!("{} of {} addresses are taken", usage.used, usage.addresses)),
    };
    Condition { kind: "Exhausted", holds, reason, message }
}

impl Condition {
    /// As the API has it; since when it holds is kept from before.
    fn object(self, judged: &Judged, now: &str) -> Value {
        let status = if self.holds { "True" } else { "False" };
        let before = judged.status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let same = |one: &&Value| {
            one.get("type").and_then(Value::as_str) == Some(self.kind)
                && one.get("status").and_then(Value::as_str) == Some(status)
        };
        let since = before.filter(same).find_map(|one| one.get("lastTransitionTime")?.as_str());
        json!({
            "type": self.kind,
            "status": status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": since.unwrap_or(now),
            "observedGeneration": judged.generation,
        })
    }
}
