//! The shared store: a small key-value contract every adapter implements ([`kv`]), the key layout
//! ([`layout`]), the operations of a cluster on top of it ([`cluster`]), an in-memory store with
//! injectable faults, and the suite every adapter passes.

mod bootstrap;
pub mod clock;
pub mod cluster;
pub mod confirmed;
pub mod conformance;
pub mod follow;
pub mod kv;
pub mod layout;
pub mod memory;
pub mod migrate;

pub use clock::boot_now;
pub use follow::{Followed, Follower};
pub use kv::{
    Compare, Fut, Health, KeyValue, Kv, LeaseId, Op, Revision, Snapshot, StoreError, StoreResult, Txn, TxnOutcome,
    Watch, WatchEvent,
};
pub use layout::Layout;
pub use memory::MemoryStore;
