//! Edges of the link part.

mod device;
pub mod netlink;
