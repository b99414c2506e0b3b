//! The embedded store: a Raft group inside the agents.

mod client;
mod error;
mod members;
mod options;
mod store;

pub use client::RaftClient;
pub use error::StartError;
pub use members::{Member, Role};
pub use options::{RaftOptions, TlsOptions};
pub use store::RaftStore;
