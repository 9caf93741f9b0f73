//! Waiting for conditions, and what hosts know of each other.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::topology::{Host, Mac};

/// Calls `attempt` until it succeeds, ever less often (5 to 100 ms), and gives its value.
///
/// # Errors
/// After `timeout`: what was waited for, and why the last attempt failed.
pub fn eventually<T>(timeout: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= timeout => {
                return Err(error).with_context(|| format!("waited {timeout:?} in vain: {what}"));
            }
            Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Calls `check` again and again for `time`: what must hold throughout.
///
/// # Errors
/// At the first failure: what should have held, and how it did not.
pub fn throughout(time: Duration, what: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        check().with_context(|| format!("did not hold after {:?}: {what}", start.elapsed()))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[derive(Deserialize)]
struct NeighbourEntry {
    lladdr: Option<String>,
}

/// The hardware address the host has in its neighbour table for `address`; `None` without a resolved entry.
///
/// # Errors
/// When `ip` fails.
pub fn neighbour(host: &Host, address: IpAddr) -> Result<Option<Mac>> {
    let text = host.ns.output("ip", &["-j", "neigh", "show", "to", &address.to_string()], "")?;
    let entries: Vec<NeighbourEntry> = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text })?;
    Ok(entries.into_iter().find_map(|entry| entry.lladdr).as_deref().and_then(parse_mac))
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    Some(Mac(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_as_it_prints() {
        let mac = Mac([2, 0xc7, 0, 1, 2, 0xfe]);
        assert_eq!(parse_mac(&mac.to_string()), Some(mac));
        assert_eq!(parse_mac("02:c7"), None);
    }

    #[test]
    fn what_never_happens_is_named_with_its_last_reason() {
        let never: Result<()> = eventually(Duration::ZERO, "pigs fly", || anyhow::bail!("no wings"));
        let text = format!("{:#}", never.expect_err("never"));
        assert!(text.contains("pigs fly") && text.contains("no wings"), "{text}");
    }
}
