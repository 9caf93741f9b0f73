//! The directory of services, as the agent keeps it: which place each service has. See [`forwarder_ebpf::directory`].

use std::collections::BTreeMap;

use forwarder_ebpf::{
    Bucket, Place, ServiceKey,
    directory::{WAYS, route},
};

const EMPTY: Bucket = Bucket { places: [Place::FREE; WAYS as usize] };

/// What is in the kernel's directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Those that are not empty.
    buckets: BTreeMap<u32, Bucket>,
}

impl Directory {
    /// Whether a service has a place, or finds one.
    pub(super) fn has_room(&self, key: &ServiceKey) -> bool {
        self.bucket_of(key).is_some() || route(key).buckets.into_iter().any(|bucket| self.room(bucket) > 0)
    }

    /// Points a service to an entry. The bucket that is to be written; `None` if both of the service's are full.
    pub(super) fn point(&mut self, key: ServiceKey, entry: u32) -> Option<(u32, Bucket)> {
        let route = route(&key);
        let bucket = self.bucket_of(&key).or_else(|| {
            let [first, second] = route.buckets;
            Some(if self.room(second) > self.room(first) { second } else { first })
        })?;
        let mut changed = self.buckets.get(&bucket).copied().unwrap_or(EMPTY);
        let at = changed.places.iter().position(|place| is(place, &key));
        let at = at.or_else(|| changed.places.iter().position(|place| place.entry == 0))?;
        *changed.places.get_mut(at)? = Place { key, tag: route.tag, entry: entry + 1, pad: 0 };
        self.buckets.insert(bucket, changed);
        Some((bucket, changed))
    }

    /// Takes a service out. The bucket that is to be written.
    pub(super) fn remove(&mut self, key: &ServiceKey) -> Option<(u32, Bucket)> {
        let bucket = self.bucket_of(key)?;
        let mut changed = *self.buckets.get(&bucket)?;
        changed.places.iter_mut().filter(|place| is(place, key)).for_each(|place| place.entry = 0);
        if changed.places.iter().all(|place| place.entry == 0) {
            self.buckets.remove(&bucket);
        } else {
            self.buckets.insert(bucket, changed);
        }
        Some((bucket, changed))
    }

    fn bucket_of(&self, key: &ServiceKey) -> Option<u32> {
        let has = |bucket: &u32| self.buckets.get(bucket).is_some_and(|b| b.places.iter().any(|place| is(place, key)));
        route(key).buckets.into_iter().find(has)
    }

    fn room(&self, bucket: u32) -> usize {
        self.buckets.get(&bucket).unwrap_or(&EMPTY).places.iter().filter(|place| place.entry == 0).count()
    }
}

fn is(place: &Place, key: &ServiceKey) -> bool {
    place.entry != 0 && place.key == *key
}

#[cfg(test)]
mod tests {
    use forwarder_ebpf::{TCP, directory::BUCKETS, mapped};

    use super::*;

    fn key(number: u32) -> ServiceKey {
        let [_, _, high, low] = number.to_be_bytes();
        ServiceKey { vip: mapped([10, 0, 0, 1]), port: [high, low], protocol: TCP, pad: 0 }
    }

    /// What the kernel finds.
    fn find(written: &BTreeMap<u32, Bucket>, key: &ServiceKey) -> Option<u32> {
        let route = route(key);
        let places = route.buckets.into_iter().filter_map(|bucket| written.get(&bucket)).flat_map(|b| b.places);
        places.into_iter().find(|place| place.tag == route.tag && is(place, key)).map(|place| place.entry - 1)
    }

    #[test]
    fn what_is_pointed_to_is_found_until_it_is_removed() {
        let (mut directory, mut written) = (Directory::default(), BTreeMap::new());
        for number in 0..BUCKETS {
            written.extend(directory.point(key(number), number));
        }
        for number in (0..BUCKETS).step_by(3) {
            written.extend(directory.point(key(number), number + 7));
        }
        for number in (1..BUCKETS).step_by(3) {
            written.extend(directory.remove(&key(number)));
        }
        for number in 0..BUCKETS {
            let expected = [Some(number + 7), None, Some(number)][number as usize % 3];
            assert_eq!(find(&written, &key(number)), expected, "{number}");
        }
        assert_eq!(directory.remove(&key(1)), None);
    }

    #[test]
    fn what_finds_both_its_buckets_full_is_refused() {
        let crowd = |number: &u32| route(&key(*number)).buckets.contains(&route(&key(0)).buckets[0]);
        let mut directory = Directory::default();
        let mut bucket = EMPTY;
        bucket.places.fill(Place { key: key(70_000), entry: 1, ..Place::FREE });
        for number in (0..1).chain((1..60_000).find(crowd)) {
            directory.buckets.extend(route(&key(number)).buckets.map(|full| (full, bucket)));
            assert!(!directory.has_room(&key(number)));
            assert_eq!(directory.point(key(number), 1), None);
        }
    }
}
