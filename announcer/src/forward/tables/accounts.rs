//! Which counters the pods have. A pod that is gone keeps its counter for a while: its connections go on.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use forwarder_ebpf::BackendEntry;

use super::{
    BackendKey, Tables,
    services::{backend_entry, backends},
};
use crate::forward::{
    counters::Labels,
    plan::{Limit, Plan, Write},
    wanted::{Socket, Targets},
};

/// A pod's counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The counter's number, from 1 on.
    pub number: u32,
    /// What its service's traffic is counted by.
    pub labels: Labels,
    /// The pod's tag.
    tag: u32,
    /// The pod is gone, and its counter is free from then on.
    until: Option<Instant>,
}

/// Whether a pod's counter begins or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Fresh,
    Again,
}

/// Numbers of counters, by pods.
#[derive(Debug)]
pub(super) struct Accounts {
    by_pod: BTreeMap<BackendKey, Account>,
    free: Vec<u32>,
    next: u32,
    capacity: u32,
    rest: Duration,
}

impl Accounts {
    /// Numbers below `capacity`.
    pub(super) fn new(capacity: u32, rest: Duration) -> Self {
        Self { by_pod: BTreeMap::new(), free: Vec::new(), next: 1, capacity, rest }
    }

    /// The pod's counter: the one it has, or had and nobody was given since, or a new one. `None` if all are taken.
    fn assign(&mut self, pod: &BackendKey, labels: &Labels, tag: u32) -> Option<(u32, Given)> {
        if let Some(account) = self.by_pod.get_mut(pod) {
            account.until = None;
            account.labels.clone_from(labels);
            return Some((account.number, Given::Again));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.next < self.capacity => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.by_pod.insert(*pod, Account { number, labels: labels.clone(), tag, until: None });
        Some((number, Given::Fresh))
    }

    /// Whether a pod that has none would get one.
    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.next < self.capacity
    }

    /// Whether the pod has one, or has had one until a moment ago.
    fn has(&self, pod: &BackendKey) -> bool {
        self.by_pod.contains_key(pod)
    }

    /// The pod's service has other labels; whether the pod has a counter.
    fn relabel(&mut self, pod: &BackendKey, labels: &Labels) -> bool {
        let account = self.by_pod.get_mut(pod);
        account.map(|account| account.labels.clone_from(labels)).is_some()
    }

    /// The pods that are not to be kept are gone.
    fn release(&mut self, now: Instant, keep: impl Fn(&BackendKey) -> bool) {
        let until = now + self.rest;
        let gone = self.by_pod.iter_mut().filter(|(pod, account)| account.until.is_none() && !keep(pod));
        gone.for_each(|(_, account)| account.until = Some(until));
    }

    /// Takes the counters of those that are gone for long.
    fn wake(&mut self, now: Instant) -> Vec<Account> {
        let mut woken = Vec::new();
        self.by_pod.retain(|_, account| {
            let over = account.until.is_some_and(|until| until <= now);
            if over {
                woken.push(account.clone());
            }
            !over
        });
        self.free.extend(woken.iter().map(|account| account.number));
        woken
    }

    /// How many pods that are not gone have one.
    fn in_use(&self) -> usize {
        self.by_pod.values().filter(|account| account.until.is_none()).count()
    }
}

impl Tables {
    /// The pods' counters, also of pods that are gone: what each is of.
    pub fn accounts(&self) -> impl Iterator<Item = (SocketAddr, &Account)> {
        self.accounts.by_pod.iter().map(|((_, ip, port, _), account)| (SocketAddr::new(*ip, *port), account))
    }

    /// What the traffic of a socket on a VIP is counted by.
    #[must_use]
    pub fn labels(&self, socket: &Socket) -> Option<&Labels> {
        self.services.get(socket).map(|installed| &installed.targets.labels)
    }

    /// The number of a pod's counter, and its tag; of its service's, if the pod gets none.
    pub(super) fn account(&mut self, pod: &BackendKey, labels: &Labels, tag: u32, plan: &mut Plan) -> (u32, u32) {
        match self.accounts.assign(pod, labels, tag) {
            Some((number, given)) => {
                plan.writes.push(match given {
                    Given::Fresh => Write::OpenAccount { number, tag },
                    Given::Again => Write::ResumeAccount { number, tag },
                });
                (forwarder_ebpf::limits::COUNTED + number, tag)
            }
            None => (self.counted.get(labels).unwrap_or(0), 0),
        }
    }

    /// Lets go of the counters of pods that are gone, and at last of what was counted there, which stays their service's.
    pub(super) fn settle_accounts(&mut self, now: Instant, plan: &mut Plan) {
        for Account { number, labels, tag, .. } in self.accounts.wake(now) {
            plan.writes.push(Write::CloseAccount { number, tag, service: self.counted.get(&labels) });
        }
        self.accounts.release(now, |pod| self.backends.get(pod).is_some());
        if self.without_account() > 0 && self.accounts.has_room() {
            self.give_accounts(plan);
        }
        if let Ok(without @ 1..) = u32::try_from(self.without_account()) {
            plan.limits.insert(Limit::CountedPods, without);
        }
    }

    /// A service has other labels than before: so have the counters of its pods, and the pods without one are counted by its new one.
    pub(super) fn relabel_accounts(&mut self, socket: &Socket, targets: &Targets, plan: &mut Plan) {
        let service = self.counted.get(&targets.labels).unwrap_or(0);
        for (pod, _) in backends(socket, targets) {
            if !self.accounts.relabel(&pod, &targets.labels)
                && let Some(index) = self.backends.get(&pod)
            {
                plan.writes.push(Write::Backend(index, BackendEntry { counted: service, ..backend_entry(&pod) }));
            }
        }
    }

    fn without_account(&self) -> usize {
        self.backends.iter().count().saturating_sub(self.accounts.in_use())
    }

    /// Counters for pods that found none free when they came.
    fn give_accounts(&mut self, plan: &mut Plan) {
        let without: Vec<(BackendKey, u32)> =
            self.backends.iter().filter(|(pod, _)| !self.accounts.has(pod)).map(|(pod, index)| (*pod, index)).collect();
        for (pod, index) in without {
            if !self.accounts.has_room() {
                return;
            }
            let Some(labels) = self.labels(&pod.0).cloned() else { continue };
            let mut entry = backend_entry(&pod);
            (entry.counted, entry.counted_by) = self.account(&pod, &labels, entry.tag, plan);
            plan.writes.push(Write::Backend(index, entry));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to begin at")]
mod tests {
    use super::*;
    use crate::model::{Protocol, ServiceName};

    const REST: Duration = Duration::from_secs(600);

    fn pod(number: u8) -> BackendKey {
        (
            Socket { vip: [10, 0, 0, 100].into(), port: 80, protocol: Protocol::Tcp },
            [10, 1, 0, number].into(),
            8080,
            None,
        )
    }

    fn labels() -> Labels {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        Labels { service, port: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_pod_that_is_back_in_time_has_its_counter_again_and_nobody_has_it_before() {
        let (mut accounts, start) = (Accounts::new(3, REST), Instant::now());
        assert_eq!(accounts.assign(&pod(1), &labels(), 7), Some((1, Given::Fresh)));
        accounts.release(start, |_| false);
        assert_eq!(accounts.wake(start + REST / 2), []);
        assert_eq!(accounts.assign(&pod(2), &labels(), 8), Some((2, Given::Fresh)));
        assert_eq!(accounts.assign(&pod(3), &labels(), 9), None, "that of the pod that is gone is not free yet");
        assert_eq!(accounts.assign(&pod(1), &labels(), 7), Some((1, Given::Again)));
        assert_eq!(accounts.wake(start + 2 * REST), []);
        assert_eq!(accounts.in_use(), 2);
    }

    #[test]
    fn a_counter_that_was_given_back_long_ago_is_given_to_another_pod() {
        let (mut accounts, start) = (Accounts::new(2, REST), Instant::now());
        accounts.assign(&pod(1), &labels(), 7);
        accounts.release(start, |_| false);
        accounts.release(start + REST / 2, |_| false);
        let woken: Vec<_> =
            accounts.wake(start + REST).into_iter().map(|account| (account.number, account.tag)).collect();
        assert_eq!(woken, [(1, 7)]);
        assert_eq!(accounts.assign(&pod(2), &labels(), 8), Some((1, Given::Fresh)));
    }
}
