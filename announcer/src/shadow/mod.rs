//! The shadow standby: carries a VIP while nobody has noticed yet that its owner's link is lost.
//!
//! A switch forgets the MACs behind a port that loses its link and floods what is addressed to them, so the frames for
//! the VIP reach every node. The one that the owner's claim names as standby ([`membership::claims::standby`]) carries
//! them; the others do not. [`wanted`](mod@wanted) says for which MACs this node stands in, [`guard`] when it may,
//! [`keeper`] keeps the guards, [`frame`] is how a standby finds out whether a segment floods always. `io` holds the
//! sockets and the kernel's maps. The fast half of the guard is in the kernel: `forwarder-ebpf/kernel/src/shadow.rs`.

pub mod frame;
pub mod guard;
mod io;
pub mod keeper;
pub mod wanted;

pub use guard::State;
pub use io::{Maps, Report, Shadowing, start};
pub use wanted::{Key, Wish, Wishes, wanted};
