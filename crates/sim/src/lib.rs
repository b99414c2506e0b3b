//! The simulator: many members' shipped decisions and procedures in a world of pretended machines.
//!
//! - [`world`]: machines, clocks, network, store, PostgreSQL, disks, fences.
//! - [`member`]: one agent process, over the shipped `surus-core` and `surus-conduct`.
//! - [`plan`], [`faults`]: what happens to a cluster, drawn from a seed.
//! - [`invariant`]: the seven promises, one file each; [`bug`]: what they must catch.
//! - [`play`]: scenario files in this world.
//! - [`run`]: one run; [`shrink`], [`story`]: a failing one made short and told in words.

pub mod bug;
pub mod exec;
pub mod faults;
pub mod history;
pub mod invariant;
pub mod member;
pub mod plan;
pub mod play;
pub mod random;
pub mod run;
mod said;
pub mod shrink;
pub mod story;
pub mod trace;
pub mod world;
