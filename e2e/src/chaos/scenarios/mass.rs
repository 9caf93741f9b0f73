//! Many VIPs at once.

use anyhow::Result;

use crate::chaos::world::World;

/// All VIPs have one owner when the round begins: the bed sees to it.
pub(crate) fn hundred(world: &mut World) -> Result<()> {
    let owner = world.owner()?;
    world.cut(&owner)
}
