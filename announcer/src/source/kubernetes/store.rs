//! All that is known of the API server's objects: a function of the news. It does no I/O and asks no clock.
//!
//! It begins with what was kept on disk, and takes the server's word for all else. With one exception: a server whose store
//! was wiped says that there is nothing, and is not believed. It is known by the cluster's identity, which is another
//! then; as long as such a cluster has no IPAddressPool, all that was known before keeps being served. (In a cluster that is the same,
//! an empty list is what somebody wanted.)

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    vip::{self, VipRecord},
    watch::News,
    watched::{Watched, metadata},
};
use crate::{
    model::{
        Index, Problem, ServiceName,
        objects::{Kind, Object, ObjectKey},
        parse::read_api,
    },
    source::Limit,
};

/// Objects of all kinds together: beyond them none is taken.
const MAX_OBJECTS: usize = 200_000;

/// The objects of one cluster.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) index: Index,
    pub(super) vips: BTreeMap<ServiceName, VipRecord>,
    /// Objects with a mistake: of these the index has an earlier version, or none.
    pub(super) mistaken: BTreeMap<ObjectKey, Mistaken>,
    /// Which cluster's they are; empty: nobody said so.
    pub(super) identity: String,
    /// Of the kinds that are being listed, what has come.
    listing: BTreeMap<Watched, BTreeSet<ObjectKey>>,
    /// The kinds of which all is known.
    listed: BTreeSet<Watched>,
}

impl Objects {
    fn listing(&mut self, what: Watched) {
        self.listing.insert(what, BTreeSet::new());
    }

    /// Takes an object; `false` if there is no room.
    fn put(&mut self, what: Watched, object: Value) -> bool {
        let Watched::Model(kind) = what else {
            if let Some((name, record)) = vip::read(&object) {
                self.note(what, service_key(&name));
                self.index.note_given(name.clone(), record.status.addresses.iter().map(|one| one.ip).collect());
                self.vips.insert(name, record);
            }
            return true;
        };
        let mistaken = Mistaken::read(&object);
        let Some((key, document)) = read_api(kind, object) else { return true };
        match document.object {
            None => drop(self.mistaken.insert(key.clone(), mistaken)),
            Some(_) => drop(self.mistaken.remove(&key)),
        }
        let file = key.to_string();
        if self.index.count_without(&file) >= MAX_OBJECTS {
            return false;
        }
        self.index.apply(&file, vec![document]);
        self.note(what, key);
        true
    }

    fn note(&mut self, what: Watched, key: ObjectKey) {
        if let Some(seen) = self.listing.get_mut(&what) {
            seen.insert(key);
        }
    }

    fn remove(&mut self, what: Watched, object: &Value) {
        match what {
            Watched::Vip => {
                if let Some((name, _)) = vip::read(object) {
                    self.vips.remove(&name);
                    self.index.note_given(name, BTreeSet::new());
                }
            }
            Watched::Model(kind) => {
                if let Some((key, _)) = read_api(kind, object.clone()) {
                    self.index.delete(&key.to_string());
                    self.mistaken.remove(&key);
                }
            }
        }
    }

    /// What has not come is gone.
    fn listed(&mut self, what: Watched) {
        let Some(seen) = self.listing.remove(&what) else { return };
        self.listed.insert(what);
        let Watched::Model(kind) = what else {
            self.vips.retain(|name, _| {
                let is_there = seen.contains(&service_key(name));
                if !is_there {
                    self.index.note_given(name.clone(), BTreeSet::new());
                }
                is_there
            });
            return;
        };
        self.mistaken.retain(|key, _| key.kind != kind || seen.contains(key));
        let seen: BTreeSet<String> = seen.iter().map(ToString::to_string).collect();
        let of_kind = format!("{kind} ");
        let gone: Vec<_> = self
            .index
            .files()
            .filter(|file| file.starts_with(&of_kind) && !seen.contains(*file))
            .map(str::to_owned)
            .collect();
        gone.iter().for_each(|file| self.index.delete(file));
    }

    fn is_complete(&self) -> bool {
        Watched::all().all(|what| self.listed.contains(&what))
    }

    fn has_pools(&self) -> bool {
        self.index.counts().contains_key(&Kind::IPAddressPool)
    }
}

fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey { kind: Kind::Service, namespace: name.namespace.clone(), name: name.name.clone() }
}

/// What there is to know of an object that cannot be used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Mistaken {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) status: Value,
}

impl Mistaken {
    fn read(object: &Value) -> Self {
        Self {
            uid: metadata(object, "uid").unwrap_or_default(),
            generation: metadata(object, "generation").unwrap_or_default(),
            status: object.get("status").cloned().unwrap_or_default(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// What is served.
    pub(super) live: Objects,
    /// Of another cluster, which is not believed yet.
    doubted: Option<Objects>,
    /// Why a kind is not watched at the moment; those that are, are not here.
    lost: BTreeMap<Watched, String>,
    reached: BTreeSet<Watched>,
    /// How often there was no room.
    pub(super) limits: BTreeMap<Limit, u64>,
}

impl Store {
    /// With what was kept on disk.
    pub(super) fn remembering(identity: String, objects: Vec<(Watched, Value)>) -> Self {
        let mut store = Self { live: Objects { identity, ..Objects::default() }, ..Self::default() };
        for (what, object) in objects {
            store.live.put(what, object);
        }
        store
    }

    /// Takes news in. Whether they change what is desired.
    pub(super) fn take(&mut self, what: Watched, news: News) -> bool {
        match news {
            News::Reached => {
                self.reached.insert(what);
                return self.lost.remove(&what).is_some() || self.is_connected();
            }
            News::Lost(why) => {
                self.reached.remove(&what);
                return self.lost.insert(what, why.clone()) != Some(why);
            }
            News::Outdated => return self.reached.remove(&what),
            News::Listing(identity) => {
                self.objects_of(identity).listing(what);
                // Until it is watched again, what is known is in part old and in part new.
                return self.reached.remove(&what);
            }
            News::Page(objects) => {
                let newest = self.newest();
                let refused = objects.into_iter().map(|object| newest.put(what, object)).filter(|taken| !taken).count();
                self.count_refused(refused);
                return false;
            }
            News::Listed => self.newest().listed(what),
            News::Changed(object) => {
                let refused = !self.newest().put(what, object);
                self.count_refused(usize::from(refused));
            }
            News::Gone(object) => self.newest().remove(what, &object),
        }
        self.believe();
        true
    }

    fn count_refused(&mut self, objects: usize) {
        if objects > 0 {
            *self.limits.entry(Limit::Objects).or_default() += objects as u64;
        }
    }

    /// The objects of the cluster that the server has now.
    fn newest(&mut self) -> &mut Objects {
        self.doubted.as_mut().unwrap_or(&mut self.live)
    }

    fn objects_of(&mut self, identity: String) -> &mut Objects {
        if self.live.identity.is_empty() {
            self.live.identity.clone_from(&identity);
        }
        if self.live.identity == identity {
            self.doubted = None;
        } else if self.doubted.as_ref().is_none_or(|doubted| doubted.identity != identity) {
            self.doubted = Some(Objects { identity, ..Objects::default() });
        }
        self.newest()
    }

    /// Believes another cluster that has pools, and of which all is known.
    fn believe(&mut self) {
        let is_ready = self.doubted.as_ref().is_some_and(|doubted| doubted.is_complete() && doubted.has_pools());
        if let (true, Some(doubted)) = (is_ready, self.doubted.take_if(|_| is_ready)) {
            self.live = doubted;
        }
    }

    /// Whether everything is being watched, and believed.
    pub(super) fn is_connected(&self) -> bool {
        self.doubted.is_none() && self.lost.is_empty() && self.reached.len() == Watched::all().count()
    }

    /// Whether all that is served is what the server says now, so that something may be written to it.
    pub(super) fn is_current(&self) -> bool {
        self.is_connected() && self.live.is_complete()
    }

    /// What stands between this and the API server.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut messages: BTreeSet<String> = self.lost.values().cloned().collect();
        if self.doubted.is_some() {
            messages.insert(
                "the API server has another cluster than before (the UID of the namespace kube-system has changed), without an \
                 IPAddressPool; what was known before is served until there is one"
                    .to_owned(),
            );
        }
        messages.into_iter().map(|message| Problem::of_file(crate::model::parse::API, message)).collect()
    }

    /// The objects of a kind.
    pub(super) fn objects(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.live.index.objects().filter(move |(key, _)| key.kind == kind)
    }
}

#[cfg(test)]
mod tests;
