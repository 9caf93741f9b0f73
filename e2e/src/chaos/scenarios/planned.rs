//! Moves that someone wanted.

use anyhow::Result;

use crate::chaos::world::World;

pub(crate) fn drain(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.drain(&owner)
}

pub(crate) fn sigterm(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.terminate(&owner)
}
