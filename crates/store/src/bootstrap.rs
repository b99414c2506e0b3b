//! Creating a cluster in the store, exactly once.

use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::{MemberName, SystemId};

use crate::cluster::ClusterStore;
use crate::kv::{Compare, Op, StoreError, StoreResult, Txn, TxnOutcome};

impl ClusterStore {
    pub fn me(&self) -> &MemberName {
        self.name()
    }

    /// Wins the race for creating the cluster. The empty `initialize` key is bound to the session: if
    /// this process dies half-way, another member may try.
    pub async fn claim_cluster(&self, deadline: Duration) -> StoreResult<TxnOutcome> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let key = self.layout().key("initialize");
        let put = Op::Put { key: key.clone(), value: vec![], lease: Some(lease) };
        self.kv().txn(Txn { compare: vec![Compare::Absent { key }], then: vec![put] }, deadline).await
    }

    /// The new cluster's identity, its configuration and its first leader in one transaction, refused
    /// if the claim was lost meanwhile: then another member created the cluster.
    pub async fn found_cluster(
        &self,
        claim: KeyVersion,
        id: &SystemId,
        config: String,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let (initialize, leader) = (self.layout().key("initialize"), self.layout().key("leader"));
        let compare =
            vec![Compare::Version { key: initialize.clone(), version: claim }, Compare::Absent { key: leader.clone() }];
        let then = vec![
            Op::Put { key: initialize, value: id.as_str().into(), lease: None },
            Op::Put { key: self.layout().key("config"), value: config.into(), lease: None },
            Op::Put { key: leader, value: self.me().as_str().into(), lease: Some(lease) },
        ];
        self.kv().txn(Txn { compare, then }, deadline).await
    }

    /// Gives the claim back after a failure, if it is still the one made under `claim`.
    pub async fn abandon_claim(&self, claim: KeyVersion, deadline: Duration) -> StoreResult<TxnOutcome> {
        self.compare_and_delete("initialize", claim, deadline).await
    }
}
