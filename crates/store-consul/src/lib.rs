//! The store contract on a Consul cluster, over its HTTP interface (`spec/dcs.md §7`).
//!
//! A lease is a session, and a key bound to a lease is locked by that session. Consul ends a session as late as twice its
//! TTL after the last renewal, so sessions get half of what is asked for. Consul shows states and no changes: a watch is a
//! reading that waits, and goes from one whole state to a later one.
//!
//! At rest nothing is sent but the renewals and one waiting reading per watch.

mod call;
mod endpoint;
mod fault;
mod kv;
mod options;
mod pool;
mod service;
mod session;
mod store;
mod tls;
mod txn;
mod watch;

pub use options::{Consistency, ConsulOptions};
pub use store::ConsulStore;
