//! The store's data and rules as a plain value: no runtime, no clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::BootTime;

use crate::kv::{
    Compare, KeyValue, LeaseId, Op, Revision, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, WatchEvent,
};

#[derive(Clone, Debug, Default)]
pub struct State {
    revision: Revision,
    last_lease: LeaseId,
    keys: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    ends: BootTime,
}

/// What one revision changed, in the order of the operations.
pub type Changes = Vec<WatchEvent>;

impl State {
    pub fn snapshot(&self, prefix: &str) -> Snapshot {
        let keys = self.keys.values().filter(|kv| kv.key.starts_with(prefix)).cloned().collect();
        Snapshot { revision: self.revision, keys }
    }

    pub fn txn(&mut self, txn: &Txn) -> StoreResult<(TxnOutcome, Changes)> {
        refuse_overlap(&txn.then)?;
        if !txn.compare.iter().all(|c| self.holds(c)) {
            return Ok((TxnOutcome::Conflict, Changes::new()));
        }
        let leases = txn.then.iter().filter_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            _ => None,
        });
        if leases.into_iter().any(|lease| !self.leases.contains_key(&lease)) {
            return Err(StoreError::LeaseGone);
        }
        let revision = self.revision + 1;
        let mut changes = Changes::new();
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease } => {
                    let kv = KeyValue { key: key.clone(), value: value.clone(), version: revision, lease: *lease };
                    self.keys.insert(key.clone(), kv.clone());
                    changes.push(WatchEvent::Put(kv));
                }
                Op::Delete { key } => self.delete(vec![key.clone()], revision, &mut changes),
                Op::DeletePrefix { prefix } => {
                    let keys = self.keys.keys().filter(|k| k.starts_with(prefix)).cloned().collect();
                    self.delete(keys, revision, &mut changes);
                }
            }
        }
        Ok((TxnOutcome::Applied(self.seal(&changes)), changes))
    }

    /// A transaction that changed nothing makes no new revision.
    fn seal(&mut self, changes: &Changes) -> Revision {
        if !changes.is_empty() {
            self.revision += 1;
        }
        self.revision
    }

    fn delete(&mut self, keys: Vec<String>, revision: Revision, changes: &mut Changes) {
        for key in keys {
            if self.keys.remove(&key).is_some() {
                changes.push(WatchEvent::Deleted { key, revision });
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.keys.contains_key(key),
            Compare::Version { key, version } => self.keys.get(key).is_some_and(|kv| kv.version == *version),
            Compare::Value { key, value } => self.keys.get(key).is_some_and(|kv| kv.value == *value),
        }
    }

    pub fn grant(&mut self, ttl: Duration, now: BootTime) -> LeaseId {
        self.last_lease += 1;
        self.leases.insert(self.last_lease, Lease { ttl, ends: now + ttl });
        self.last_lease
    }

    pub fn renew(&mut self, lease: LeaseId, now: BootTime) -> StoreResult<()> {
        let lease = self.leases.get_mut(&lease).ok_or(StoreError::LeaseGone)?;
        lease.ends = now + lease.ttl;
        Ok(())
    }

    /// Ends a lease and deletes its keys, in one revision.
    pub fn revoke(&mut self, lease: LeaseId) -> Changes {
        self.leases.remove(&lease);
        let keys = self.keys.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone()).collect();
        let mut changes = Changes::new();
        self.delete(keys, self.revision + 1, &mut changes);
        self.seal(&changes);
        changes
    }

    /// Ends every lease whose time is over; one list of changes for each.
    pub fn expire(&mut self, now: BootTime) -> Vec<Changes> {
        let over: Vec<LeaseId> = self.leases.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| *id).collect();
        over.into_iter().map(|lease| self.revoke(lease)).collect()
    }

    /// A store that does not know how long its leases have been good for starts their time again.
    pub fn restart_leases(&mut self, now: BootTime) {
        self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl);
    }

    pub fn next_end(&self) -> Option<BootTime> {
        self.leases.values().map(|l| l.ends).min()
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// As etcd does: two operations of one transaction on the same key have no defined order.
fn refuse_overlap(ops: &[Op]) -> StoreResult<()> {
    let mut keys = BTreeSet::new();
    let mut puts = Vec::new();
    for op in ops {
        let key = match op {
            Op::Put { key, .. } => {
                puts.push(key);
                key
            }
            Op::Delete { key } => key,
            Op::DeletePrefix { .. } => continue,
        };
        if !keys.insert(key) {
            return Err(StoreError::Refused(format!("the transaction writes key \"{key}\" twice")));
        }
    }
    for op in ops {
        if let Op::DeletePrefix { prefix } = op
            && let Some(key) = puts.iter().find(|k| k.starts_with(prefix.as_str()))
        {
            return Err(StoreError::Refused(format!("the transaction both writes and deletes key \"{key}\"")));
        }
    }
    Ok(())
}
