//! What is kept right beside the decisions: slots, history, identity and configuration in the store,
//! pending restarts, scheduled restarts.
//!
//! Each runs in the background, one of a kind at a time, and is simply tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_config::RoleOverlay;
use surus_core::BootTime;
use surus_core::cluster::{
    ClusterView, History, HistoryEntry, Initialize, MemberRole, PendingRestart, ScheduledRestart, Status,
};
use surus_core::facts::Facts;
use surus_core::order::Order;
use surus_core::postgres::Observed;
use surus_store::clock::boot_now;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Agent;
use crate::handle::{Reply, RestartFilters};

const WRITE: Duration = Duration::from_secs(2);

pub struct Upkeep {
    pub reload_wanted: bool,
    orders: Vec<Order>,
    busy: Arc<Mutex<BTreeSet<&'static str>>>,
    slots_synced: Option<BootTime>,
    slots_for: Option<(BTreeSet<String>, bool)>,
    /// When each member's slot was last needed by a member that is there.
    slot_seen: BTreeMap<String, BootTime>,
    pending: super::Channel<BTreeMap<String, PendingRestart>>,
    checked_pending: Option<(String, u64, BTreeMap<String, PendingRestart>)>,
    generation: u64,
    led: bool,
    /// Since when a slot is wanted by nobody.
    unwanted: BTreeMap<String, BootTime>,
}

/// How long an unwanted slot is left alone. When the lead changes, the new leader's list of slots to
/// retain arrives a moment after its name.
const UNWANTED: Duration = Duration::from_secs(60);

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            reload_wanted: false,
            orders: vec![],
            busy: Arc::default(),
            slots_synced: None,
            slots_for: None,
            slot_seen: BTreeMap::new(),
            pending: mpsc::channel(4),
            checked_pending: None,
            generation: 0,
            led: false,
            unwanted: BTreeMap::new(),
        }
    }
}

impl Upkeep {
    pub fn add(&mut self, order: Order) {
        self.orders.push(order);
    }

    fn spawn(&self, kind: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        let busy = self.busy.clone();
        if !busy.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
            return;
        }
        tokio::spawn(async move {
            if let Err(e) = work.await {
                warn!("{kind}: {e}");
            }
            busy.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
        });
    }

    /// The `status` key of a leader (`spec/dcs.md §2.5`).
    pub fn status(&self, facts: &Facts, observed: &Observed) -> Status {
        let mut slots = BTreeMap::new();
        if facts.settings.use_slots {
            for slot in &observed.slots {
                let lsn = if slot.logical { slot.confirmed_flush_lsn } else { slot.restart_lsn };
                slots.extend(lsn.map(|l| (slot.name.clone(), l)));
            }
            slots.insert(facts.me.slot_name(), observed.position());
        }
        let retain = self.slot_seen.keys().filter(|s| **s != facts.me.slot_name()).cloned().collect();
        Status { optime: observed.position(), slots, retain_slots: retain }
    }

    fn note_slots(&mut self, view: &ClusterView, known: &[String], facts: &Facts, lead: bool) {
        let now = boot_now();
        if !lead {
            self.led = false;
            return;
        }
        if !std::mem::replace(&mut self.led, true) {
            // What the leader before me kept for absent members is kept for another full period, and so is
            // what that leader itself needs to come back.
            self.slot_seen = view.status.retain_slots.iter().chain(known).map(|s| (s.clone(), now)).collect();
        }
        for member in view.others(&facts.me).filter(|m| !m.tags.nostream()) {
            self.slot_seen.insert(member.name.slot_name(), now);
        }
        let ttl = facts.settings.member_slots_ttl;
        self.slot_seen.retain(|slot, seen| {
            let keep = now.since(*seen) <= ttl;
            if !keep {
                info!("Replication slot '{slot}' for absent cluster member is expired after {} sec.", ttl.as_secs());
            }
            keep
        });
    }
}

impl Agent {
    pub(super) async fn upkeep(&mut self, facts: &Facts) {
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
        self.role_overlay(facts);
        self.reload_postgres(facts);
        self.keep_slots(facts);
        self.check_pending(facts);
        self.run_schedule(facts);
        for order in std::mem::take(&mut self.upkeep.orders) {
            self.write_for_cluster(order, facts);
        }
    }

    fn role_overlay(&mut self, facts: &Facts) {
        let overlay = match crate::member::role(facts) {
            MemberRole::Primary | MemberRole::Promoted => RoleOverlay::Primary,
            MemberRole::Replica | MemberRole::Demoted => RoleOverlay::Replica,
            MemberRole::StandbyLeader => RoleOverlay::StandbyLeader,
            _ => RoleOverlay::None,
        };
        if self.settings.set_overlay(overlay) {
            self.apply_settings(true);
        }
    }

    fn reload_postgres(&mut self, facts: &Facts) {
        if !self.upkeep.reload_wanted || !facts.postgres.accepting() || self.task.is_some() {
            return;
        }
        self.upkeep.reload_wanted = false;
        self.upkeep.generation += 1;
        let instance = self.instance.clone();
        self.upkeep.spawn("reloading PostgreSQL", async move { instance.reload().await.map_err(|e| e.to_string()) });
    }

    fn keep_slots(&mut self, facts: &Facts) {
        let Some(view) = facts.store.view.clone().filter(|_| facts.store.broken.is_none()) else { return };
        let lead = facts.lead.is_some() && facts.postgres.is_primary();
        let known: Vec<String> =
            self.memory.known_members.values().filter(|m| !m.tags.nostream()).map(|m| m.name.slot_name()).collect();
        self.upkeep.note_slots(&view, &known, facts, lead);
        if !facts.postgres.accepting() || facts.postgres.observed().is_none() || view.leader.is_none() {
            return;
        }
        if self.task.as_ref().is_some_and(|t| t.running.task.is_stopping()) {
            return;
        }
        let nofailover = facts.tags.nofailover();
        let mut wanted = surus_core::slots::wanted(&view, &facts.me, &facts.settings, lead, nofailover);
        if lead {
            wanted.names.extend(self.upkeep.slot_seen.keys().filter(|s| **s != facts.me.slot_name()).cloned());
        }
        let due = self.upkeep.slots_synced.is_none_or(|at| facts.now.since(at) >= facts.settings.timing.loop_wait);
        let key = Some((wanted.names.clone(), lead));
        if !due && self.upkeep.slots_for == key {
            return;
        }
        self.upkeep.slots_for = key;
        self.upkeep.slots_synced = Some(facts.now);
        // Nothing to do costs nothing: what is there is known from the answer already.
        let have: BTreeMap<&str, &surus_core::postgres::Slot> = facts
            .postgres
            .observed()
            .map(|o| o.slots.iter().filter(|s| !s.logical).map(|s| (s.name.as_str(), s)).collect())
            .unwrap_or_default();
        let dynamic = &self.settings.dynamic;
        let keep: BTreeSet<String> = dynamic
            .slots
            .keys()
            .cloned()
            .chain(dynamic.ignore_slots.iter().filter_map(|i| i.name.clone()))
            .chain(
                dynamic
                    .ignore_slots
                    .iter()
                    .any(|i| i.name.is_none())
                    .then(|| have.keys().map(|k| (*k).to_owned()))
                    .into_iter()
                    .flatten(),
            )
            .collect();
        let missing = wanted.names.iter().any(|n| !have.contains_key(n.as_str()));
        let now = facts.now;
        self.upkeep.unwanted.retain(|n, _| have.contains_key(n.as_str()) && !wanted.names.contains(n));
        for name in have.keys().filter(|n| !wanted.names.contains(**n)) {
            self.upkeep.unwanted.entry((*name).to_owned()).or_insert(now);
        }
        let young =
            self.upkeep.unwanted.iter().filter(|(_, since)| now.since(**since) < UNWANTED).map(|(n, _)| n.clone());
        let keep: BTreeSet<String> = keep.into_iter().chain(young).collect();
        let surplus = !facts.settings.pause && have.keys().any(|n| !wanted.names.contains(*n) && !keep.contains(*n));
        let behind = wanted
            .advance
            .iter()
            .any(|(n, lsn)| have.get(n.as_str()).is_some_and(|s| s.restart_lsn.is_none_or(|r| r < *lsn)));
        if !missing && !surplus && !behind {
            return;
        }
        let (instance, drop_others) = (self.instance.clone(), !facts.settings.pause);
        self.upkeep.spawn("keeping replication slots", async move {
            let keep = drop_others.then_some(&keep);
            let changes =
                instance.sync_member_slots(&wanted.names, &wanted.advance, keep).await.map_err(|e| e.to_string())?;
            for (what, names) in [("created", &changes.created), ("dropped", &changes.dropped)] {
                if !names.is_empty() {
                    info!("replication slots {what}: {}", names.join(", "));
                }
            }
            Ok(())
        });
    }

    /// After a reload and after a start: which settings wait for a restart.
    fn check_pending(&mut self, facts: &Facts) {
        let Some(observed) = facts.postgres.observed() else { return };
        // Also what the server itself reports, because it does so a moment after a reload.
        let state = (observed.postmaster_start_time.clone(), self.upkeep.generation, observed.pending_restart.clone());
        if self.upkeep.checked_pending.as_ref() == Some(&state) {
            return;
        }
        self.upkeep.checked_pending = Some(state);
        let (instance, tx) = (self.instance.clone(), self.upkeep.pending.0.clone());
        let wanted = self.settings.effective.command_line.clone();
        // Recovery settings are rewritten at each change of role; they say nothing to a server that is out of recovery.
        let mut pending = observed.pending_restart.clone();
        pending.retain(|name, change| change.old_value != change.new_value && !is_recovery_setting(name));
        self.upkeep.spawn("looking for pending restarts", async move {
            // A reload does not reach what the command line set: PostgreSQL itself reports nothing there.
            let running = instance.settings(Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
            for (name, new) in wanted {
                if let Some(setting) = running.get(&name).filter(|s| s.context == "postmaster")
                    && !same_value(&setting.value, &new, setting)
                {
                    pending.insert(name, PendingRestart { old_value: setting.value.clone(), new_value: new });
                }
            }
            let _ = tx.send(pending).await;
            Ok(())
        });
    }

    fn write_for_cluster(&mut self, order: Order, facts: &Facts) {
        let store = self.store.clone();
        let Some(view) = facts.store.view.clone() else { return };
        match order {
            Order::WriteSystemId { id } => self.upkeep.spawn("writing the initialize key", async move {
                let text = id.as_str().to_owned();
                let written = match view.initialize {
                    Initialize::Absent => store.create_initialize(text, WRITE).await,
                    _ => store.write_as_leader("initialize", text, WRITE).await,
                };
                written.map(drop).map_err(|e| e.to_string())
            }),
            Order::WriteConfig { .. } => {
                let document = self.settings.dynamic.document.clone();
                let document = match document.as_object() {
                    Some(map) if !map.is_empty() => document,
                    _ => self.settings.founding_document(),
                };
                let spoilt = view.garbage.iter().any(|g| g.key == "config");
                self.upkeep.spawn("writing the config key", async move {
                    let written = if spoilt {
                        store.write_as_leader("config", document.to_string(), WRITE).await
                    } else {
                        store.compare_and_put("config", None, document.to_string(), WRITE).await
                    };
                    info!("the dynamic configuration was missing in the store or unusable, and was written again");
                    written.map(drop).map_err(|e| e.to_string())
                });
            }
            Order::WriteHistory => {
                let Some(timeline) = facts.postgres.observed().and_then(|o| o.timeline) else { return };
                let (instance, me) = (self.instance.clone(), self.me.clone());
                let limit = usize::try_from(facts.settings.max_timelines_history).unwrap_or(0);
                self.upkeep.spawn("writing the history key", async move {
                    let rows = if timeline.0 == 1 {
                        vec![]
                    } else {
                        instance.timeline_history(timeline).await.map_err(|e| e.to_string())?
                    };
                    let history = merge_history(rows, view.history.as_ref(), me.as_str(), limit);
                    store
                        .write_as_leader("history", history.to_text(), WRITE)
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string())
                });
            }
            _ => {}
        }
    }

    pub(super) fn restart_filtered(&self, filters: &RestartFilters) -> Option<&'static str> {
        let published = self.published.load();
        if filters.role.as_deref().is_some_and(|r| r != published.role.as_str()) {
            Some("host role mismatch")
        } else if filters.older_than.is_some_and(|v| self.settings.server_version.is_none_or(|mine| mine >= v)) {
            Some("postgres version mismatch")
        } else if filters.pending_only && self.pending_restart.is_empty() {
            Some("pending restart flag is not set")
        } else {
            None
        }
    }

    pub(super) fn schedule_restart(&mut self, mut schedule: ScheduledRestart, filters: RestartFilters) -> Reply {
        if self.scheduled_restart.is_some() {
            return Reply::Refused("Another restart is already scheduled".into());
        }
        let Ok(at) = schedule.schedule.parse::<jiff::Timestamp>() else {
            return Reply::Refused("the schedule can not be understood".into());
        };
        schedule.postmaster_start_time =
            self.published.load().observed.as_ref().map(|o| o.postmaster_start_time.clone());
        self.scheduled_restart = Some((schedule, filters, at.as_millisecond()));
        Reply::Ok("Restart scheduled".into())
    }

    fn run_schedule(&mut self, facts: &Facts) {
        let Some((schedule, filters, at)) = &self.scheduled_restart else { return };
        let started = facts.postgres.observed().map(|o| &o.postmaster_start_time);
        if started.is_some()
            && schedule.postmaster_start_time.is_some()
            && started != schedule.postmaster_start_time.as_ref()
        {
            info!(
                "Cancelling scheduled restart: postgres restart has already happened at {}",
                started.map_or("", |s| s)
            );
            self.scheduled_restart = None;
            return;
        }
        let left = at - facts.unix_ms;
        if left > 0 {
            let at = tokio::time::Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0));
            self.again_at = self.again_at.min(at);
            return;
        }
        if facts.settings.pause || self.task.is_some() || self.asked.is_some() {
            return;
        }
        let filters = filters.clone();
        self.scheduled_restart = None;
        if left < -60_000 {
            warn!("a scheduled restart was missed by {} s and is dropped", -left / 1000);
        } else if let Some(why) = self.restart_filtered(&filters) {
            info!("not proceeding with the scheduled restart: {why}");
        } else {
            info!("carrying out the scheduled restart");
            let (tx, _) = tokio::sync::oneshot::channel();
            self.asked = Some((surus_core::order::Request::Restart, filters.timeout, tx));
            self.again_at = tokio::time::Instant::now();
        }
    }
}

fn is_recovery_setting(name: &str) -> bool {
    name.starts_with("recovery_")
        || matches!(
            name,
            "archive_cleanup_command"
                | "hot_standby"
                | "primary_conninfo"
                | "primary_slot_name"
                | "promote_trigger_file"
                | "restore_command"
        )
}

fn same_value(running: &str, wanted: &str, setting: &surus_postgres::Setting) -> bool {
    if running.eq_ignore_ascii_case(wanted) {
        return true;
    }
    match setting.vartype.as_str() {
        "bool" => surus_config::parse_bool(running) == surus_config::parse_bool(wanted),
        "integer" => {
            let running = surus_config::parse_int(running);
            running.is_some() && running == surus_config::parse_int(wanted)
        }
        // `hot_standby` is an old spelling of `replica`.
        _ => running == "replica" && wanted == "hot_standby",
    }
}

/// What the history file says, with time and new leader of what was known before (`spec/dcs.md §2.9`).
fn merge_history(rows: Vec<HistoryEntry>, known: Option<&History>, me: &str, limit: usize) -> History {
    let last = rows.len().saturating_sub(1);
    let mut rows: Vec<HistoryEntry> = rows
        .into_iter()
        .enumerate()
        .map(|(i, row)| {
            let before =
                known.and_then(|h| h.0.iter().find(|k| k.timeline == row.timeline && k.switch_lsn == row.switch_lsn));
            match before {
                Some(before) if before.timestamp.is_some() => {
                    HistoryEntry { timestamp: before.timestamp.clone(), new_leader: before.new_leader.clone(), ..row }
                }
                _ if i == last => HistoryEntry {
                    timestamp: row
                        .timestamp
                        .clone()
                        .or_else(|| Some(jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string())),
                    new_leader: Some(me.to_owned()),
                    ..row
                },
                _ => row,
            }
        })
        .collect();
    if limit > 0 && rows.len() > limit {
        rows.drain(..rows.len() - limit);
    }
    History(rows)
}
