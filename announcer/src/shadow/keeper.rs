//! The guards of all MACs that this node stands in for: from wishes, answers, floods and time to writes and frames.
//!
//! A wish that goes while its owner is found dead lingers: somebody takes the VIP over in these moments, and what clients
//! send until they have heard of it is still addressed to the dead owner. Meanwhile the owner is asked four times a
//! second, and its answer ends it. One that goes while its owner is up goes at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use membership::NodeName;

use super::{
    guard::{Guard, Lease, Reading, State},
    wanted::{Key, Wish, Wishes},
};

/// How long a wish lingers.
const LINGER: Duration = Duration::from_secs(10);
/// Between the first numbers of two guards.
const NONCES: u64 = 1 << 32;

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The kernel's state in a slot begins afresh, and frames to this MAC are let in.
    Begin(Key, u32),
    /// Frames to the MAC are carried as the lease says.
    Tell(Key, u32, Lease),
    /// A VIP's frames are carried.
    Add(Key, IpAddr),
    /// They are not any more.
    Remove(Key, IpAddr),
    /// The MAC is shadowed no more.
    End(Key),
    /// Ask the agent at this MAC.
    Ask(Key, u64),
    /// Ask the network stack at this MAC, by one of its addresses.
    Knock(Key, Vec<IpAddr>),
    /// To be logged: the MAC's owner, and how its guard is now.
    Changed(Key, NodeName, State),
}

/// A guarded MAC.
#[derive(Debug)]
struct Kept {
    wish: Wish,
    slot: u32,
    guard: Guard,
    shown: State,
    /// It is wished no more, and goes then.
    until: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Keeper {
    slots: u32,
    pairs: usize,
    nonce: u64,
    kept: BTreeMap<Key, Kept>,
    actions: Vec<Action>,
    stand_downs: u64,
    left_out: u64,
}

impl Keeper {
    /// A keeper with room for `slots` MACs and `pairs` of a MAC and a VIP. Numbers of asks begin at `nonce`: not where
    /// those of an earlier life of this agent were.
    #[must_use]
    pub fn new(slots: u32, pairs: usize, nonce: u64) -> Self {
        Self { slots, pairs, nonce, kept: BTreeMap::new(), actions: Vec::new(), stand_downs: 0, left_out: 0 }
    }

    /// Stand in for exactly these.
    pub fn set(&mut self, wishes: &Wishes, now: Instant) {
        let keys: Vec<Key> = self.kept.keys().copied().collect();
        for key in keys {
            if wishes.shadows.contains_key(&key) {
                continue;
            }
            let armed = self.kept.get(&key).is_some_and(|kept| kept.guard.is_armed());
            if wishes.present.contains(&key.mac) || !armed {
                self.end(key);
            } else if let Some(kept) = self.kept.get_mut(&key) {
                kept.until.get_or_insert(now + LINGER);
                kept.guard.doubt(true);
            }
        }
        let mut left_out = 0;
        for (key, wish) in &wishes.shadows {
            left_out += self.wish(*key, wish, now);
        }
        self.left_out += left_out;
    }

    /// The kernel tells that a flood to the MAC of a slot begins.
    pub fn handle_flood(&mut self, slot: u32, now: Instant) {
        if let Some(kept) = self.kept.values_mut().find(|kept| kept.slot == slot) {
            kept.guard.handle_flood(now);
        }
    }

    /// An answer from a MAC. One whose owner was found dead is alive after all: this node is the one that is cut off, and
    /// the owner names another standby, which must find no other armed.
    pub fn handle_answer(&mut self, key: Key, nonce: u64, now: Instant) {
        let Some(kept) = self.kept.get_mut(&key) else { return };
        if kept.guard.handle_answer(nonce, now) && kept.until.is_some() {
            self.end(key);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.kept.values().flat_map(|kept| [Some(kept.guard.poll_timeout()), kept.until]).flatten().min()
    }

    /// Does what is due. `read` gives what the kernel has noted in a slot; a slot that cannot be read is left alone,
    /// and its lease ends.
    pub fn handle_timeout(&mut self, read: impl Fn(u32) -> Option<Reading>, now: Instant) {
        let over = |kept: &Kept| kept.until.is_some_and(|until| until <= now);
        let ended: Vec<Key> = self.kept.iter().filter(|(_, kept)| over(kept)).map(|(key, _)| *key).collect();
        for key in ended {
            self.end(key);
        }
        for (key, kept) in &mut self.kept {
            if kept.guard.poll_timeout() > now {
                continue;
            }
            let Some(reading) = read(kept.slot) else { continue };
            let todo = kept.guard.step(reading, now);
            self.actions.extend(todo.tell.map(|lease| Action::Tell(*key, kept.slot, lease)));
            self.stand_downs += u64::from(todo.stood_down);
            if todo.knock {
                self.actions.push(Action::Knock(*key, kept.wish.addresses.clone()));
            }
            self.actions.extend(todo.ask.map(|nonce| Action::Ask(*key, nonce)));
            let state = kept.guard.state(now);
            if std::mem::replace(&mut kept.shown, state) != state {
                self.actions.push(Action::Changed(*key, kept.wish.owner.clone(), state));
            }
        }
    }

    /// What is to be done now.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The MACs and VIPs that the kernel was told of.
    pub fn pairs(&self) -> impl Iterator<Item = (Key, &BTreeSet<IpAddr>)> {
        self.kept.iter().map(|(key, kept)| (*key, &kept.wish.vips))
    }

    /// All shadowed MACs, with their owners and how their guards are.
    pub fn states(&self) -> impl Iterator<Item = (Key, &NodeName, State)> {
        self.kept.iter().map(|(key, kept)| (*key, &kept.wish.owner, kept.shown))
    }

    /// How often guards have stood down.
    #[must_use]
    pub fn stand_downs(&self) -> u64 {
        self.stand_downs
    }

    /// How often a MAC or VIP was left out for lack of room.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes a wish in. How much of it had to be left out.
    fn wish(&mut self, key: Key, wish: &Wish, now: Instant) -> u64 {
        let free = self.free_slot();
        let mut pairs = self.kept.values().map(|kept| kept.wish.vips.len()).sum::<usize>();
        if !self.kept.contains_key(&key) {
            let Some(slot) = free else { return 1 };
            self.nonce = self.nonce.wrapping_add(NONCES);
            let guard = Guard::new(now, self.nonce);
            let shown = guard.state(now);
            let wish = Wish { vips: BTreeSet::new(), ..wish.clone() };
            self.kept.insert(key, Kept { wish, slot, guard, shown, until: None });
            self.actions.push(Action::Begin(key, slot));
            self.actions.push(Action::Tell(key, slot, Lease { until: None, round: 1 }));
        }
        let Some(kept) = self.kept.get_mut(&key) else { return 1 };
        kept.until = None;
        kept.guard.doubt(false);
        kept.wish.owner.clone_from(&wish.owner);
        kept.wish.addresses.clone_from(&wish.addresses);
        let gone: Vec<IpAddr> = kept.wish.vips.difference(&wish.vips).copied().collect();
        for vip in gone {
            kept.wish.vips.remove(&vip);
            pairs -= 1;
            self.actions.push(Action::Remove(key, vip));
        }
        let mut left_out = 0;
        for vip in &wish.vips {
            if kept.wish.vips.contains(vip) {
                continue;
            }
            if pairs >= self.pairs {
                left_out += 1;
                continue;
            }
            pairs += 1;
            kept.wish.vips.insert(*vip);
            self.actions.push(Action::Add(key, *vip));
        }
        left_out
    }

    fn free_slot(&self) -> Option<u32> {
        let used: BTreeSet<u32> = self.kept.values().map(|kept| kept.slot).collect();
        (0..self.slots).find(|slot| !used.contains(slot))
    }

    fn end(&mut self, key: Key) {
        let Some(kept) = self.kept.remove(&key) else { return };
        self.actions.push(Action::End(key));
        self.actions.extend(kept.wish.vips.iter().map(|vip| Action::Remove(key, *vip)));
    }
}

#[cfg(test)]
mod tests;
