//! Crier's node agent, as a library; `main.rs` is the binary `crier`.
//!
//! A service's way: [`source`] reads objects, [`model`] resolves them to what is desired, [`ownership`] decides
//! which VIPs are this node's, [`announce`] answers for them, [`selftest`] asks whether others do, [`forward`] fills the kernel's maps, [`health`] probes
//! this node's pods. [`app`] wires the parts; `io` folders hold the edges, everything beside them is pure.

pub mod announce;
pub mod app;
pub mod config;
pub mod forward;
pub mod gateway;
pub mod health;
pub mod holdup;
pub mod http;
mod io;
pub mod ipam;
pub mod link;
pub mod log;
pub mod metrics;
pub mod model;
pub mod ownership;
pub mod selftest;
pub mod serving;
pub mod shadow;
pub mod source;
pub mod wire;
