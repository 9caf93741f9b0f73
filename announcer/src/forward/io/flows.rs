//! The flows: the maps that outlive an agent, pinned under names that tell their layout. One of today's layout is used on by
//! the next agent as it is; one of a former layout that is known ([`heritage`]) is read into a new one, while the
//! predecessor's program goes on with its own: before the programs change places, and again after that, for what
//! came about in between. Of a layout that is not known, flows are lost.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError},
};
use forwarder_ebpf::{Flow, LAYOUT_VERSION, Reply, Tuple, limits, map};
use tracing::{info, warn};

use super::{StartError, maps::take};
use crate::forward::heritage;

const FLOWS: &str = "flows_v";
const REPLIES: &str = "replies_v";
/// `BPF_NOEXIST`: what the new program knows by itself is newer.
const NO_EXIST: u64 = 1;

/// The new maps, until a predecessor's are read.
#[derive(Debug)]
pub(super) struct Flows {
    flows: HashMap<MapData, Tuple, Flow>,
    replies: HashMap<MapData, Tuple, Reply>,
    pin_dir: PathBuf,
    /// There is nothing (more) to be read.
    settled: bool,
}

impl Flows {
    /// Has the loader pin the flows, or use those that are pinned. Whether there are some of a predecessor's.
    pub(super) fn prepare<'a>(loader: &mut EbpfLoader<'a>, pin_dir: &Path) -> bool {
        for (map, prefix) in [(map::FLOWS, FLOWS), (map::REPLIES, REPLIES)] {
            loader.map_pin_path(map, pin_dir.join(pin(prefix, LAYOUT_VERSION)));
        }
        let former = former(pin_dir);
        let known = former.iter().any(|name| *name == pin(FLOWS, heritage::FORMER));
        if !former.is_empty() && !known {
            warn!(pins = ?former, "the flows of the agent before have a layout that this one does not know: they are looked for anew");
        }
        known || pin_dir.join(pin(FLOWS, LAYOUT_VERSION)).exists()
    }

    pub(super) fn take(ebpf: &mut Ebpf, pin_dir: &Path) -> Result<Self, StartError> {
        let (flows, replies) = (take(ebpf, map::FLOWS)?, take(ebpf, map::REPLIES)?);
        Ok(Self { flows, replies, pin_dir: pin_dir.to_owned(), settled: former(pin_dir).is_empty() })
    }

    /// Reads what a predecessor of a former layout knows, and this program does not.
    pub(super) fn inherit(&mut self) {
        if self.settled {
            return;
        }
        let replies = copy(&self.pin_dir.join(pin(REPLIES, heritage::FORMER)), &mut self.replies, heritage::reply_v2);
        let flows = copy(&self.pin_dir.join(pin(FLOWS, heritage::FORMER)), &mut self.flows, heritage::flow_v2);
        info!(flows, replies, "took over flows of a former layout");
    }

    /// All programs are this agent's: a predecessor's flows are of no use any more.
    pub(super) fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        for name in former(&self.pin_dir) {
            // One that stays does no harm.
            let _ = fs::remove_file(self.pin_dir.join(name));
        }
    }
}

/// Whether a pin is of flows, whatever their layout.
pub(super) fn is_pin(name: &str) -> bool {
    name.starts_with(FLOWS) || name.starts_with(REPLIES)
}

fn pin(prefix: &str, version: u32) -> String {
    format!("{prefix}{version}")
}

/// The pins of other layouts than today's.
fn former(pin_dir: &Path) -> Vec<String> {
    let own = [FLOWS, REPLIES].map(|prefix| pin(prefix, LAYOUT_VERSION));
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_pin(name) && !own.contains(name)).collect()
}

/// Copies what is missing from a pinned map of a former layout, as far as there is such a map. How much it was.
fn copy<const N: usize, V: aya::Pod>(
    path: &Path,
    to: &mut HashMap<MapData, Tuple, V>,
    convert: fn(&Tuple, &[u8; N]) -> V,
) -> usize {
    if !path.exists() {
        return 0;
    }
    let opened = MapData::from_pin(path).and_then(|data| HashMap::<_, Tuple, [u8; N]>::try_from(Map::LruHashMap(data)));
    let copied = opened.and_then(|from| {
        let mut copied = 0;
        // An entry that goes while it is read makes the kernel begin anew, so this needs a bound.
        for entry in from.iter().take(2 * limits::FLOWS as usize) {
            let (key, value) = entry?;
            match to.insert(key, convert(&key, &value), NO_EXIST) {
                Ok(()) => copied += 1,
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    });
    copied.unwrap_or_else(|error| {
        warn!(path = %path.display(), %error, "flows of a former layout could not all be taken over");
        0
    })
}
