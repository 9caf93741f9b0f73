//! The chaos suite: what is done to a cluster under traffic, what must hold, and what is told of it.
//!
//! Reading order: [`scenario`] (the list: pure data and a function that strikes), [`world`] (the actions scenarios are
//! composed of, each of which knows how to undo itself), [`bounds`] (what each scenario may cost the client, and why),
//! [`run`] (one round: traffic, strike, heal, account), [`invariants`], [`wire`] and [`leaks`] (what must hold),
//! [`stats`], [`svg`], [`timeline`] and [`report`] (what is told), [`random`] (compositions nobody thought of).
//!
//! A round is repeated by the run's seed, its scenario and its number alone: each draws from a generator of its own.

pub mod bounds;
pub mod invariants;
pub mod leaks;
pub mod random;
pub mod report;
pub mod run;
pub mod scenario;
mod scenarios;
pub mod stage;
pub mod stats;
pub mod svg;
pub mod timeline;
pub mod wire;
pub mod world;
