//! The embedded store: a Raft group inside the agents.
//!
//! The consensus is openraft's; ours are the state machine (keys, leases, watches), the log file, the
//! connections, forming and joining, the timing of elections, and replicated lease time. Everything
//! generic stays in here behind [`RaftStore`], a node, and [`RaftClient`], which uses a group from outside.

mod client;
mod clock;
mod connection;
mod disk;
mod election;
mod electorate;
mod error;
mod form;
mod format;
mod handshake;
mod host;
mod log_store;
mod machine;
mod members;
mod membership;
mod network;
mod node;
mod operations;
mod options;
mod peers;
mod propose;
mod records;
mod recover;
mod server;
#[cfg(test)]
mod simulated;
mod state;
mod store;
mod timing;
mod tls;
mod types;
mod upkeep;
mod voters;
mod watching;
mod wire;

pub use client::RaftClient;
pub use error::StartError;
pub use members::{Member, Role};
pub use options::{RaftOptions, TlsOptions};
pub use recover::{Others, Survivor, position};
pub use store::RaftStore;
pub use timing::REPLACE_AFTER;
