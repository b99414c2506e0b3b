//! The shared store: a small key-value contract every adapter implements ([`kv`]), the key layout
//! ([`layout`]), the operations of a cluster on top of it ([`cluster`]), an in-memory store with
//! injectable faults, and the suite every adapter passes.

pub mod cluster;
pub mod kv;
pub mod layout;

pub use kv::{
    Compare, Fut, Health, KeyValue, Kv, LeaseId, Op, Revision, Snapshot, StoreError, StoreResult, Txn, TxnOutcome,
    Watch, WatchEvent,
};
