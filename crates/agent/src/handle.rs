//! What the rest of the process may know of the running agent and ask of it.
//!
//! The REST server sees the agent only through [`AgentHandle`]: it reads one immutable value that
//! the agent replaces after each step, and sends requests. Nothing in here waits for a decision.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use surus_core::cluster::{ClusterView, MemberRole, MemberState, PendingRestart, ScheduledRestart, Tags};
use surus_core::postgres::{Observed, Progress};
use surus_core::settings::ClusterSettings;
use surus_core::slots::{Room, Withheld};
use surus_core::{BootTime, Lsn, MemberName, SystemId};
use surus_store::cluster::ClusterStore;
use tokio::sync::{mpsc, oneshot, watch};

/// Everything about this member and its cluster that readers need, as of the latest step.
#[derive(Clone, Debug)]
pub struct Published {
    pub at: BootTime,
    pub name: MemberName,
    pub scope: String,
    pub state: MemberState,
    pub role: MemberRole,
    pub system_id: Option<SystemId>,
    /// Configured tags, before [`Tags::published`].
    pub tags: Tags,
    /// Newest answer of PostgreSQL; absent when it does not run or does not answer.
    pub observed: Option<Arc<Observed>>,
    pub settings: Arc<ClusterSettings>,
    /// The last reading of the store and when it was confirmed.
    pub view: Option<(Arc<ClusterView>, BootTime)>,
    /// Wall clock of the last successful reading of the store, Unix seconds; 0 before the first.
    pub store_last_seen: i64,
    /// I may call myself leader until then. `None`: I do not hold the lease.
    pub lease_until: Option<BootTime>,
    pub failsafe: crate::failsafe::Failsafe,
    pub fence: crate::fence::Shown,
    pub watchdog: crate::watchdog::Shown,
    pub stalls: crate::stall::Shown,
    pub wal: WalKept,
    pub losses: Arc<crate::loss::Shown>,
    /// How the log here left that of the cluster.
    pub forked: Option<String>,
    /// What other members need of this primary and do not find.
    pub wanting: Arc<Vec<String>>,
    pub pending_restart: std::collections::BTreeMap<String, PendingRestart>,
    pub scheduled_restart: Option<ScheduledRestart>,
    pub progress: Option<Progress>,
    /// Name of the long operation that runs now, for example `restart`.
    pub task: Option<String>,
    /// When the next step is due at the latest.
    pub next_step: BootTime,
    /// The latest decision and a few before it, newest first, as JSON for `GET /explain`.
    pub decisions: Arc<Vec<Value>>,
    /// Store adapter and its state in words.
    pub store: surus_store::Health,
    pub counters: Counters,
    pub measures: Arc<crate::measure::Measures>,
}

/// WAL that slots hold back, the biggest first, and the disk that bears it.
#[derive(Clone, Debug, Default)]
pub struct WalKept {
    pub withheld: Vec<Withheld>,
    pub room: Option<Room>,
    /// On a standby: permanent logical slots, and whether a reader could go on with each after a failover.
    pub ready: std::collections::BTreeMap<String, bool>,
}

impl WalKept {
    pub fn unready(&self) -> Vec<String> {
        self.ready.iter().filter(|(_, ready)| !**ready).map(|(slot, _)| slot.clone()).collect()
    }
}

/// Totals for `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub steps: u64,
    pub lease_renewals: u64,
    pub lease_renewal_failures: u64,
    pub last_lease_renewal: Option<Duration>,
    pub promotions: u64,
    pub demotions: u64,
    pub journal: surus_journal::Counters,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done, or accepted for later.
    Ok(String),
    /// Not done, and why, in the words the REST API gives.
    Refused(String),
}

impl From<Result<String, String>> for Reply {
    fn from(said: Result<String, String>) -> Reply {
        match said {
            Ok(text) => Reply::Ok(text),
            Err(why) => Reply::Refused(why),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartFilters {
    pub role: Option<String>,
    /// Restart only a server older than this, as `server_version_num`.
    pub older_than: Option<u32>,
    pub pending_only: bool,
    pub timeout: Option<Duration>,
}

#[derive(Debug)]
pub enum Request {
    Reload,
    Restart(RestartFilters),
    ScheduleRestart(ScheduledRestart, RestartFilters),
    CancelScheduledRestart,
    Reinitialize {
        force: bool,
        from_leader: bool,
    },
    /// What PostgreSQL is set to and where from, as JSON. `trusted`: for who may change it.
    Settings {
        trusted: bool,
    },
    /// Move the cluster to the store that the move of this id prepared.
    MoveStore(String),
    /// Take a step now: something was written to the store on behalf of a client.
    Wake,
}

#[derive(Clone)]
pub struct AgentHandle {
    pub published: Arc<ArcSwap<Published>>,
    /// Counts the replacements of `published`, to wait for the next one.
    pub changed: watch::Receiver<u64>,
    pub requests: mpsc::Sender<(Request, oneshot::Sender<Reply>)>,
    /// Asks PostgreSQL now; concurrent callers share one query, and it never takes over two seconds.
    pub observe: Arc<dyn Fn() -> surus_store::Fut<'static, Option<Arc<Observed>>> + Send + Sync>,
    pub store: Arc<ClusterStore>,
    /// The journal of decisions; absent when it is switched off.
    pub journal: Option<surus_journal::Handle>,
    /// Where loss receipts are.
    pub loss: std::path::PathBuf,
    /// This member's part in moves to another store; absent where nobody may ask for one.
    pub migrator: Option<Arc<crate::migrate::Migrator>>,
    /// The boot-time clock.
    pub now: fn() -> BootTime,
}

impl AgentHandle {
    pub fn now(&self) -> BootTime {
        (self.now)()
    }

    pub fn read(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Nothing when the agent ends before it answers.
    pub async fn ask(&self, request: Request) -> Option<Reply> {
        let (tx, rx) = oneshot::channel();
        self.requests.send((request, tx)).await.ok()?;
        rx.await.ok()
    }
}

impl Published {
    /// The leader flag of the REST API: true while the lease is certainly held.
    pub fn is_leader(&self, now: BootTime) -> bool {
        self.lease_until.is_some_and(|until| now < until)
    }

    /// Where a member that vouches has got to, for the primary's slots.
    pub fn position(&self) -> Option<Lsn> {
        self.observed.as_ref().map(|o| o.position()).filter(|at| at.is_valid())
    }

    /// The last reading of the store, unless it is older than the TTL.
    pub fn usable_view(&self, now: BootTime) -> Option<&Arc<ClusterView>> {
        self.view.as_ref().filter(|(_, at)| now.since(*at) < self.settings.timing.ttl).map(|(v, _)| v)
    }
}
