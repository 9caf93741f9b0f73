//! Which address a service gets: the same answer on every node, without a word between them.
//!
//! First the services that ask for an address get it ([`Allocator::pin`]), then the others choose
//! ([`Allocator::allocate`]): a hash of the service's name says where in the pool it starts to look and in which
//! steps it goes on. So a choice depends on other services only where two want the same address, and adding a
//! service moves, at most, one that collides with it. Ranges are filled in the order in which the pool lists them:
//! a range added at the end moves nothing. Nothing is ever enumerated beyond the addresses that are taken, so a /64
//! costs what a /28 costs.

mod range;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::{Protocol, ServiceName};
pub use range::{Family, Range, RangeError, is_possible_vip};

/// Addresses to choose from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// The ranges, in the order in which they are filled.
    pub ranges: Vec<Range>,
    /// Leaves out IPv4 addresses that end in .0 and .255.
    pub avoid_buggy: bool,
}

impl Pool {
    /// Whether a service may have this address from it.
    #[must_use]
    pub fn offers(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) && !(self.avoid_buggy && is_buggy(address))
    }

    /// Whether it has addresses of the family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }

    /// How many addresses of the family it offers, ranges of 2^64 and more counting 2^64.
    #[must_use]
    pub fn size(&self, family: Family) -> u128 {
        let mut ranges: Vec<_> = self.ranges.iter().filter(|range| range.family() == family).copied().collect();
        ranges.sort_unstable();
        let mut apart: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match apart.last_mut() {
                Some(before) if before.overlaps(&range) => before.last = before.last.max(range.last),
                _ => apart.push(range),
            }
        }
        let buggy = |range: &Range| if self.avoid_buggy { range.buggy() } else { 0 };
        apart.iter().fold(0, |sum: u128, range| sum.saturating_add(range.size() - buggy(range)))
    }
}

/// Whether it ends in .0 or .255, which some old devices take for a network or broadcast address.
fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its addresses; a range of more than 2^64 counts 2^64.
    pub addresses: u128,
    /// Those that a service has.
    pub used: usize,
    /// A family of which all are taken, and how many that is.
    pub full: Option<(Family, u128)>,
}

/// A service as far as sharing addresses is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub service: ServiceName,
    /// The ports it occupies on its addresses.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Tenants with the same key may share an address if their ports differ.
    pub share: Option<String>,
    /// With `externalTrafficPolicy: Local`: the pods it selects. Tenants of one address must agree on it, or the
    /// address would have to be at two nodes.
    pub local_to: Option<BTreeMap<String, String>>,
}

impl Tenant {
    fn may_share_with(&self, other: &Self) -> bool {
        self.share.is_some()
            && self.share == other.share
            && self.local_to == other.local_to
            && self.ports.is_disjoint(&other.ports)
    }
}

/// Why a service does not get an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Another service has the address.
    #[error("{}", taken(.address, .holder, .port.as_ref(), *.same_key))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceName,
        /// A port both want.
        port: Option<(Protocol, u16)>,
        /// Both have the same sharing key.
        same_key: bool,
    },
    /// All addresses of the pools are taken.
    #[error("no {family} address is left: {}", counts(.pools))]
    Exhausted {
        /// The family that was asked for.
        family: Family,
        /// The pools that were asked: name, addresses of the family, how many of them are taken.
        pools: Vec<(String, u128, usize)>,
    },
}

fn taken(address: &IpAddr, holder: &ServiceName, port: Option<&(Protocol, u16)>, same_key: bool) -> String {
    match (port, same_key) {
        (Some((protocol, port)), _) => format!(
            "{address} port {port}/{} already belongs to Service {holder}; change the address or the port of one of them",
            format!("{protocol:?}").to_uppercase()
        ),
        (None, false) => format!(
            "{address} already belongs to Service {holder}; to share it, give both services the annotation \
             crier.io/allow-shared-ip with the same value"
        ),
        (None, true) => format!(
            "{address} already belongs to Service {holder}; services with externalTrafficPolicy: Local share an \
             address only with those that have the same policy and selector"
        ),
    }
}

fn counts(pools: &[(String, u128, usize)]) -> String {
    let one = |(name, size, used): &(String, u128, usize)| format!("pool {name} has {size}, {used} taken");
    if pools.is_empty() {
        return "no pool that the service may use has addresses of this family; add some to spec.addresses of one"
            .to_owned();
    }
    format!("{}; add addresses to a pool or remove a service", pools.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// Who has which address. Built anew for each decision: pins first, then choices, each in one order on all nodes.
#[derive(Debug, Default)]
pub struct Allocator {
    pools: BTreeMap<String, Pool>,
    tenants: BTreeMap<IpAddr, Vec<Tenant>>,
    by_share: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Pools in which a lone tenant found nothing; nothing is given back, so the next one need not look.
    full: BTreeSet<(String, Family)>,
}

impl Allocator {
    /// With all addresses free.
    #[must_use]
    pub fn new(pools: BTreeMap<String, Pool>) -> Self {
        Self { pools, ..Self::default() }
    }

    /// Gives a tenant an address it asks for, in a pool or not.
    ///
    /// # Errors
    /// [`AllocateError::Taken`] if another has it and it cannot be shared; nothing has changed then.
    pub fn pin(&mut self, tenant: &Tenant, address: IpAddr) -> Result<(), AllocateError> {
        let others = self.tenants.get(&address).map(Vec::as_slice).unwrap_or_default();
        if let Some(other) = others.iter().find(|other| !tenant.may_share_with(other)) {
            return Err(AllocateError::Taken {
                address,
                holder: other.service.clone(),
                port: tenant.ports.intersection(&other.ports).next().copied(),
                same_key: tenant.share.is_some() && tenant.share == other.share,
            });
        }
        if let Some(share) = &tenant.share {
            self.by_share.entry(share.clone()).or_default().insert(address);
        }
        self.tenants.entry(address).or_default().push(tenant.clone());
        Ok(())
    }

    /// Takes back an address given to a service, if it has it.
    pub fn release(&mut self, service: &ServiceName, address: IpAddr) {
        if let Some(tenants) = self.tenants.get_mut(&address) {
            tenants.retain(|tenant| tenant.service != *service);
            if tenants.is_empty() {
                self.tenants.remove(&address);
            }
            self.full.clear();
        }
    }

    /// Chooses an address of the family for a tenant: from the first of the named pools that has one left. An
    /// address that the tenant can share goes before a free one.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`] if none is left; nothing has changed then.
    pub fn allocate(&mut self, tenant: &Tenant, family: Family, pools: &[&str]) -> Result<IpAddr, AllocateError> {
        for name in pools {
            let Some(address) = self.look(tenant, family, name) else { continue };
            self.pin(tenant, address)?;
            return Ok(address);
        }
        let describe = |name: &&str| {
            let pool = self.pools.get(*name)?;
            let used = self.used(pool, family);
            pool.has(family).then(|| ((*name).to_owned(), pool.size(family), used))
        };
        Err(AllocateError::Exhausted { family, pools: pools.iter().filter_map(describe).collect() })
    }

    /// Whether a pool has an address of the family for a tenant.
    pub fn has_room(&mut self, tenant: &Tenant, family: Family, pool: &str) -> bool {
        self.look(tenant, family, pool).is_some()
    }

    fn look(&mut self, tenant: &Tenant, family: Family, pool: &str) -> Option<IpAddr> {
        let found = self.find(tenant, family, pool);
        if found.is_none() {
            self.full.insert((pool.to_owned(), family));
        }
        found
    }

    /// How many addresses of a pool's family are taken.
    fn used(&self, pool: &Pool, family: Family) -> usize {
        self.tenants.keys().filter(|address| Family::of(**address) == family && pool.offers(**address)).count()
    }

    /// How full every pool is.
    #[must_use]
    pub fn usage(&self) -> BTreeMap<String, PoolUsage> {
        self.pools.iter().map(|(name, pool)| (name.clone(), self.usage_of(pool))).collect()
    }

    fn usage_of(&self, pool: &Pool) -> PoolUsage {
        let mut usage = PoolUsage::default();
        for family in [Family::V4, Family::V6].into_iter().filter(|family| pool.has(*family)) {
            let (size, used) = (pool.size(family), self.used(pool, family));
            usage.addresses = usage.addresses.saturating_add(size);
            usage.used += used;
            if used as u128 >= size {
                usage.full = usage.full.or(Some((family, size)));
            }
        }
        usage
    }

    fn find(&self, tenant: &Tenant, family: Family, name: &str) -> Option<IpAddr> {
        let pool = self.pools.get(name)?;
        let usable = |address: &IpAddr| {
            let tenants = self.tenants.get(address).map(Vec::as_slice).unwrap_or_default();
            pool.offers(*address) && tenants.iter().all(|other| tenant.may_share_with(other))
        };
        let shared = tenant.share.as_ref().and_then(|share| self.by_share.get(share)).into_iter().flatten();
        let shared = shared.copied().find(|address| Family::of(*address) == family && usable(address));
        if shared.is_some() || self.full.contains(&(name.to_owned(), family)) {
            return shared;
        }
        let seed = match &tenant.share {
            Some(share) => format!("share {share}"),
            None => tenant.service.to_string(),
        };
        let ranges = pool.ranges.iter().filter(|range| range.family() == family);
        ranges.flat_map(|range| Probe::new(range, &seed)).find(usable)
    }
}

/// Walks all addresses of a range once, from a start and in steps that follow from a seed.
struct Probe<'a> {
    range: &'a Range,
    size: u128,
    step: u128,
    next: u128,
    left: u128,
}

impl<'a> Probe<'a> {
    fn new(range: &'a Range, seed: &str) -> Self {
        let size = range.size();
        let hash = |salt| u128::from(xxh3_64_with_seed(seed.as_bytes(), salt));
        // A step without a common divisor with the size reaches every position; 1 is such a step.
        let mut step = hash(2) % size;
        while gcd(step, size) != 1 {
            step = (step + 1) % size.max(2);
        }
        Self { range, size, step, next: hash(1) % size, left: size }
    }
}

impl Iterator for Probe<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let address = self.range.at(self.next);
        self.next = (self.next + self.step) % self.size;
        Some(address)
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
