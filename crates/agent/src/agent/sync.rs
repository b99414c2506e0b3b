//! Steps of synchronous replication in the background, and standbys that are lost.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::Facts;
use surus_core::settings::SynchronousMode;
use surus_core::synchronous::{self, Names};
use surus_core::{Lsn, MemberName};
use surus_postgres::Postmaster;
use surus_store::clock::boot_now;
use surus_store::{StoreError, StoreResult, TxnOutcome};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Agent;

/// What came of a step.
pub(super) enum Synced {
    Names(Result<Lsn, String>),
    Written(StoreResult<(TxnOutcome, u64)>),
}

/// One task for each connected standby, which wakes the loop when its walsender ends: commits may wait for it from then
/// on, and nothing else would tell before the next look.
#[derive(Default)]
pub(super) struct Senders(BTreeMap<i32, JoinHandle<()>>);

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}

impl Agent {
    pub(super) fn set_names(&self, names: Option<Names>, limit: Duration) {
        let (instance, tx) = (self.instance.clone(), self.synced.0.clone());
        tokio::spawn(async move {
            instance.choose_names(names.map(|n| n.text().unwrap_or_default()));
            // Its own limit does not reach into a file system that hangs.
            let set = timeout(limit + Duration::from_secs(1), instance.bring_names_into_force(limit)).await;
            let set = set.map_or_else(|_| Err("no answer in time".to_owned()), |s| s.map_err(|e| e.to_string()));
            let _ = tx.send(Synced::Names(set)).await;
        });
    }

    pub(super) fn write_sync(&self, state: Option<String>, version: Option<KeyVersion>, limit: Duration) {
        let (store, tx) = (self.store.clone(), self.synced.0.clone());
        tokio::spawn(async move {
            let written = timeout(limit * 2, store.write_sync(state, version, limit)).await;
            let written = written.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("no answer in time".into())));
            let _ = tx.send(Synced::Written(written)).await;
        });
    }

    pub(super) fn synced(&mut self, synced: Synced) {
        let (lead, now) = (self.lease.lead(), boot_now());
        match synced {
            Synced::Names(set) => self.member.names_set(set, lead, now),
            Synced::Written(written) => self.member.sync_written(written, lead, now),
        }
    }

    pub(super) fn watch_senders(&mut self, facts: &Facts) {
        let led = facts.lead.is_some() && synchronous::mode(&facts.settings) != SynchronousMode::Off;
        let members = facts.store.view.as_deref().map(|v| &v.members);
        let member = |name: &str| {
            members.is_some_and(|m| m.keys().map(MemberName::as_str).any(|k| k.eq_ignore_ascii_case(name)))
        };
        let there: Vec<i32> = facts
            .postgres
            .observed()
            .filter(|o| led && !o.in_recovery)
            .map(|o| o.senders.iter().filter(|s| member(&s.application_name)).map(|s| s.pid).collect())
            .unwrap_or_default();
        self.senders.0.retain(|pid, task| {
            let stays = there.contains(pid);
            if !stays {
                task.abort();
            }
            stays
        });
        for pid in there {
            let wake = self.wake.clone();
            self.senders.0.entry(pid).or_insert_with(|| {
                let held = surus_postgres::start_ticks(pid).and_then(|ticks| Postmaster::open(pid, ticks));
                tokio::spawn(async move {
                    if let Some(held) = held {
                        held.exited().await;
                    }
                    wake.notify_one();
                })
            });
        }
    }
}
