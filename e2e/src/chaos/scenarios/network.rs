//! The owner's place in the network: links, ports, one-way streets, loss, delay.

use std::time::Duration;

use anyhow::Result;

use crate::chaos::world::World;

pub(crate) fn link_down(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.link_down(&owner)
}

pub(crate) fn cut(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.cut(&owner)
}

pub(crate) fn mute(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.mute(&owner)
}

pub(crate) fn deaf(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.deafen(&owner)
}

pub(crate) fn apart(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.set_apart(&owner, false)
}

fn lossy(world: &mut World, percent: u8) -> Result<()> {
    let owner = world.owner()?;
    world.lose(&owner, percent)
}

pub(crate) fn loss_1(world: &mut World) -> Result<()> {
    lossy(world, 1)
}

pub(crate) fn loss_5(world: &mut World) -> Result<()> {
    lossy(world, 5)
}

pub(crate) fn loss_20(world: &mut World) -> Result<()> {
    lossy(world, 20)
}

pub(crate) fn delay(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.delay(&owner, Duration::from_millis(20))
}

/// The same node each time, whoever owns the VIP by then: that is the first owner's flapping link.
pub(crate) fn flap(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    for _ in 0..5 {
        world.link_down(&owner)?;
        world.pass(500..501);
        world.heal_port(&owner)?;
        world.pass(500..501);
    }
    Ok(())
}
