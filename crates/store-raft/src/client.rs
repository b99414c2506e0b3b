use std::time::Duration;

use surus_store::{Fut, Health, Kv, LeaseId, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch};
use tokio::sync::mpsc;

use crate::error::StartError;
use crate::members::Member;
use crate::options::TlsOptions;

/// Uses a group without being a node of it: for commands run beside the agents.
pub struct RaftClient {
    addrs: Vec<String>,
}

fn absent<T>() -> StoreResult<T> {
    Err(StoreError::Unavailable("the embedded store has not started".into()))
}

impl RaftClient {
    /// Does not wait for a node to answer: an unreachable group shows in the first request.
    pub async fn connect(
        addrs: &[String],
        _password: Option<String>,
        _tls: Option<TlsOptions>,
    ) -> Result<RaftClient, StartError> {
        Ok(RaftClient { addrs: addrs.to_vec() })
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

impl Kv for RaftClient {
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
        Health { kind: "embedded", summary: self.addrs.join(",") }
    }
}
