//! Agents that die, hang and come back, while their nodes live on.

use anyhow::Result;

use crate::chaos::world::World;

pub(crate) fn kill_owner(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.kill(&owner)
}

pub(crate) fn kill_random(world: &mut World) -> Result<()> {
    let node = world.any()?;
    world.kill(&node)
}

/// For as long as the scenario holds.
pub(crate) fn pause(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.freeze(&owner)
}

pub(crate) fn restart_all(world: &mut World) -> Result<()> {
    let nodes = world.nodes();
    nodes.iter().try_for_each(|node| world.kill(node))?;
    nodes.iter().try_for_each(|node| world.start(node))
}

/// The successor is one of two; which, and when, is left to chance.
pub(crate) fn restart_in_takeover(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.cut(&owner)?;
    world.pass(50..450);
    let other = world.any()?;
    world.kill(&other)?;
    world.start(&other)
}
