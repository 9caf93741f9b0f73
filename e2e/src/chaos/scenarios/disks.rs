//! A bad disk on one node, then a fault elsewhere that it must help to survive.

use anyhow::Result;

use crate::{chaos::world::World, faults::disk::Disk};

/// The agent also has to come up on the full disk.
pub(crate) fn full(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    let node = world.any_but(&owner)?;
    world.on_disk(&node, Disk::tiny, Disk::fill)?;
    world.note(&node, "disk full");
    world.terminate(&node)?;
    world.start(&node)?;
    cut_owner(world)
}

pub(crate) fn hung(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    let node = world.any_but(&owner)?;
    world.on_disk(&node, Disk::that_may_hang, Disk::hang)?;
    world.note(&node, "disk hangs");
    cut_owner(world)
}

fn cut_owner(world: &mut World) -> Result<()> {
    crate::chaos::invariants::settle(world.cluster)?;
    let owner = world.owner()?;
    world.cut(&owner)
}
