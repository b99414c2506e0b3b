//! What is kept right beside the decisions: settings and their overlay, slots, history, identity and
//! configuration in the store, pending restarts, scheduled restarts, the checkpoint after a promotion.
//!
//! Each runs in the background, one of a kind at a time, and is simply tried again later.

mod cluster_keys;
mod restart;
mod slots;
mod wanting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_conduct::callbacks::Happened;
use surus_conduct::pause::Note;
use surus_config::RoleOverlay;
use surus_core::cluster::{Initialize, MemberRole, PendingRestart};
use surus_core::facts::Facts;
use surus_core::order::Order;
use surus_core::postgres::DataDir;
use surus_store::clock::boot_now;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Agent;
use crate::loss::Memory;

const WRITE: Duration = Duration::from_secs(2);
/// Long for a checkpoint, and an end for one that hangs.
const CHECKPOINT: Duration = Duration::from_secs(3600);
/// Whatever keeps a file from being written does not go away by hammering its disk.
const RELOAD_AGAIN: Duration = Duration::from_secs(2);

pub struct Upkeep {
    pub reload_wanted: bool,
    reload_failed: Arc<AtomicBool>,
    /// Former primaries cannot be rewound against this one before its first checkpoint.
    pub checkpoint_pending: bool,
    pub slots: slots::Slots,
    pub wanting: wanting::Wanting,
    orders: Vec<Order>,
    busy: Arc<Mutex<BTreeSet<&'static str>>>,
    /// A checkpoint was made: the control file says more than is known of it.
    checkpointed: Arc<AtomicBool>,
    pending: super::Channel<BTreeMap<String, PendingRestart>>,
    checked_pending: Option<(String, u64, BTreeMap<String, PendingRestart>)>,
    generation: u64,
    /// Version of the stored document in the cache.
    cached: Option<u64>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            reload_wanted: false,
            reload_failed: Arc::default(),
            checkpoint_pending: false,
            slots: slots::Slots::default(),
            wanting: wanting::Wanting::default(),
            orders: vec![],
            busy: Arc::default(),
            checkpointed: Arc::default(),
            pending: mpsc::channel(4),
            checked_pending: None,
            generation: 0,
            cached: None,
        }
    }
}

impl Upkeep {
    pub fn add(&mut self, order: Order) {
        self.orders.push(order);
    }

    pub fn take_checkpointed(&self) -> bool {
        self.checkpointed.swap(false, Ordering::AcqRel)
    }

    /// `false`: work of this kind is still under way, and this is not begun.
    pub(super) fn spawn(
        &self,
        kind: &'static str,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> bool {
        let busy = self.busy.clone();
        if !busy.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
            return false;
        }
        tokio::spawn(async move {
            let _done = Done { busy, kind };
            if let Err(e) = work.await {
                warn!("{kind}: {e}");
            }
        });
        true
    }
}

/// Makes room for the next of its kind, also when the work panics.
struct Done {
    busy: Arc<Mutex<BTreeSet<&'static str>>>,
    kind: &'static str,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(self.kind);
    }
}

impl Agent {
    pub(super) fn upkeep(&mut self, facts: &Facts) {
        while let Ok(pending) = self.upkeep.pending.1.try_recv() {
            if pending != self.pending_restart {
                if pending.is_empty() {
                    info!("no restart is pending any more");
                } else {
                    let names: Vec<_> =
                        pending.iter().map(|(k, v)| format!("{k}: {} -> {}", v.old_value, v.new_value)).collect();
                    info!("a restart is pending for {}", names.join(", "));
                }
                self.pending_restart = pending;
            }
        }
        if self.member.task().is_none() {
            self.callbacks.seen(facts);
        }
        let view = self.member.seen().view.clone();
        if let Some(look) = self.losses.look(facts.now, facts.finished.is_some(), view) {
            self.upkeep.spawn("reading loss receipts", look);
        }
        self.remember_losses(facts);
        self.follow_role(facts);
        self.reload_postgres(facts);
        self.cache_settings(facts);
        self.checkpoint_after_promote(facts);
        self.keep_slots(facts);
        self.check_pending(facts);
        self.look_for_wanting(facts);
        self.run_schedule(facts);
        self.note_pause(facts);
        self.note_vouching(facts);
        for order in std::mem::take(&mut self.upkeep.orders) {
            self.write_for_cluster(order, facts);
        }
    }

    /// Has the store know whether this primary is left alone.
    fn note_pause(&mut self, facts: &Facts) {
        if surus_conduct::pause::ends(facts) {
            // The fence and the small file are written by others.
            self.member.sooner(boot_now() + Duration::from_millis(200));
        }
        let Some(note) = surus_conduct::pause::note(facts, self.fence.guards(), self.deadline.leaves_alone()) else {
            return;
        };
        let (store, wake) = (self.store.clone(), self.wake.clone());
        self.upkeep.spawn("writing the unguarded key", async move {
            let written = match note {
                Note::Write { config, before } => store.write_unguarded(config, before, WRITE).await,
                Note::Withdraw { config, version } => store.withdraw_unguarded(config, version, WRITE).await,
            };
            if written.is_err() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                wake.notify_one();
            }
            written.map(drop).map_err(|e| e.to_string())
        });
    }

    /// Has the store know of loss receipts, for when this machine is no more.
    fn remember_losses(&mut self, facts: &Facts) {
        let Some(view) = facts.store.view.as_ref().filter(|_| is_ours(facts)) else { return };
        let known = view.losses.get(&self.me);
        let (store, directory) = (self.store.clone(), self.losses.directory.clone());
        match self.losses.shown().memory(known.map_or(&[], |k| &k.value)) {
            Memory::Right => {}
            Memory::Write(all) => {
                let version = known.map(|k| k.version);
                self.upkeep.spawn("writing the loss key", async move {
                    let written = store.remember_losses(&all, version, WRITE).await;
                    if written.is_err() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    written.map(drop).map_err(|e| e.to_string())
                });
            }
            Memory::Forgotten(ids) => {
                self.upkeep.spawn("forgetting loss receipts", async move {
                    let work = tokio::task::spawn_blocking(move || surus_postgres::loss::forgotten(&directory, &ids));
                    work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
                });
            }
        }
    }

    fn follow_role(&mut self, facts: &Facts) {
        // A task that changes the role has said which settings it needs.
        if self.member.task().is_some() {
            return;
        }
        self.set_overlay(match surus_conduct::publish::role(facts) {
            MemberRole::Primary | MemberRole::Promoted => RoleOverlay::Primary,
            MemberRole::Replica | MemberRole::Demoted => RoleOverlay::Replica,
            MemberRole::StandbyLeader => RoleOverlay::StandbyLeader,
            _ => RoleOverlay::None,
        });
    }

    pub(super) fn set_overlay(&mut self, overlay: RoleOverlay) {
        if self.settings.set_overlay(overlay) {
            self.apply_settings();
        }
    }

    fn reload_postgres(&mut self, facts: &Facts) {
        self.upkeep.reload_wanted |= self.upkeep.reload_failed.swap(false, Ordering::AcqRel);
        if !self.upkeep.reload_wanted || !facts.postgres.accepting() || self.member.task().is_some() || !is_ours(facts)
        {
            return;
        }
        let (instance, callbacks) = (self.instance.clone(), self.callbacks.clone());
        let (failed, wake) = (self.upkeep.reload_failed.clone(), self.wake.clone());
        let reload = async move {
            match instance.reload().await {
                Ok(true) => callbacks.happened(Happened::Reloaded),
                Ok(false) => {}
                Err(e) => {
                    // Until then the server and whoever connects go by what was in force before.
                    warn!("reloading PostgreSQL failed and is tried again in {} s: {e}", RELOAD_AGAIN.as_secs());
                    tokio::time::sleep(RELOAD_AGAIN).await;
                    failed.store(true, Ordering::Release);
                    wake.notify_one();
                }
            }
            Ok(())
        };
        if self.upkeep.spawn("reloading PostgreSQL", reload) {
            self.upkeep.reload_wanted = false;
            self.upkeep.generation += 1;
        }
    }

    fn cache_settings(&mut self, facts: &Facts) {
        let version = self.settings.version;
        let there = is_ours(facts) && self.member.task().is_none();
        if version.is_none() || version == self.upkeep.cached || !there {
            return;
        }
        let document = self.settings.dynamic.document.clone();
        let write = crate::settings::write_cache(self.settings.data_dir(), document);
        if self.upkeep.spawn("caching the dynamic configuration", write) {
            self.upkeep.cached = version;
        }
    }

    /// PostgreSQL makes this checkpoint too, but takes its time (`spec/ha.md §7.4`).
    fn checkpoint_after_promote(&mut self, facts: &Facts) {
        let timeline = facts.postgres.observed().filter(|o| !o.in_recovery).and_then(|o| o.timeline);
        let checkpoint = match &facts.postgres.data_dir {
            DataDir::Present { control, .. } => Some(control.checkpoint_timeline),
            _ => None,
        };
        self.upkeep.checkpoint_pending = timeline.zip(checkpoint).is_some_and(|(now, then)| then < now);
        if !self.upkeep.checkpoint_pending || self.member.task().is_some() {
            return;
        }
        let (instance, done, wake) = (self.instance.clone(), self.upkeep.checkpointed.clone(), self.wake.clone());
        self.upkeep.spawn("making the checkpoint after the promotion", async move {
            let made = instance.checkpoint(CHECKPOINT).await.map_err(|e| e.to_string());
            if made.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            done.store(true, Ordering::Release);
            wake.notify_one();
            made
        });
    }
}

/// The data is the cluster's. Nothing is written into what belongs to another one, or to nobody yet.
fn is_ours(facts: &Facts) -> bool {
    let DataDir::Present { control, .. } = &facts.postgres.data_dir else { return false };
    match &facts.store.view {
        Some(view) => matches!(&view.initialize, Initialize::Done(id) if *id == control.system_id),
        None => !facts.postgres.stand_alone,
    }
}
