//! The node's uplinks: the interfaces on which VIPs may be announced.
//!
//! `view` is what is known of them, a value; `reach` judges bridges and bonds by their ports; `io::netlink` keeps it
//! true. Ownership reads it to know which VIPs this node can carry, [`crate::announce`] to know where to answer.

mod io;
mod reach;
mod view;

pub use io::netlink::{LinkError, watch};
pub use view::{Links, Uplink};
