//! The edges: the task that owns a [`crate::Cluster`], its socket and its files;
//! and the thread of its watch.
//!
//! An agent calls [`start`] and keeps the [`Handle`].

mod driver;
mod generation;
mod peers;
mod priority;
mod udp;
mod watch;

pub use driver::{Handle, Options, StartError, start};
