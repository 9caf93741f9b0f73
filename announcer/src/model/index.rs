//! All objects by where they come from, with the last good version of each.
//!
//! A source feeds it whole files ([`Index::apply`], [`Index::refuse`], [`Index::delete`]); a file is any unit that is
//! replaced at once, so a source that has single objects names a file for each. [`Index::resolve`] says what is
//! desired; [`Index::settle`] then remembers which versions were good, and who is served at which address.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use super::{
    ServiceName,
    objects::{Kind, Object, ObjectKey},
    parse::Document,
    problem::{Origin, Problem, Severity},
    resolve::{Given, Incumbents, Resolved, resolve},
};

/// What an error adds if an older version of the object stays in use.
const KEPT: &str = "; until that is corrected the last good version is served";
/// How often falling back to last good versions may lead to the next object that must; each time costs a resolution.
const MAX_ROUNDS: usize = 8;

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
    /// It was in its file when that last had no mistake (or was first read).
    sound: bool,
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
    /// Who was served where by the last [`Self::settle`]; as many as there were services then.
    incumbents: Incumbents,
    /// See [`Self::note_given`].
    given: Given,
}

impl Index {
    /// Replaces what came from `file`. Objects that are no longer there are gone; an object with mistakes keeps the
    /// version it had. A file with a mistake may be torn, so what is missing from it stays until it is corrected.
    pub fn apply(&mut self, file: &str, documents: Vec<Document>) {
        let mut before = self.files.remove(file).unwrap_or_default();
        self.objects -= before.objects.len();
        let mut content = FileContent::default();
        let is_error = |problem: &Problem| problem.severity == Severity::Error;
        let mistaken = documents.iter().any(|document| document.problems.iter().any(is_error));
        let sound_if_new = !mistaken || before.objects.is_empty();
        for document in documents {
            let mut problems = document.problems;
            match document.key.map(|key| content.objects.entry(key)) {
                None => {}
                Some(Entry::Occupied(first)) => problems.push(duplicate(&document.origin, first.key(), file)),
                Some(Entry::Vacant(place)) => match (document.object, before.objects.remove(place.key())) {
                    (Some(object), earlier) => {
                        let current = Arc::new(Loaded { origin: document.origin, object });
                        let sound = sound_if_new || earlier.as_ref().is_some_and(|slot| slot.sound);
                        place.insert(Slot { current, good: earlier.and_then(|slot| slot.good), sound });
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
        // Only what was sound: else each of many mistaken versions would leave something behind.
        let missing = before.objects.into_iter().filter(|(_, slot)| mistaken && slot.sound).collect::<Vec<_>>();
        if let Some((key, _)) = missing.first() {
            let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
            let message = format!("{key}{more} is no longer in it, and kept until the file's mistakes are corrected");
            content.problems.push(Problem::of_file(file, message).as_warning());
        }
        content.objects.extend(missing);
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

    /// The newest readable version of every object, in the order of the files.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.files.values().flat_map(|content| &content.objects).map(|(key, slot)| (key, &slot.current.object))
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

    /// What is desired, and everything that is wrong. The same objects, with the same addresses given ([`Self::note_given`]), give
    /// the same answer on every node; only of two services that want one address, the one that was served there at the last
    /// [`Self::settle`] keeps it.
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
        let mut resolved = self.resolve_with_last_good(&chosen);
        resolved.problems.extend(duplicates);
        resolved.problems.extend(self.files.values().flat_map(|content| content.problems.iter().cloned()));
        resolved.problems.sort_by(|a, b| (&a.origin, a).cmp(&(&b.origin, b)));
        resolved.problems.dedup();
        resolved
    }

    /// Resolves the newest versions; those that fail are replaced by the last good ones, until none is left to replace.
    fn resolve_with_last_good(&self, chosen: &BTreeMap<&ObjectKey, &Slot>) -> Resolved {
        let mut versions: BTreeMap<&ObjectKey, &Loaded> =
            chosen.iter().map(|(key, slot)| (*key, &*slot.current)).collect();
        let mut resolved = resolve(&versions, &self.incumbents, &self.given);
        let mut fell_back: BTreeSet<ObjectKey> = BTreeSet::new();
        let mut why: Vec<Problem> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let falling: BTreeSet<ObjectKey> =
                failed(&resolved.problems).into_iter().filter(|key| !fell_back.contains(key)).cloned().collect();
            let before = fell_back.len();
            for (key, slot) in falling.iter().filter_map(|key| chosen.get_key_value(key)) {
                if let Some(good) = slot.good.as_deref().filter(|good| good.object != slot.current.object) {
                    versions.insert(*key, good);
                    fell_back.insert((*key).clone());
                }
            }
            if fell_back.len() == before {
                break;
            }
            let of = |problem: &Problem, keys: &BTreeSet<ObjectKey>| {
                problem.object.as_ref().is_some_and(|key| keys.contains(key))
            };
            let first = std::mem::replace(&mut resolved, resolve(&versions, &self.incumbents, &self.given));
            let new = first.problems.into_iter();
            why.extend(new.filter(|problem| of(problem, &falling) && of(problem, &fell_back)));
            // Of the version that is not the newest only what is an error is of interest.
            resolved.problems.retain(|problem| problem.severity == Severity::Error || !of(problem, &fell_back));
        }
        why.iter_mut().for_each(keep);
        resolved.problems.extend(why);
        resolved
    }

    /// Notes which of the addresses in a service's status Crier has given it, as the source remembers it; none: it forgets the
    /// service. Others in the status are somebody else's.
    pub fn note_given(&mut self, service: ServiceName, addresses: BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            self.given.remove(&service);
        } else {
            self.given.insert(service, addresses);
        }
    }

    /// Remembers the versions that [`Self::resolve`] had nothing against as the last good ones, and who is served where.
    pub fn settle(&mut self, resolved: &Resolved) {
        let failed: BTreeSet<ObjectKey> = failed(&resolved.problems).into_iter().cloned().collect();
        for (key, slot) in self.files.values_mut().flat_map(|content| &mut content.objects) {
            if !failed.contains(key) {
                slot.good = Some(slot.current.clone());
            }
        }
        self.incumbents = resolved.incumbents.clone();
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
