//! Edges of the link part.

pub mod netlink;
