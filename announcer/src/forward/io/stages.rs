//! The parts of the ingress program that are programs of their own, in an array from which it enters them.
//!
//! The kernel empties such an array when no user holds it any more, whoever's programs still look at it: so it is pinned, each
//! agent's under a name of its own, for a predecessor's programs go on with theirs until they are replaced. Just before programs
//! are attached, not earlier: a pin holds all maps, and those of a load that is given up would stay for good.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, ProgramArray},
    pin::PinError,
};
use forwarder_ebpf::{Stage, map};

use super::{StartError, load};

const PREFIX: &str = "stages_";

/// The array of the parts, which leads to a predecessor's programs as well, while its flows are taken over.
pub(super) struct Stages {
    pub(super) array: ProgramArray<MapData>,
    /// The name of its pin.
    pub(super) pin: String,
    /// The array once more, until it is pinned: aya pins one only as it gives it up.
    unpinned: Option<MapData>,
    /// The pin, while no program that needs it is attached.
    idle: Option<PathBuf>,
}

impl Stages {
    /// Keeps the array from now on, whatever becomes of this agent, unless nothing is attached after all.
    pub(super) fn pin(&mut self, pin_dir: &Path) -> Result<(), (PathBuf, PinError)> {
        let Some(array) = &self.unpinned else { return Ok(()) };
        let path = pin_dir.join(&self.pin);
        array.pin(&path).map_err(|error| (path.clone(), error))?;
        (self.unpinned, self.idle) = (None, Some(path));
        Ok(())
    }

    /// A program that enters the parts is attached.
    pub(super) fn are_in_use(&mut self) {
        self.idle = None;
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        if let Some(path) = &self.idle {
            let _ = fs::remove_file(path);
        }
    }
}

/// Loads the parts.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<Stages, StartError> {
    let Some(Map::ProgramArray(array)) = ebpf.take_map(map::STAGES) else {
        return Err(StartError::Stale(map::STAGES));
    };
    let failed = |source: MapError| StartError::Map { name: map::STAGES, source: Box::new(source) };
    let pin = format!("{PREFIX}{:08x}", rand::random::<u32>());
    let twin = array.fd().as_fd().try_clone_to_owned().map_err(MapError::from).and_then(MapData::from_fd);
    let unpinned = Some(twin.map_err(failed)?);
    let mut array = ProgramArray::try_from(Map::ProgramArray(array)).map_err(failed)?;
    for stage in Stage::ALL {
        let program = load::classifier(ebpf, stage.program()).ok_or(StartError::Stale(stage.program()))?;
        program.load().map_err(|source| load::program_error(stage.program(), source))?;
        let program = program.fd().map_err(|source| load::program_error(stage.program(), source))?;
        array.set(stage as u32, program, 0).map_err(failed)?;
    }
    Ok(Stages { array, pin, unpinned, idle: None })
}

/// Whether a pin is such an array's.
pub(super) fn is_pin(name: &str) -> bool {
    name.starts_with(PREFIX)
}
