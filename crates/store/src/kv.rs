//! The contract between a cluster and whatever stores its state.
//!
//! Keys and values are opaque here. Every adapter promises the same:
//!
//! - `read` is linearisable: it sees every write acknowledged before it was called.
//! - a transaction is atomic, and its comparisons are made against the newest state.
//! - a lease that is not renewed ends no earlier than its TTL after the store received the last
//!   renewal, and takes the keys bound to it along. It ends also when the store's own leader was lost
//!   meanwhile, without starting its time again.
//! - a watch delivers every change of the prefix in order, or says that it starts over. A store that shows states and no
//!   changes (Consul, ZooKeeper) goes from one whole state to a later one: what was overwritten in between is not seen.
//!
//! No call retries behind the caller's back past `deadline`: who holds a lease must know in time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use surus_core::store::{LeaseId, Revision, StoreError, StoreResult, TxnOutcome};
use tokio::sync::mpsc;

pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision of the last write of this key: what [`Compare::Version`] compares.
    pub version: Revision,
    pub lease: Option<LeaseId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    /// Sorted by key.
    pub keys: Vec<KeyValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    Absent { key: String },
    Version { key: String, version: Revision },
    Value { key: String, value: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
    DeletePrefix { prefix: String },
}

/// All comparisons hold, then all operations are applied; else none is.
///
/// A key may occur in one operation only; the order of operations has no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The stream begins, or begins anew after it may have missed something: forget all that was
    /// known, this is the whole prefix.
    Restarted(Snapshot),
    Put(KeyValue),
    Deleted {
        key: String,
        revision: Revision,
    },
    /// Everything up to this revision was delivered; sent after the last change of each revision, so
    /// that a reader knows when a transaction over several keys is complete.
    Progress(Revision),
    /// The stream is broken: what is known grows stale until the next `Restarted`.
    Broken(String),
}

/// A live watch. Dropping it ends it. It never ends by itself: adapters reconnect and send
/// `Broken` and `Restarted`.
pub struct Watch {
    pub events: mpsc::Receiver<WatchEvent>,
}

/// What an adapter tells operators about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// For example `embedded` or `etcd3`.
    pub kind: &'static str,
    /// A short sentence: endpoint in use, Raft leader, number of voters reachable.
    pub summary: String,
}

pub trait Kv: Send + Sync + 'static {
    /// Everything whose key starts with `prefix`.
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>>;

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>>;

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>>;

    /// Starts the lease's time again. `LeaseGone` if it has ended.
    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>>;

    /// Ends the lease now and deletes its keys. Ending a lease that is gone is no error.
    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>>;

    fn watch(&self, prefix: &str) -> Watch;

    fn health(&self) -> Health;

    /// What is wrong with a store that answers, and what an operator has to do about it. Asks the store.
    fn complaint(&self, _deadline: Duration) -> Fut<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
