//! The store contract on a ZooKeeper ensemble (`spec/dcs.md §8`), version 3.6 or newer.
//!
//! A lease is a session of its own, kept by nothing but the renewals that its holder asks for; a key bound to it is an
//! ephemeral znode. Readings and watches use another session, which has no keys.

mod ensemble;
mod lease;
mod options;
mod store;
mod tls;
mod tree;
mod txn;
mod watch;
mod wire;

pub use options::{Grant, TlsFiles, ZooKeeperOptions};
pub use store::ZooKeeperStore;
