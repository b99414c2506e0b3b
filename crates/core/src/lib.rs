//! The vocabulary of a cluster and every decision about it, as pure functions.
//!
//! Nothing in here reads a clock, draws a random number, or does I/O: whatever a decision needs
//! is handed in, and whatever follows from it is handed out as data.

pub mod cluster;
pub mod ids;
pub mod postgres;
pub mod settings;
pub mod time;

pub use ids::{Lsn, MemberName, SystemId, Timeline};
pub use time::BootTime;

pub mod candidate;
pub mod divergence;
pub mod facts;
pub mod failsafe;
pub mod follow;
pub mod forked;
pub mod loss;
pub mod memory;
pub mod order;
pub mod race;
pub mod recovery;
pub mod report;
pub mod rules;
pub mod server;
pub mod slots;
pub mod stall;
pub mod step;
pub mod store;
pub mod synchronous;

pub use step::{Step, step};
