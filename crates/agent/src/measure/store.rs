//! How long the store takes to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use surus_store::kv::Fut;
use surus_store::{Health, Kv, LeaseId, Snapshot, StoreResult, Txn, TxnOutcome, Watch};

use super::Measures;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Grant,
    Renew,
    Revoke,
}

impl Operation {
    pub const ALL: [Operation; 5] =
        [Operation::Read, Operation::Write, Operation::Grant, Operation::Renew, Operation::Revoke];

    pub fn word(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Grant => "grant",
            Operation::Renew => "renew",
            Operation::Revoke => "revoke",
        }
    }
}

pub struct Measured {
    pub kv: Arc<dyn Kv>,
    pub measures: Arc<Measures>,
}

impl Measured {
    /// A request that its caller gives up, or that runs out of time there, is not counted; one that the store refused or
    /// did not answer in time is, as failed.
    fn time<'a, T: 'a>(&'a self, operation: Operation, request: Fut<'a, StoreResult<T>>) -> Fut<'a, StoreResult<T>> {
        Box::pin(async move {
            let begun = Instant::now();
            let answer = request.await;
            self.measures.request(operation, begun.elapsed(), answer.is_err());
            answer
        })
    }
}

impl Kv for Measured {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        self.time(Operation::Read, self.kv.read(prefix, deadline))
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        self.time(Operation::Write, self.kv.txn(txn, deadline))
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        self.time(Operation::Grant, self.kv.grant(ttl, deadline))
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        self.time(Operation::Renew, self.kv.renew(lease, deadline))
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        self.time(Operation::Revoke, self.kv.revoke(lease, deadline))
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.kv.watch(prefix)
    }

    fn health(&self) -> Health {
        self.kv.health()
    }

    fn complaint(&self, deadline: Duration) -> Fut<'_, Option<String>> {
        self.kv.complaint(deadline)
    }
}
