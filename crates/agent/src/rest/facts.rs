//! What one answer says about this member: taken from [`Published`] and, where it was asked live,
//! from a newer answer of PostgreSQL. Health checks, the status document and the metrics are all
//! read off this one value, so they cannot disagree.

use serde_json::{Value, json};
use surus_api::{AgentInfo, PatroniStatus, ReplicationConnection, XlogStatus};
use surus_core::cluster::{ClusterView, MemberRole, MemberState, ScheduledRestart, Tags};
use surus_core::postgres::{Observed, WalSender};
use surus_core::settings::SynchronousMode;
use surus_core::{BootTime, Lsn};

use super::version::{COMPATIBLE_VERSION, VERSION};
use crate::handle::Published;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStandby {
    No,
    Sync,
    Quorum,
}

pub struct Facts<'a> {
    pub published: &'a Published,
    pub observed: Option<&'a Observed>,
    pub now: BootTime,
    pub state: MemberState,
    pub role: MemberRole,
    /// The last reading of the store, unless it is too old to be relied on.
    pub view: Option<&'a ClusterView>,
    pub sync: SyncStandby,
    pub tags: Tags,
}

impl<'a> Facts<'a> {
    pub fn new(published: &'a Published, observed: Option<&'a Observed>, now: BootTime) -> Facts<'a> {
        let answers = matches!(published.state, MemberState::Running | MemberState::Restarting | MemberState::Starting);
        let observed = observed.filter(|_| answers);
        let state = match observed {
            None if published.state == MemberState::Running => MemberState::Unknown,
            _ => published.state,
        };
        let role = match observed {
            Some(o) if !o.in_recovery => MemberRole::Primary,
            Some(_) if !published.settings.standby_cluster => MemberRole::Replica,
            _ => published.role,
        };
        let view = published.usable_view(now).map(AsRef::as_ref);
        let listed = role == MemberRole::Replica
            && view
                .and_then(|v| v.sync.as_ref())
                .is_some_and(|sync| sync.value.lists(&published.name) && !sync.value.is_leader(&published.name));
        let sync = match published.settings.synchronous_mode {
            SynchronousMode::On if listed => SyncStandby::Sync,
            SynchronousMode::Quorum if listed => SyncStandby::Quorum,
            _ => SyncStandby::No,
        };
        Facts { published, observed, now, state, role, view, sync, tags: published.tags.published() }
    }

    pub fn is_leader(&self) -> bool {
        self.published.is_leader(self.now)
    }

    pub fn cluster_unlocked(&self) -> bool {
        self.view.is_none_or(|v| v.leader.is_none())
    }

    pub fn replication_state(&self) -> Option<&'static str> {
        self.observed.and_then(Observed::replication_state)
    }

    pub fn latest_end_lsn(&self) -> Option<Lsn> {
        self.observed?.receiver.as_ref()?.latest_end_lsn.filter(|lsn| lsn.is_valid())
    }

    /// How far the leader is known to be: what lag is measured against (`spec/rest-api.md §3.4`).
    pub fn reference(&self) -> Lsn {
        let status = self.view.map(|v| v.status.optime).unwrap_or_default();
        status.max(self.latest_end_lsn().unwrap_or_default())
    }

    pub fn replayed(&self) -> Lsn {
        self.observed.filter(|o| o.in_recovery).map(|o| o.replay_lsn).unwrap_or_default()
    }

    /// What a standby received; before it received anything, what it replayed.
    pub fn received(&self) -> Lsn {
        let standby = self.observed.filter(|o| o.in_recovery);
        standby.map(|o| if o.receive_lsn.is_valid() { o.receive_lsn } else { o.replay_lsn }).unwrap_or_default()
    }

    /// The document of the health checks and of `GET /patroni`, and below `surus` what peers do not know.
    pub fn document(&self) -> Value {
        let mut document = serde_json::to_value(self.status()).unwrap_or_default();
        if let Some(object) = document.as_object_mut() {
            let store = &self.published.store;
            let mut ours = json!({
                "version": VERSION,
                "store": {"kind": store.kind, "summary": store.summary},
                "fence": self.published.fence.document(self.now),
            });
            if let Some(watchdog) = self.published.watchdog.document() {
                ours["watchdog"] = watchdog;
            }
            if let Some(failsafe) = self.published.failsafe.document(self.now) {
                ours["failsafe"] = failsafe;
            }
            if let Some(stalls) = self.published.stalls.document(self.now) {
                ours["stalls"] = stalls;
            }
            if let Some(room) = self.published.wal.room {
                ours["wal_disk"] = json!({"free": room.free, "total": room.total});
            }
            let unready = self.published.wal.unready();
            if !unready.is_empty() {
                ours["unready_slots"] = json!(unready);
            }
            if !self.published.wanting.is_empty() {
                ours["wanting"] = json!(*self.published.wanting);
            }
            if let Some(what) = &self.published.forked {
                ours["forked"] = json!({"what": what, "tags": self.tags});
                // A peer that knows no forks would give way to the longer log; one that may not be promoted counts for nothing.
                let tags = object.entry("tags").or_insert_with(|| json!({}));
                tags["nofailover"] = json!(true);
            }
            object.insert("surus".into(), ours);
        }
        document
    }

    fn status(&self) -> PatroniStatus {
        let published = self.published;
        PatroniStatus {
            state: self.state,
            postmaster_start_time: self.observed.map(|o| o.postmaster_start_time.clone()),
            role: self.role,
            server_version: self.observed.map(|o| o.server_version),
            xlog: self.observed.map(|o| self.xlog(o)),
            quorum_standby: self.sync == SyncStandby::Quorum,
            sync_standby: self.sync == SyncStandby::Sync,
            timeline: self.observed.map(|o| o.timeline),
            replication_state: self.replication_state().map(str::to_owned),
            replication: self.observed.map(|o| o.senders.iter().map(connection).collect()).unwrap_or_default(),
            pause: published.settings.pause,
            cluster_unlocked: self.cluster_unlocked(),
            dcs_last_seen: published.store_last_seen,
            tags: self.tags.clone(),
            database_system_identifier: published.system_id.clone(),
            pending_restart: !published.pending_restart.is_empty(),
            pending_restart_reason: published.pending_restart.clone(),
            patroni: AgentInfo {
                version: COMPATIBLE_VERSION.into(),
                scope: published.scope.clone(),
                name: published.name.0.clone(),
            },
            // When the postmaster started is for the member key alone.
            scheduled_restart: published
                .scheduled_restart
                .clone()
                .map(|restart| ScheduledRestart { postmaster_start_time: None, ..restart }),
            // Peers ask for it before they choose a candidate.
            watchdog_failed: published.fence.fact.forbids().is_some() || published.watchdog.fact.forbids().is_some(),
            failsafe_mode_is_active: published.failsafe.is_active(),
            progress: published.progress.clone(),
            task: published.task.clone(),
            ..PatroniStatus::default()
        }
    }

    fn xlog(&self, observed: &Observed) -> XlogStatus {
        if observed.in_recovery {
            XlogStatus::Standby {
                received_location: self.received(),
                replayed_location: self.replayed(),
                replayed_timestamp: observed.replay_timestamp.clone(),
                paused: observed.replay_paused,
            }
        } else {
            XlogStatus::Primary { location: observed.flush_lsn }
        }
    }
}

fn connection(sender: &WalSender) -> ReplicationConnection {
    ReplicationConnection {
        usename: sender.user.clone(),
        application_name: sender.application_name.clone(),
        client_addr: sender.client_addr.clone(),
        state: sender.state.clone(),
        sync_state: sender.sync_state.clone(),
        sync_priority: sender.sync_priority,
    }
}
