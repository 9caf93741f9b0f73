//! The parts of the ingress program that are programs of their own, in an array from which it enters them.
//!
//! The kernel empties such an array when no user holds it any more, whoever's programs still look at it: so it is pinned, each
//! agent's under a name of its own, for a predecessor's programs go on with theirs until they are replaced.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
};
use forwarder_ebpf::{Stage, map};

use super::{StartError, load};

const PREFIX: &str = "stages_";

/// The array of the parts, which leads to a predecessor's programs as well, while its flows are taken over.
pub(super) struct Stages {
    pub(super) array: ProgramArray<MapData>,
    /// The name of its pin.
    pub(super) pin: String,
}

/// Loads the parts, and pins their array.
pub(super) fn load(ebpf: &mut Ebpf, pin_dir: &Path) -> Result<Stages, StartError> {
    let array = ebpf.take_map(map::STAGES).ok_or(StartError::Stale(map::STAGES))?;
    let failed = |source: aya::maps::MapError| StartError::Map { name: map::STAGES, source: Box::new(source) };
    let pin = format!("{PREFIX}{:08x}", rand::random::<u32>());
    let path = pin_dir.join(&pin);
    array.pin(&path).map_err(|source| StartError::Pin { path, source: Box::new(source) })?;
    let mut array = ProgramArray::try_from(array).map_err(failed)?;
    for stage in Stage::ALL {
        let program = load::classifier(ebpf, stage.program()).ok_or(StartError::Stale(stage.program()))?;
        program.load().map_err(|source| load::program_error(stage.program(), source))?;
        let program = program.fd().map_err(|source| load::program_error(stage.program(), source))?;
        array.set(stage as u32, program, 0).map_err(failed)?;
    }
    Ok(Stages { array, pin })
}

/// Whether a pin is such an array's.
pub(super) fn is_pin(name: &str) -> bool {
    name.starts_with(PREFIX)
}
