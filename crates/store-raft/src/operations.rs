//! The store's contract in terms of log operations; the same for a node and for a client.

use std::future::Future;
use std::time::Duration;

use surus_store::{LeaseId, StoreError, StoreResult, Txn, TxnOutcome};

use crate::types::{Applied, Operation, random_id};
use crate::wire::Reply;

pub trait Executor: Sync {
    fn execute(&self, op: Operation, deadline: Duration) -> impl Future<Output = StoreResult<Applied>> + Send;
}

pub async fn txn<E: Executor>(to: &E, txn: Txn, deadline: Duration) -> StoreResult<TxnOutcome> {
    match to.execute(txn.into(), deadline).await? {
        Applied::Written { revision } => Ok(TxnOutcome::Applied(revision)),
        Applied::Conflict => Ok(TxnOutcome::Conflict),
        Applied::LeaseGone => Err(StoreError::LeaseGone),
        other => Err(strange(other)),
    }
}

pub async fn grant<E: Executor>(to: &E, ttl: Duration, deadline: Duration) -> StoreResult<LeaseId> {
    let lease = random_id();
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    match to.execute(Operation::Grant { lease, ttl_ms }, deadline).await? {
        Applied::Done => Ok(lease),
        other => Err(strange(other)),
    }
}

pub async fn renew<E: Executor>(to: &E, lease: LeaseId, deadline: Duration) -> StoreResult<()> {
    match to.execute(Operation::Renew { lease }, deadline).await? {
        Applied::Done => Ok(()),
        Applied::LeaseGone => Err(StoreError::LeaseGone),
        other => Err(strange(other)),
    }
}

pub async fn revoke<E: Executor>(to: &E, lease: LeaseId, deadline: Duration) -> StoreResult<()> {
    match to.execute(Operation::Revoke { lease }, deadline).await? {
        Applied::Done => Ok(()),
        other => Err(strange(other)),
    }
}

fn strange(applied: Applied) -> StoreError {
    StoreError::OutcomeUnknown(format!("the embedded store gave an unexpected answer: {applied:?}"))
}

pub fn member_address(addr: &str) -> StoreResult<String> {
    crate::store::address("member", addr).map_err(|e| StoreError::Refused(e.to_string()))
}

pub fn done(reply: Reply) -> StoreResult<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed(failure) => Err(failure.into()),
        _ => Err(StoreError::OutcomeUnknown("the node gave an answer to another question".into())),
    }
}
