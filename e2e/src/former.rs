//! Agents of former versions, as far as they are known by what they left: flows in a layout of that time.

use std::{fs, path::Path};

use anyhow::{Result, anyhow, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use forwarder_ebpf::{Flow, LAYOUT_VERSION, Reply, Tuple, limits};

/// Puts in the place of the flows below a pin directory the same flows as an agent of layout version 2 would have left them.
/// Those that its programs, which go on, note after that are missing.
///
/// # Errors
/// When the flows are not there, or the kernel refuses.
pub fn make_flows_of_version_2(pin_dir: &Path) -> Result<()> {
    let flows = rewrite(pin_dir, "flows", |flow: &Flow| {
        let words = [flow.backend, flow.tag, flow.counted, flow.seen];
        let ports = [flow.port, flow.closed].concat();
        [flow.address.to_vec(), ports, words.into_iter().flat_map(u32::to_ne_bytes).collect()].concat()
    })?;
    let replies = rewrite(pin_dir, "replies", |reply: &Reply| {
        let words = [reply.counted, reply.seen];
        [reply.vip.to_vec(), [reply.port, [0; 2]].concat(), words.into_iter().flat_map(u32::to_ne_bytes).collect()]
            .concat()
    })?;
    ensure!(flows > 0 && replies > 0, "{flows} flows and {replies} replies: a test of nothing");
    Ok(())
}

/// How many entries there were.
fn rewrite<V: aya::Pod>(pin_dir: &Path, name: &str, old: impl Fn(&V) -> Vec<u8>) -> Result<usize> {
    let current = pin_dir.join(format!("{name}_v{LAYOUT_VERSION}"));
    let from: HashMap<_, Tuple, V> = HashMap::try_from(Map::LruHashMap(MapData::from_pin(&current)?))?;
    let entries = from.iter().collect::<Result<Vec<_>, _>>()?;
    let path = pin_dir.join(format!("{name}_v2"));
    match entries.first().map(|(_, value)| old(value).len()) {
        Some(36) => fill::<36, V>(&path, &entries, old)?,
        Some(28) => fill::<28, V>(&path, &entries, old)?,
        other => bail!("{name}: entries of {other:?} bytes"),
    }
    fs::remove_file(current)?;
    Ok(entries.len())
}

fn fill<const N: usize, V: aya::Pod>(path: &Path, entries: &[(Tuple, V)], old: impl Fn(&V) -> Vec<u8>) -> Result<()> {
    // Not one that forgets by itself, as the real ones are: of these nothing must be forgotten.
    let mut to: HashMap<MapData, Tuple, [u8; N]> = HashMap::create(limits::FLOWS, 0)?;
    for (tuple, value) in entries {
        let value = <[u8; N]>::try_from(old(value)).map_err(|value| anyhow!("{} bytes", value.len()))?;
        to.insert(*tuple, value, 0)?;
    }
    Ok(to.pin(path)?)
}
