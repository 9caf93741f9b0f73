//! What the switch does with addresses: learns them, forgets them, or never knew them.

use anyhow::Result;

use crate::topology::Lan;

impl Lan {
    /// The switch becomes a hub: it learns no addresses, so every frame goes to every host.
    ///
    /// # Errors
    /// When `bridge` or `ip` fails.
    pub fn flood_always(&self) -> Result<()> {
        for host in self.host_names() {
            self.switch.output("bridge", &["link", "set", "dev", &host, "learning", "off", "flood", "on"], "")?;
        }
        self.forget_addresses()
    }

    /// The switch forgets every address it has learned, as on a topology change.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn forget_addresses(&self) -> Result<()> {
        self.switch.ip(&["link set br0 type bridge fdb_flush".to_owned()])
    }
}
