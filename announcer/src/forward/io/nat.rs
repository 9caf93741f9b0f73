//! What this machine has for connections to translated backends: ports, and whether a predecessor has left any.

use std::{fs, ops::RangeInclusive};

use aya::{
    Ebpf,
    maps::{Array, MapError},
};
use forwarder_ebpf::{
    Pod,
    limits::{NAT_FIRST, NAT_PORTS},
    map,
};
use tracing::warn;

use super::StartError;

/// From which ports the kernel takes those of this machine's own connections, both families.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Fewer ports than these are no range to choose.
const ENOUGH: u16 = 4_096;
/// Ports below these are servers'.
const LOWEST: u16 = 1_024;

/// The ports from which connections to translated backends come: outside of those that this machine's own connections get.
pub(super) fn ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string(LOCAL_PORTS).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    let local = numbers.next().zip(numbers.next()).map(|(low, high)| low..=high);
    let preferred = NAT_FIRST..=NAT_FIRST + (NAT_PORTS - 1);
    let Some(local) = local else { return preferred };
    beside(&local).unwrap_or_else(|| {
        warn!(
            ?local,
            ports = ?preferred,
            "net.ipv4.ip_local_port_range leaves no ports for translated connections; theirs may be taken by this machine's own"
        );
        preferred
    })
}

/// The best range beside that of a machine's own connections.
fn beside(local: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let (low, high) = (*local.start(), *local.end());
    let below = |first: u16| (low >= first.saturating_add(ENOUGH)).then(|| first..=low - 1);
    let above = || (high <= u16::MAX - ENOUGH).then(|| high + 1..=u16::MAX);
    below(NAT_FIRST).or_else(above).or_else(|| below(LOWEST))
}

/// Whether flows to a translated backend may be among those that were found.
pub(super) fn is_inherited(ebpf: &Ebpf) -> Result<bool, StartError> {
    let map = ebpf.map(map::PODS).ok_or(StartError::Stale(map::PODS))?;
    let failed = |source: MapError| StartError::Map { name: map::PODS, source: Box::new(source) };
    let pods = Array::<_, Pod>::try_from(map).map_err(failed)?;
    for pod in pods.iter() {
        if pod.map_err(failed)?.way == Pod::TRANSLATED {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_none_that_the_machines_own_connections_get() {
        let cases = [
            (32_768..=60_999, Some(10_000..=32_767)),
            (16_000..=65_535, Some(10_000..=15_999)),
            (10_000..=60_000, Some(60_001..=65_535)),
            (10_240..=65_535, Some(1_024..=10_239)),
            (1_024..=65_535, None),
        ];
        for (local, expected) in cases {
            assert_eq!(beside(&local), expected, "{local:?}");
        }
    }
}
