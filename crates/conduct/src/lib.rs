//! The order in which a member does things, without a clock, a runtime or I/O: what `surus-core` decides is
//! carried out here against hands that are lent, the agent's real ones or a simulator's.
//!
//! - [`callbacks`]: which of the user's callbacks is due when.
//! - [`failsafe`]: who is asked to vouch for a primary without the store, and when; what the store says about it.
//! - [`fence`]: when the fence stands guard.
//! - [`lease`]: the lease keeper, a state machine that says which request to make next.
//! - [`member`]: what a step is shown, and its orders one deed after the other.
//! - [`migrate`]: how the leader moves the cluster to another store.
//! - [`pause`]: how a primary comes to be left alone while paused.
//! - [`publish`]: the member key, and when it is written.
//! - [`task`]: the long operations, async procedures over [`task::Hands`].
//! - [`watchdog`]: when a hardware watchdog is started, kept alive and stopped.

pub mod callbacks;
pub mod failsafe;
pub mod fence;
pub mod lease;
pub mod member;
pub mod migrate;
pub mod pause;
pub mod publish;
pub mod race;
pub mod task;
pub mod watchdog;
