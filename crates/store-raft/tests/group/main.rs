//! The embedded store as its users have it: several nodes over loopback, in this process where that
//! is enough, as processes of their own where they have to die.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod changes;
mod conformance;
mod disk;
mod forming;
mod harness;
mod leases;
mod membership;
mod processes;
mod recovery;
mod security;
mod voters;
mod watches;
