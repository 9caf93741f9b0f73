//! All objects by where they come from, with the last good version of each.
//!
//! A source feeds it whole files ([`Index::apply`], [`Index::refuse`], [`Index::delete`]); a file is any unit that is
//! replaced at once, so a source that has single objects names a file for each. [`Index::resolve`] says what is
//! desired; [`Index::settle`] then remembers which versions were good.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::{
    objects::{Kind, Object, ObjectKey},
    parse::Document,
    problem::{Origin, Problem, Severity},
    resolve::{Resolved, resolve},
};

/// What an error adds if an older version of the object stays in use.
const KEPT: &str = "; until that is corrected the last good version is served";

/// An object and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loaded {
    pub(super) origin: Origin,
    pub(super) object: Object,
}

/// An object's newest readable version, and the newest that went through [`Index::resolve`] without an error.
#[derive(Debug, Clone)]
struct Slot {
    current: Arc<Loaded>,
    good: Option<Arc<Loaded>>,
}

#[derive(Debug, Clone, Default)]
struct FileContent {
    objects: BTreeMap<ObjectKey, Slot>,
    problems: Vec<Problem>,
}

/// All objects. Its size is bounded by its source, which limits files and objects.
#[derive(Debug, Clone, Default)]
pub struct Index {
    files: BTreeMap<String, FileContent>,
    /// Objects in all files.
    objects: usize,
}

impl Index {
    /// Replaces what came from `file`. Objects that are no longer there are gone; an object with mistakes keeps the
    /// version it had.
    pub fn apply(&mut self, file: &str, documents: Vec<Document>) {
        let mut before = self.files.remove(file).unwrap_or_default();
        self.objects -= before.objects.len();
        let mut content = FileContent::default();
        for document in documents {
            let mut problems = document.problems;
            match document.key.map(|key| content.objects.entry(key)) {
                None => {}
                Some(Entry::Occupied(first)) => problems.push(duplicate(&document.origin, first.key(), file)),
                Some(Entry::Vacant(place)) => match (document.object, before.objects.remove(place.key())) {
                    (Some(object), earlier) => {
                        let current = Arc::new(Loaded { origin: document.origin, object });
                        place.insert(Slot { current, good: earlier.and_then(|slot| slot.good) });
                    }
                    (None, Some(earlier)) => {
                        problems.iter_mut().for_each(keep);
                        place.insert(earlier);
                    }
                    (None, None) => {}
                },
            }
            content.problems.append(&mut problems);
        }
        self.objects += content.objects.len();
        self.files.insert(file.to_owned(), content);
    }

    /// Notes that `file` cannot be read: what came from it before stays.
    pub fn refuse(&mut self, file: &str, mut problem: Problem) {
        let content = self.files.entry(file.to_owned()).or_default();
        if content.objects.is_empty() {
            problem.message.push_str("; nothing of this file is used until that is corrected");
        } else {
            keep(&mut problem);
        }
        content.problems = vec![problem];
    }

    /// Removes what came from `file`.
    pub fn delete(&mut self, file: &str) {
        if let Some(content) = self.files.remove(file) {
            self.objects -= content.objects.len();
        }
    }

    /// Removes everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The files that were applied or refused, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// How many objects came from files other than `file`.
    #[must_use]
    pub fn count_without(&self, file: &str) -> usize {
        self.objects.saturating_sub(self.files.get(file).map_or(0, |content| content.objects.len()))
    }

    /// How many objects there are of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for key in self.files.values().flat_map(|content| content.objects.keys()).collect::<BTreeSet<_>>() {
            *counts.entry(key.kind).or_default() += 1;
        }
        counts
    }

    /// What is desired, and everything that is wrong. The same objects give the same answer on every node.
    ///
    /// If a new version of an object is at odds with others (an address outside every pool), its last good version
    /// is tried instead.
    #[must_use]
    pub fn resolve(&self) -> Resolved {
        let mut duplicates = Vec::new();
        let mut chosen: BTreeMap<&ObjectKey, &Slot> = BTreeMap::new();
        for (key, slot) in self.files.values().flat_map(|content| &content.objects) {
            match chosen.get(key) {
                Some(first) => duplicates.push(duplicate(&slot.current.origin, key, &first.current.origin.file)),
                None => drop(chosen.insert(key, slot)),
            }
        }
        let current = chosen.iter().map(|(key, slot)| (*key, &*slot.current)).collect();
        let mut resolved = resolve(&current);
        let fallback: BTreeMap<ObjectKey, Arc<Loaded>> = failed(&resolved.problems)
            .into_iter()
            .filter_map(|key| {
                let slot = chosen.get(key)?;
                let good = slot.good.as_ref().filter(|good| good.object != slot.current.object)?;
                Some((key.clone(), good.clone()))
            })
            .collect();
        if !fallback.is_empty() {
            let with_good = chosen.iter().map(|(key, slot)| (*key, &**fallback.get(*key).unwrap_or(&slot.current)));
            let fell_back = |problem: &Problem| problem.object.as_ref().is_some_and(|key| fallback.contains_key(key));
            let first = std::mem::replace(&mut resolved, resolve(&with_good.collect()));
            resolved.problems.retain(|problem| problem.severity == Severity::Error || !fell_back(problem));
            resolved.problems.extend(first.problems.into_iter().filter(fell_back).map(|mut problem| {
                keep(&mut problem);
                problem
            }));
        }
        resolved.problems.extend(duplicates);
        resolved.problems.extend(self.files.values().flat_map(|content| content.problems.iter().cloned()));
        resolved.problems.sort_by(|a, b| (&a.origin, a).cmp(&(&b.origin, b)));
        resolved.problems.dedup();
        resolved
    }

    /// Remembers the versions that [`Self::resolve`] had nothing against as the last good ones.
    pub fn settle(&mut self, problems: &[Problem]) {
        let failed: BTreeSet<ObjectKey> = failed(problems).into_iter().cloned().collect();
        for (key, slot) in self.files.values_mut().flat_map(|content| &mut content.objects) {
            if !failed.contains(key) {
                slot.good = Some(slot.current.clone());
            }
        }
    }
}

fn failed(problems: &[Problem]) -> BTreeSet<&ObjectKey> {
    problems.iter().filter(|one| one.severity == Severity::Error).filter_map(|one| one.object.as_ref()).collect()
}

fn keep(problem: &mut Problem) {
    if problem.severity == Severity::Error && !problem.message.ends_with(KEPT) {
        problem.message.push_str(KEPT);
    }
}

fn duplicate(origin: &Origin, key: &ObjectKey, first: &str) -> Problem {
    // Without the object: the first definition is sound and must not be taken for failed.
    let message = format!("{key} is defined a second time; the one in {first} is used, remove one of them");
    Problem { origin: Some(origin.clone()), ..Problem::of_file("", message) }
}

#[cfg(test)]
mod tests;
