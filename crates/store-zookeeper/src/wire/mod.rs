//! ZooKeeper's client protocol: as much of it as a store of small keys needs.
//!
//! A client library would keep a session alive by itself, also for a lease keeper that has stopped; hide what a server
//! that took the session over made of its timeout; and repeat or hold back requests unseen. What a lease may be relied
//! on for hangs on all three, so the requests are made here.

mod connection;
mod jute;
mod message;

pub(crate) use connection::{Answer, Connection, Lost, Opening, Password};
pub(crate) use message::{Acl, Code, Mode, Multi, MultiOutcome, Request, Stat, read_each, with_children};
