//! The prober's edges: the sockets it asks through and the task that owns the schedule.

pub mod http;
pub mod run;
pub mod tcp;
