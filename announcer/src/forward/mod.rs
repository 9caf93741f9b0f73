//! Fills the kernel's maps, so that every node carries every VIP's packets.
//!
//! From what is desired, what the membership sees and the node's links, [`wanted`](mod@wanted) says what the maps
//! should hold. [`tables`] compares that with what they do hold and answers with an ordered list of map writes;
//! [`maglev`] builds the tables in it. [`io`] holds the maps and programs: it loads, pins, attaches, and carries
//! out the writes. The eBPF program itself is in `forwarder-ebpf/kernel/`.

mod clients;
pub mod connections;
pub mod counters;
mod directory;
mod index;
pub mod io;
pub mod maglev;
pub mod plan;
mod rows;
mod slots;
pub mod tables;
mod vips;
pub mod wanted;

pub use connections::{Active, Connection, Phase, Tally};
pub use counters::{Connects, Conversation, Counters, Labels, Traffic};
pub use io::{Applied, ApplyError, FlowTable, Forwarder, Info, Mode, Options, StartError, detach_all};
pub use wanted::{Link, Wanted, wanted};
