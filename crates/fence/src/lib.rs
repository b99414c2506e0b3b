//! The fence: a tiny process beside the agent that ends PostgreSQL when the agent no longer prolongs its lead.
//!
//! An agent that is killed, frozen or starved cannot stop its primary before another member is promoted. The fence can:
//! it knows the end of the lead on the boot-time clock, and when that passes it kills the server, whatever state the
//! server, the agent or the store is in. It does nothing else, waits for no disk and no network, and needs no privilege
//! beyond PostgreSQL's own.
//!
//! [`Device`] is what ends the whole machine, where there is one.

mod client;
mod device;
mod memory;
mod process;
mod protocol;
mod standing;
mod trial;

pub use client::{FenceClient, FenceError, own_program};
pub use device::{Device, Driver, usable};
pub use memory::give_back;
pub use process::{ServeOptions, serve};
pub use protocol::{Ask, Fired, Meeting, Postmaster, State, VERSION, resolved};
pub use standing::Standing;
pub use trial::{Trial, trial, victim};
