//! Which service gets which addresses.
//!
//! In rounds, each in the same order on every node: services that ask for addresses get them, services whose status
//! says what they had keep it, the others choose. Of two that want the same, the one that is being served there keeps it
//! (see [`Incumbents`]); without such a one, the older gets it (by the API's creation time; without one, the first by
//! name).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Source, World,
    incumbents::{Claim, Incumbents},
};
use crate::{
    ipam::{Allocator, Family, PoolUsage, Tenant},
    model::{
        ServiceName, TrafficPolicy,
        objects::Labels,
        pool::{self, PoolWish},
        problem::Problem,
        service::{FamilyPolicy, Wish},
    },
};

/// An address of a service and the pool it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) address: IpAddr,
    pub(super) pool: String,
}

/// Addresses of services that Crier has given them, as the source remembers.
pub(in crate::model) type Given = BTreeMap<ServiceName, BTreeSet<IpAddr>>;

/// A service that asks for addresses.
type Asker<'a> = (Claim, &'a ServiceName, &'a Source, &'a Wish);

/// What [`assign`] found; problems go to the world.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// The addresses of every service that gets what it needs.
    pub(super) addresses: BTreeMap<ServiceName, Vec<Assignment>>,
    /// How full the pools are.
    pub(super) pools: BTreeMap<String, PoolUsage>,
    /// The same services, for the next time.
    pub(super) incumbents: Incumbents,
}

/// Gives every service the addresses it asks for or chooses.
pub(super) fn assign(world: &mut World, before: &Incumbents, given: &Given) -> Assigned {
    let lost = |attempt: &Attempt| {
        let served = world.services.keys().filter(|name| !before.addresses(name).is_empty());
        served.filter(|name| !attempt.addresses.contains_key(*name)).count()
    };
    let mut best = attempt(world, before, given, false);
    if lost(&best) > 0 {
        // Pools are too small for all. What is served need not suffer from it, as long as it still fits.
        let sparing = attempt(world, before, given, true);
        if lost(&sparing) < lost(&best) {
            best = sparing;
        }
    }
    let mut incumbents = Incumbents::default();
    for (name, addresses) in &best.addresses {
        if let Some((_, wish)) = world.services.get(name) {
            incumbents.insert(tenant(name, wish), addresses.iter().map(|one| one.address).collect());
        }
    }
    let pools = best.allocator.usage();
    world.problems.extend(best.problems);
    Assigned { addresses: best.addresses, pools, incumbents }
}

/// One way to give out the addresses.
struct Attempt {
    allocator: Allocator,
    addresses: BTreeMap<ServiceName, Vec<Assignment>>,
    problems: Vec<Problem>,
}

impl Attempt {
    fn pin(&mut self, world: &World, askers: &[Asker]) {
        for (_, name, source, wish) in askers {
            match pin_requested(world, &mut self.allocator, name, source, wish) {
                Ok(addresses) => drop(self.addresses.insert((*name).clone(), addresses)),
                Err(problem) => self.problems.push(*problem),
            }
        }
    }
}

/// Services for which a pool chose keep what they had `before` if `sparing`, else only if somebody new asks for it:
/// without need, choices must not depend on what this agent saw earlier.
fn attempt(world: &World, before: &Incumbents, given: &Given, sparing: bool) -> Attempt {
    let pools = world.pools.iter().map(|(name, pool)| (name.clone(), pool.addresses.clone())).collect();
    let mut done = Attempt { allocator: Allocator::new(pools), addresses: BTreeMap::new(), problems: Vec::new() };
    let mut by_age: Vec<_> = world.services.iter().collect();
    by_age.sort_by_key(|(name, (_, wish))| (wish.created.is_none(), wish.created, *name));
    let (choosers, askers): (Vec<_>, Vec<_>) =
        by_age.into_iter().partition(|(_, (_, wish))| wish.requested.1.is_empty());
    let mut askers: Vec<Asker> = askers
        .into_iter()
        .map(|(name, (source, wish))| (before.claim(&tenant(name, wish), wish), name, source, wish))
        .collect();
    // Stable: by age among equals.
    askers.sort_by_key(|(claim, ..)| *claim);
    let (served, newcomers) = askers.split_at(askers.partition_point(|(claim, ..)| *claim <= Claim::Changed));

    done.pin(world, served);
    let contested: BTreeSet<_> = newcomers.iter().flat_map(|(.., wish)| &wish.requested.1).collect();
    let mut kept: BTreeMap<&ServiceName, Vec<Assignment>> = BTreeMap::new();
    for (name, (_, wish)) in &choosers {
        let held = before.addresses(name).iter().filter(|address| sparing || contested.contains(address));
        keep(world, &mut done.allocator, name, wish, held, kept.entry(name).or_default());
    }
    done.pin(world, newcomers);
    for (name, (_, wish)) in &choosers {
        keep(world, &mut done.allocator, name, wish, &wish.previous, kept.entry(name).or_default());
    }
    for (name, (source, wish)) in choosers {
        let kept = kept.remove(name).unwrap_or_default();
        match choose(world, &mut done.allocator, name, source, wish, kept, given.get(name)) {
            Ok(addresses) => drop(done.addresses.insert(name.clone(), addresses)),
            Err(problem) => done.problems.push(*problem),
        }
    }
    done
}

fn tenant(name: &ServiceName, wish: &Wish) -> Tenant {
    Tenant {
        service: name.clone(),
        ports: wish.ports.iter().map(|port| (port.protocol, port.port)).collect(),
        share: wish.share.clone(),
        local_to: (wish.policy == TrafficPolicy::Local).then(|| wish.selector.clone()),
    }
}

fn admits(world: &World, pool: &PoolWish, name: &ServiceName, wish: &Wish) -> bool {
    let none = Labels::new();
    pool::admits(pool, name, &wish.labels, world.namespaces.get(&name.namespace).unwrap_or(&none))
}

/// The pool that a service may have this address from, or what stands against it.
fn pool_of(world: &World, name: &ServiceName, wish: &Wish, address: IpAddr) -> Result<String, String> {
    let offering: Vec<_> = world.pools.iter().filter(|(_, pool)| pool.addresses.offers(address)).collect();
    if let Some((_, wanted)) = &wish.pool {
        let there = offering.iter().find(|(pool, _)| *pool == wanted);
        if there.is_none() {
            return Err(format!("IPAddressPool {wanted}, which the service asks for, does not contain {address}"));
        }
    }
    let wanted = |pool: &str| wish.pool.as_ref().is_none_or(|(_, wanted)| wanted == pool);
    let fits = |(pool, read): &&(&String, &PoolWish)| wanted(pool) && admits(world, read, name, wish);
    if let Some((pool, _)) = offering.iter().find(fits) {
        return Ok((*pool).clone());
    }
    Err(match offering.first() {
        Some((pool, _)) => {
            format!("{address} is of IPAddressPool {pool}, whose spec.serviceAllocation does not admit this service")
        }
        None => format!("no IPAddressPool contains {address}; add it to spec.addresses of one{}", world.pool_list()),
    })
}

fn pin_requested(
    world: &World,
    allocator: &mut Allocator,
    name: &ServiceName,
    source: &Source,
    wish: &Wish,
) -> Result<Vec<Assignment>, Box<Problem>> {
    let (field, requested) = &wish.requested;
    let tenant = tenant(name, wish);
    let mut addresses: Vec<Assignment> = Vec::new();
    for address in requested {
        let pinned = pool_of(world, name, wish, *address)
            .and_then(|pool| allocator.pin(&tenant, *address).map(|()| pool).map_err(|error| error.to_string()));
        match pinned {
            Ok(pool) => addresses.push(Assignment { address: *address, pool }),
            Err(message) => {
                for done in addresses {
                    allocator.release(name, done.address);
                }
                return Err(Box::new(source.error(field, message)));
            }
        }
    }
    Ok(addresses)
}

/// Gives a service, beside what it has `kept`, those of the addresses it had that it still may have.
fn keep<'a>(
    world: &World,
    allocator: &mut Allocator,
    name: &ServiceName,
    wish: &Wish,
    had: impl IntoIterator<Item = &'a IpAddr>,
    kept: &mut Vec<Assignment>,
) {
    for address in had {
        let family = Family::of(*address);
        let wanted = match wish.families.policy {
            FamilyPolicy::Single if wish.families.named.is_empty() => kept.is_empty(),
            FamilyPolicy::Single => wish.families.named.contains(&family),
            FamilyPolicy::Prefer | FamilyPolicy::Require => true,
        };
        if !wanted || kept.iter().any(|one| Family::of(one.address) == family) {
            continue;
        }
        let Ok(pool) = pool_of(world, name, wish, *address) else { continue };
        if allocator.pin(&tenant(name, wish), *address).is_ok() {
            kept.push(Assignment { address: *address, pool });
        }
    }
}

fn choose(
    world: &World,
    allocator: &mut Allocator,
    name: &ServiceName,
    source: &Source,
    wish: &Wish,
    mut addresses: Vec<Assignment>,
    given: Option<&BTreeSet<IpAddr>>,
) -> Result<Vec<Assignment>, Box<Problem>> {
    let is_given =
        !addresses.is_empty() && addresses.iter().all(|one| given.is_some_and(|given| given.contains(&one.address)));
    let pools = match candidates(world, name, source, wish) {
        // What it was given it keeps, also from a pool that gives nobody anything unasked any more.
        Err(_) if is_given => Vec::new(),
        pools => pools?,
    };
    let has =
        |family: Family| pools.iter().any(|pool| world.pools.get(*pool).is_some_and(|pool| pool.addresses.has(family)));
    let tenant = tenant(name, wish);
    let mut failure = None;
    let wanted = families(wish, has, &addresses);
    let mut pools = pools.clone();
    // Both from one pool, if one has both: that is one segment and one advertisement.
    let mut has_all = |pool: &&str| wanted.iter().all(|family| allocator.has_room(&tenant, *family, pool));
    if wanted.len() > 1
        && let Some(both) = pools.iter().position(&mut has_all)
    {
        pools[..=both].rotate_right(1);
    }
    for family in wanted {
        match allocator.allocate(&tenant, family, &pools) {
            Ok(address) => {
                let offers = |pool: &&&str| world.pools.get(**pool).is_some_and(|pool| pool.addresses.offers(address));
                let pool = pools.iter().find(offers).map_or_else(String::new, |pool| (*pool).to_owned());
                addresses.push(Assignment { address, pool });
            }
            Err(error) => failure = Some(error),
        }
    }
    // The first family's address is the one that people look at.
    let first = wish.families.named.first().copied();
    addresses.sort_by_key(|one| first.is_some_and(|first| Family::of(one.address) != first));
    let Some(error) = failure else { return Ok(addresses) };
    if wish.families.policy == FamilyPolicy::Prefer && !addresses.is_empty() {
        return Ok(addresses);
    }
    for done in addresses {
        allocator.release(name, done.address);
    }
    let field = if has(Family::V4) && has(Family::V6) { "" } else { "spec.ipFamilies" };
    Err(Box::new(source.error(field, error.to_string())))
}

/// The pools a service may choose from.
fn candidates<'a>(
    world: &'a World,
    name: &ServiceName,
    source: &Source,
    wish: &'a Wish,
) -> Result<Vec<&'a str>, Box<Problem>> {
    let Some((field, wanted)) = &wish.pool else {
        let pools = pool::automatic(&world.pools, |pool| admits(world, pool, name, wish));
        return if pools.is_empty() {
            let message = format!(
                "no IPAddressPool may give it an address (autoAssign, serviceAllocation){}; add an IPAddressPool, or \
                 ask for one with the annotation crier.io/address-pool",
                world.pool_list()
            );
            Err(Box::new(source.error("", message)))
        } else {
            Ok(pools)
        };
    };
    match world.pools.get(wanted) {
        None => {
            let message = format!("there is no IPAddressPool named {wanted:?}{}", world.pool_list());
            Err(Box::new(source.error(field, message)))
        }
        Some(pool) if !admits(world, pool, name, wish) => {
            let message = format!("spec.serviceAllocation of IPAddressPool {wanted} does not admit this service");
            Err(Box::new(source.error(field, message)))
        }
        Some(_) => Ok(vec![wanted]),
    }
}

/// The families that a service still needs an address of.
fn families(wish: &Wish, has: impl Fn(Family) -> bool, addresses: &[Assignment]) -> Vec<Family> {
    let first = wish.families.named.first().copied();
    let order = if first == Some(Family::V6) { [Family::V6, Family::V4] } else { [Family::V4, Family::V6] };
    let wanted: Vec<_> = match wish.families.policy {
        FamilyPolicy::Single if !addresses.is_empty() => Vec::new(),
        // Nobody said which: IPv4 if there is any, as clusters default to.
        FamilyPolicy::Single => vec![first.unwrap_or(if has(Family::V4) { Family::V4 } else { Family::V6 })],
        FamilyPolicy::Prefer => {
            let there: Vec<_> = order.into_iter().filter(|family| has(*family)).collect();
            if there.is_empty() { vec![order[0]] } else { there }
        }
        FamilyPolicy::Require => order.to_vec(),
    };
    wanted.into_iter().filter(|family| !addresses.iter().any(|one| Family::of(one.address) == *family)).collect()
}
