//! Ranges of addresses: reading, measuring, walking.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Of a range, no more addresses than this are used.
const MAX_RANGE: u128 = 1 << 64;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Addresses from a first to a last one, both included; of one family and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither a prefix nor a range.
    #[error("{0:?} is neither a prefix like 10.0.0.0/24 nor a range like 10.0.0.10-10.0.0.20")]
    Syntax(String),
    /// The prefix has bits set behind its length.
    #[error("{0} has bits set behind its length; did you mean {1}, or the single address {2}?")]
    HostBits(IpNet, IpNet, IpNet),
    /// IPv4 on one side, IPv6 on the other.
    #[error("{0:?} mixes IPv4 and IPv6")]
    Mixed(String),
    /// The last address is before the first.
    #[error("{0:?} ends before it begins")]
    Backwards(String),
    /// Addresses no service can have.
    #[error("{0:?} holds addresses that cannot be a VIP (unspecified, loopback, multicast, broadcast or link-local)")]
    Unusable(String),
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let syntax = || RangeError::Syntax(text.to_owned());
        let range = if let Some((first, last)) = text.split_once('-') {
            let first = first.trim().parse().map_err(|_| syntax())?;
            let last = last.trim().parse().map_err(|_| syntax())?;
            Self { first, last }
        } else {
            let net: IpNet = text.trim().parse().map_err(|_| syntax())?;
            if net.trunc() != net {
                return Err(RangeError::HostBits(net, net.trunc(), IpNet::from(net.addr())));
            }
            Self { first: net.network(), last: net.broadcast() }
        };
        if Family::of(range.first) != Family::of(range.last) {
            return Err(RangeError::Mixed(text.to_owned()));
        }
        if range.last < range.first {
            return Err(RangeError::Backwards(text.to_owned()));
        }
        if !is_possible_vip(range.first) || !is_possible_vip(range.last) {
            return Err(RangeError::Unusable(text.to_owned()));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Whether a service can have this address at all.
#[must_use]
pub fn is_possible_vip(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local() && v4.octets()[0] != 0,
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    }
}

impl Range {
    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && self.first <= address && address <= self.last
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// How many addresses it has, at most 2^64.
    #[must_use]
    pub fn size(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1).min(MAX_RANGE)
    }

    /// How many of its addresses end in .0 or .255.
    pub(super) fn buggy(&self) -> u128 {
        if self.family() == Family::V6 {
            return 0;
        }
        let (first, last) = (bits(self.first), bits(self.last));
        let upto = |n: u128| n.div_ceil(256) + n / 256;
        upto(last + 1) - upto(first)
    }

    /// The address at a position below [`Self::size`].
    pub(super) fn at(&self, position: u128) -> IpAddr {
        let number = bits(self.first).saturating_add(position);
        match self.family() {
            Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}
