//! Edges of the link part.

mod device;
pub(super) mod netlink;
