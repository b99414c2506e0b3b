//! The operations of one cluster on its store, over any [`Kv`] adapter (`spec/dcs.md §3`).
//!
//! One session lease per process carries this member's key and, while it leads, the leader key:
//! renewing the lease is the only regular request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::MemberName;
use surus_core::cluster::{ClusterView, KeyVersion};

use crate::kv::{Compare, Kv, LeaseId, Op, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch};
use crate::layout::Layout;

pub struct ClusterStore {
    kv: Arc<dyn Kv>,
    layout: Layout,
    me: MemberName,
    lease: Mutex<Option<LeaseId>>,
}

/// How an attempt to take the lead ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeLead {
    Taken(KeyVersion),
    /// Somebody else has it.
    Lost,
}

impl ClusterStore {
    pub fn new(kv: Arc<dyn Kv>, layout: Layout, me: MemberName) -> ClusterStore {
        ClusterStore { kv, layout, me, lease: Mutex::new(None) }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    pub fn lease(&self) -> Option<LeaseId> {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_lease(&self, lease: Option<LeaseId>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    pub async fn read(&self, deadline: Duration) -> StoreResult<ClusterView> {
        let snapshot = self.kv.read(self.layout.prefix(), deadline).await?;
        Ok(self.view(&snapshot))
    }

    pub fn view(&self, snapshot: &Snapshot) -> ClusterView {
        self.layout.view(snapshot)
    }

    pub fn watch(&self) -> Watch {
        self.kv.watch(self.layout.prefix())
    }

    /// A new session lease for this process; an older one is left to end by itself.
    pub async fn open_session(&self, ttl: Duration, deadline: Duration) -> StoreResult<LeaseId> {
        let lease = self.kv.grant(ttl, deadline).await?;
        self.set_lease(Some(lease));
        Ok(lease)
    }

    /// Renews the session lease. `LeaseGone` leaves this process without a session.
    pub async fn renew_session(&self, deadline: Duration) -> StoreResult<()> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let renewed = self.kv.renew(lease, deadline).await;
        if renewed == Err(StoreError::LeaseGone) {
            self.set_lease(None);
        }
        renewed
    }

    pub async fn close_session(&self, deadline: Duration) -> StoreResult<()> {
        match self.lease() {
            Some(lease) => {
                self.set_lease(None);
                self.kv.revoke(lease, deadline).await
            }
            None => Ok(()),
        }
    }

    /// Creates the leader key bound to the session, if there is none. A key that already carries my
    /// name, left by an earlier run of this process, is bound to the new session instead.
    pub async fn take_lead(&self, deadline: Duration) -> StoreResult<TakeLead> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let key = self.layout.key("leader");
        let put = Op::Put { key: key.clone(), value: self.me.as_str().into(), lease: Some(lease) };
        let create = Txn { compare: vec![Compare::Absent { key: key.clone() }], then: vec![put.clone()] };
        if let TxnOutcome::Applied(version) = self.kv.txn(create, deadline).await? {
            return Ok(TakeLead::Taken(version));
        }
        let rebind = Txn { compare: vec![Compare::Value { key, value: self.me.as_str().into() }], then: vec![put] };
        Ok(match self.kv.txn(rebind, deadline).await? {
            TxnOutcome::Applied(version) => TakeLead::Taken(version),
            TxnOutcome::Conflict => TakeLead::Lost,
        })
    }

    /// Deletes the leader key if it is mine, and in the same transaction says how far the log went:
    /// a successor must not be chosen before that position is known.
    pub async fn release_lead(&self, status: Option<String>, deadline: Duration) -> StoreResult<TxnOutcome> {
        let key = self.layout.key("leader");
        let mut then = vec![Op::Delete { key: key.clone() }];
        then.extend(status.map(|text| Op::Put { key: self.layout.key("status"), value: text.into(), lease: None }));
        self.kv.txn(Txn { compare: vec![Compare::Value { key, value: self.me.as_str().into() }], then }, deadline).await
    }

    /// This member's own key, bound to the session.
    pub async fn write_member(&self, text: String, deadline: Duration) -> StoreResult<()> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let key = self.layout.key(&format!("members/{}", self.me));
        self.kv
            .txn(Txn { compare: vec![], then: vec![Op::Put { key, value: text.into(), lease: Some(lease) }] }, deadline)
            .await?;
        Ok(())
    }

    /// A key that only the holder of the lead may write: refused by the store if the lead is not mine.
    pub async fn write_as_leader(&self, relative: &str, text: String, deadline: Duration) -> StoreResult<TxnOutcome> {
        let guard = Compare::Value { key: self.layout.key("leader"), value: self.me.as_str().into() };
        let put = Op::Put { key: self.layout.key(relative), value: text.into(), lease: None };
        self.kv.txn(Txn { compare: vec![guard], then: vec![put] }, deadline).await
    }

    pub async fn put(&self, relative: &str, text: String, deadline: Duration) -> StoreResult<()> {
        let put = Op::Put { key: self.layout.key(relative), value: text.into(), lease: None };
        self.kv.txn(Txn { compare: vec![], then: vec![put] }, deadline).await?;
        Ok(())
    }

    /// Writes a permanent key only if it still has `version`; `None` means only if it is absent.
    pub async fn compare_and_put(
        &self,
        relative: &str,
        version: Option<KeyVersion>,
        text: String,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let key = self.layout.key(relative);
        let compare = match version {
            Some(version) => Compare::Version { key: key.clone(), version },
            None => Compare::Absent { key: key.clone() },
        };
        let put = Op::Put { key, value: text.into(), lease: None };
        self.kv.txn(Txn { compare: vec![compare], then: vec![put] }, deadline).await
    }

    /// Deletes a key only if it still has `version`.
    pub async fn compare_and_delete(
        &self,
        relative: &str,
        version: KeyVersion,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let key = self.layout.key(relative);
        let compare = vec![Compare::Version { key: key.clone(), version }];
        self.kv.txn(Txn { compare, then: vec![Op::Delete { key }] }, deadline).await
    }
}
