//! The operations of one cluster on its store, over any [`Kv`] adapter (`spec/dcs.md §3`).
//!
//! One session lease per process carries this member's key and, while it leads, the leader key:
//! renewing the lease is the only regular request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kv::{Compare, Kv, LeaseId, Op, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch};
use crate::layout::Layout;
use surus_core::cluster::{Announced, ClusterView, KeyVersion, Versioned};
use surus_core::failsafe::{Of, Vouching};
use surus_core::loss::Remembered;
pub use surus_core::store::{Announce, Beside, TakeLead};
use surus_core::{BootTime, MemberName};

/// Names the primary that is left alone while paused ([`ClusterView::unguarded`]).
const UNGUARDED: &str = "unguarded";
/// Whom members may vouch for ([`ClusterView::vouching`]).
const VOUCHING: &str = "vouching";
/// The highest number that a member has set out to give a timeline ([`Announced`]).
const TIMELINE: &str = "timeline";

pub struct ClusterStore {
    kv: Arc<dyn Kv>,
    layout: Layout,
    me: MemberName,
    lease: Mutex<Option<LeaseId>>,
    clock: Clock,
}

type Clock = Arc<dyn Fn() -> BootTime + Send + Sync>;

impl ClusterStore {
    pub fn new(kv: Arc<dyn Kv>, layout: Layout, me: MemberName) -> ClusterStore {
        ClusterStore { kv, layout, me, lease: Mutex::new(None), clock: Arc::new(crate::clock::boot_now) }
    }

    /// Time limits are counted on this clock instead of the machine's.
    pub fn on_clock(self, clock: impl Fn() -> BootTime + Send + Sync + 'static) -> ClusterStore {
        ClusterStore { clock: Arc::new(clock), ..self }
    }

    pub(crate) fn name(&self) -> &MemberName {
        &self.me
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
        self.noting_its_end(lease, self.kv.renew(lease, deadline).await)
    }

    /// Forgets the session when the store says that its lease is gone, but never a newer session that
    /// was opened while that answer was under way.
    fn noting_its_end<T>(&self, lease: LeaseId, result: StoreResult<T>) -> StoreResult<T> {
        if matches!(result, Err(StoreError::LeaseGone)) {
            let mut current = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
            if *current == Some(lease) {
                *current = None;
            }
        }
        result
    }

    /// Ends the session at once: my member key and, if I hold it, the leader key go with it.
    pub async fn close_session(&self, deadline: Duration) -> StoreResult<()> {
        match self.lease() {
            Some(lease) => {
                self.set_lease(None);
                self.kv.revoke(lease, deadline).await
            }
            None => Ok(()),
        }
    }

    /// Makes the leader key carry my name, bound to this session: creates it, or, if it already carries
    /// my name, binds it to this session in one transaction. A key left by an earlier session must not
    /// be relied on as it is: it would vanish with the lease it still hangs on. So the same call
    /// confirms a lead that is held.
    ///
    /// A lost answer is repeated inside the deadline, which is harmless: my own first try then counts
    /// as a key that carries my name.
    pub async fn take_lead(&self, deadline: Duration) -> StoreResult<TakeLead> {
        self.take_lead_beside(Beside::default(), deadline).await
    }

    /// The same, only while the other keys are as they were when that was decided.
    pub async fn take_lead_beside(&self, beside: Beside, deadline: Duration) -> StoreResult<TakeLead> {
        let end = (self.clock)() + deadline;
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let key = self.layout.key("leader");
        let put = Op::Put { key: key.clone(), value: self.me.as_str().into(), lease: Some(lease) };
        let mut vacant = vec![Compare::Absent { key: key.clone() }, self.unchanged(UNGUARDED, beside.unguarded)];
        vacant.extend(beside.vouching.map(|version| self.unchanged(VOUCHING, version)));
        vacant.extend(beside.sync.map(|version| self.unchanged("sync", version)));
        vacant.extend(beside.config.map(|version| self.unchanged("config", Some(version))));
        let mut txns = Vec::new();
        match beside.announce {
            None => {
                txns.push(Txn { compare: vacant, then: vec![put.clone()] });
                txns.push(Txn { compare: vec![self.leads()], then: vec![put] });
            }
            // Nobody holds the lead for a promotion whose number was not said.
            Some(announce) => {
                let (unsaid, say) = self.announcing(announce);
                let said = Compare::Value { key: self.layout.key(TIMELINE), value: self.announced(announce).into() };
                vacant.push(unsaid.clone());
                txns.push(Txn { compare: vacant, then: vec![put.clone(), say.clone()] });
                txns.push(Txn { compare: vec![self.leads(), unsaid], then: vec![put.clone(), say] });
                txns.push(Txn { compare: vec![self.leads(), said], then: vec![put] });
            }
        }
        // Twice, because a key of mine may vanish with its old lease between the comparisons.
        for txn in txns.iter().chain(&txns) {
            if let TxnOutcome::Applied(version) = self.repeated(lease, txn, end).await? {
                return Ok(TakeLead::Taken(version));
            }
        }
        Ok(TakeLead::Lost)
    }

    fn announced(&self, announce: Announce) -> String {
        Announced { timeline: announce.timeline, leader: self.me.clone() }.to_text()
    }

    fn announcing(&self, announce: Announce) -> (Compare, Op) {
        (self.unchanged(TIMELINE, announce.over), self.permanent(TIMELINE, self.announced(announce)))
    }

    /// Says which timeline my promotion is to begin, while I lead.
    pub async fn announce(&self, announce: Announce, deadline: Duration) -> StoreResult<TxnOutcome> {
        let (unsaid, say) = self.announcing(announce);
        self.kv.txn(Txn { compare: vec![self.leads(), unsaid], then: vec![say] }, deadline).await
    }

    /// Binds the leader key to this session if it still carries my name. Never creates it: somebody else may have led
    /// since it was last seen.
    pub async fn retake_lead(&self, deadline: Duration) -> StoreResult<TakeLead> {
        let end = (self.clock)() + deadline;
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let put = Op::Put { key: self.layout.key("leader"), value: self.me.as_str().into(), lease: Some(lease) };
        let rebind = Txn { compare: vec![self.leads()], then: vec![put] };
        Ok(match self.repeated(lease, &rebind, end).await? {
            TxnOutcome::Applied(version) => TakeLead::Taken(version),
            TxnOutcome::Conflict => TakeLead::Lost,
        })
    }

    /// Sends a transaction that may be repeated, until its outcome is known or the time is up.
    async fn repeated(&self, lease: LeaseId, txn: &Txn, end: BootTime) -> StoreResult<TxnOutcome> {
        let mut lost = false;
        loop {
            let left = end.since((self.clock)());
            // Half of the rest for a try whose answer may get lost, so that there is time for another.
            let share = if lost { left } else { left / 2 };
            match self.noting_its_end(lease, self.kv.txn(txn.clone(), share).await) {
                Err(StoreError::OutcomeUnknown(_)) if !lost => lost = true,
                // The repetition had no effect, but the first try may have had one.
                Err(StoreError::Unavailable(text)) if lost => return Err(StoreError::OutcomeUnknown(text)),
                outcome => return outcome,
            }
        }
    }

    fn leads(&self) -> Compare {
        Compare::Value { key: self.layout.key("leader"), value: self.me.as_str().into() }
    }

    /// Deletes the leader key if it is mine, and in the same transaction says how far the log went:
    /// a successor must not be chosen before that position is known. `Conflict`: it was not mine (any
    /// more), which is also the answer to a repetition after a lost answer.
    ///
    /// Who gives the lead up does not write any more: if the `unguarded` key names me, it goes too.
    pub async fn release_lead(&self, status: Option<String>, deadline: Duration) -> StoreResult<TxnOutcome> {
        self.release_lead_beside(status, false, deadline).await
    }

    /// The same. `unvouch`: says in the same transaction that members vouch for nobody any more.
    pub async fn release_lead_beside(
        &self,
        status: Option<String>,
        unvouch: bool,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let end = (self.clock)() + deadline;
        let mut then = vec![Op::Delete { key: self.layout.key("leader") }];
        then.extend(status.map(|text| self.permanent("status", text)));
        let nobody = Vouching { leader: self.me.clone(), of: Of::None };
        then.extend(unvouch.then(|| self.permanent(VOUCHING, nobody.to_text())));
        let unguarded = self.layout.key(UNGUARDED);
        let nobody = Compare::Absent { key: unguarded.clone() };
        let me = Compare::Value { key: unguarded.clone(), value: self.me.as_str().into() };
        let withdrawing = then.iter().cloned().chain([Op::Delete { key: unguarded }]).collect();
        for txn in [
            Txn { compare: vec![self.leads(), nobody], then: then.clone() },
            Txn { compare: vec![self.leads(), me], then: withdrawing },
        ] {
            let released = self.kv.txn(txn, end.since((self.clock)())).await?;
            if let TxnOutcome::Applied(_) = released {
                return Ok(released);
            }
        }
        self.kv.txn(Txn { compare: vec![self.leads()], then }, end.since((self.clock)())).await
    }

    /// Says that this primary is left alone from now on: only while I lead, and only under the configuration that says
    /// that the cluster is paused. Overwrites whoever is named, as of version `before`.
    pub async fn write_unguarded(
        &self,
        config: KeyVersion,
        before: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.leads(), self.unchanged("config", Some(config)), self.unchanged(UNGUARDED, before)];
        let then = vec![self.permanent(UNGUARDED, self.me.as_str().into())];
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// Withdraws that, only under the configuration that I have seen. One that reaches the store late must not undo what
    /// was written for the next pause.
    pub async fn withdraw_unguarded(
        &self,
        config: Option<KeyVersion>,
        version: KeyVersion,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.unchanged("config", config), self.unchanged(UNGUARDED, Some(version))];
        let then = vec![Op::Delete { key: self.layout.key(UNGUARDED) }];
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// Asks for a failover on the word of an operator, while nobody leads: whoever is named as left alone, or as one that
    /// members may vouch for, as of these versions, is taken for stopped.
    pub async fn put_failover_past(
        &self,
        unguarded: Option<KeyVersion>,
        vouching: Option<&Versioned<Vouching>>,
        request: String,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let mut compare = vec![Compare::Absent { key: self.layout.key("leader") }];
        let mut then = vec![self.permanent("failover", request)];
        if unguarded.is_some() {
            compare.push(self.unchanged(UNGUARDED, unguarded));
            then.push(Op::Delete { key: self.layout.key(UNGUARDED) });
        }
        if let Some(vouching) = vouching {
            compare.push(self.unchanged(VOUCHING, Some(vouching.version)));
            let nobody = Vouching { of: Of::None, ..vouching.value.clone() };
            then.push(self.permanent(VOUCHING, nobody.to_text()));
        }
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// Says whom members may vouch for, and with it whose word counts. Only while I lead, and only over this version: a
    /// write that arrives late must not undo a newer one.
    pub async fn write_vouching(
        &self,
        failsafe: Option<String>,
        vouching: String,
        over: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.leads(), self.unchanged(VOUCHING, over)];
        let list = failsafe.map(|text| self.permanent("failsafe", text));
        let then = list.into_iter().chain([self.permanent(VOUCHING, vouching)]).collect();
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// This member's own key, bound to the session.
    pub async fn write_member(&self, text: String, deadline: Duration) -> StoreResult<()> {
        let lease = self.lease().ok_or(StoreError::LeaseGone)?;
        let key = self.layout.key(&format!("members/{}", self.me));
        let put = Op::Put { key, value: text.into(), lease: Some(lease) };
        let written = self.kv.txn(Txn { compare: vec![], then: vec![put] }, deadline).await;
        self.noting_its_end(lease, written).map(|_| ())
    }

    /// A key that only the holder of the lead may write: refused by the store if the lead is not mine.
    pub async fn write_as_leader(&self, relative: &str, text: String, deadline: Duration) -> StoreResult<TxnOutcome> {
        let then = vec![self.permanent(relative, text)];
        self.kv.txn(Txn { compare: vec![self.leads()], then }, deadline).await
    }

    /// [`ClusterStore::compare_and_put`] for the holder of the lead: a former leader that still knows
    /// the version must not change, for example, who may be promoted.
    pub async fn compare_and_put_as_leader(
        &self,
        relative: &str,
        version: Option<KeyVersion>,
        text: String,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.leads(), self.unchanged(relative, version)];
        self.kv.txn(Txn { compare, then: vec![self.permanent(relative, text)] }, deadline).await
    }

    /// Deletes a key only if the lead is mine and the key still has `version`.
    pub async fn compare_and_delete_as_leader(
        &self,
        relative: &str,
        version: KeyVersion,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.leads(), self.unchanged(relative, Some(version))];
        let then = vec![Op::Delete { key: self.layout.key(relative) }];
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// Writes the `sync` key, or deletes it, if the lead is mine and the key has `version`. Returns the revision from which
    /// on a reading shows what came of it, also where that is a change of somebody else. After any error the write may
    /// still arrive, unless the key gets another version.
    pub async fn write_sync(
        &self,
        state: Option<String>,
        version: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<(TxnOutcome, u64)> {
        let written = match (state, version) {
            (Some(text), version) => self.compare_and_put_as_leader("sync", version, text, deadline).await?,
            (None, Some(version)) => self.compare_and_delete_as_leader("sync", version, deadline).await?,
            (None, None) => TxnOutcome::Conflict,
        };
        match written {
            TxnOutcome::Applied(revision) => Ok((written, revision)),
            TxnOutcome::Conflict => Ok((written, self.read(deadline).await?.revision)),
        }
    }

    pub async fn put(&self, relative: &str, text: String, deadline: Duration) -> StoreResult<()> {
        let then = vec![self.permanent(relative, text)];
        self.kv.txn(Txn { compare: vec![], then }, deadline).await?;
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
        let compare = vec![self.unchanged(relative, version)];
        self.kv.txn(Txn { compare, then: vec![self.permanent(relative, text)] }, deadline).await
    }

    /// Remembers my loss receipts ([`ClusterView::losses`]), over what was remembered under this version.
    pub async fn remember_losses(
        &self,
        all: &[Remembered],
        version: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.remember_losses_of(&self.me, all, version, deadline).await
    }

    /// Those of another member, for an operator.
    pub async fn remember_losses_of(
        &self,
        member: &MemberName,
        all: &[Remembered],
        version: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let key = format!("loss/{member}");
        match version {
            Some(version) if all.is_empty() => self.compare_and_delete(&key, version, deadline).await,
            _ => self.compare_and_put(&key, version, Remembered::to_text(all), deadline).await,
        }
    }

    /// Deletes a key only if it still has `version`.
    pub async fn compare_and_delete(
        &self,
        relative: &str,
        version: KeyVersion,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        let compare = vec![self.unchanged(relative, Some(version))];
        let then = vec![Op::Delete { key: self.layout.key(relative) }];
        self.kv.txn(Txn { compare, then }, deadline).await
    }

    /// Wins the race for bootstrapping, or, with a system identifier, records it: only if nobody was first.
    pub async fn create_initialize(&self, text: String, deadline: Duration) -> StoreResult<TxnOutcome> {
        self.compare_and_put("initialize", None, text, deadline).await
    }

    pub async fn delete(&self, relative: &str, deadline: Duration) -> StoreResult<()> {
        let then = vec![Op::Delete { key: self.layout.key(relative) }];
        self.kv.txn(Txn { compare: vec![], then }, deadline).await?;
        Ok(())
    }

    /// Deletes everything there is of this cluster.
    pub async fn delete_all(&self, deadline: Duration) -> StoreResult<()> {
        let then = vec![Op::DeletePrefix { prefix: self.layout.prefix().to_owned() }];
        self.kv.txn(Txn { compare: vec![], then }, deadline).await?;
        Ok(())
    }

    fn permanent(&self, relative: &str, text: String) -> Op {
        Op::Put { key: self.layout.key(relative), value: text.into(), lease: None }
    }

    fn unchanged(&self, relative: &str, version: Option<KeyVersion>) -> Compare {
        let key = self.layout.key(relative);
        match version {
            Some(version) => Compare::Version { key, version },
            None => Compare::Absent { key },
        }
    }
}

#[cfg(test)]
mod tests;
