//! The store contract on an etcd v3 cluster (`spec/dcs.md §5`).
//!
//! One client per endpoint and our own failover between them: a write whose outcome is unknown is
//! never sent twice, and one frozen member costs a share of the caller's deadline, not all of it.
//! At rest nothing is sent but lease renewals.

mod call;
mod endpoint;
mod fault;
mod keepalive;
mod options;
mod pool;
mod probe;
mod srv;
mod store;
mod watch;

pub use options::EtcdOptions;
pub use srv::discover_srv;
pub use store::EtcdStore;
