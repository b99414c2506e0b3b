use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use surus_core::cluster::{HistoryEntry, PendingRestart, Upstream};
use surus_core::postgres::{DataDir, Observed, ProcessState, Progress};
use surus_core::{Lsn, Timeline};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{ErrorKind, InstanceConfig, PgError, Result, StartAs};

fn later<T>() -> Result<T> {
    Err(PgError::new(ErrorKind::Refused, "not built yet"))
}

/// One running postmaster, named by pid and start time so that a reused pid is never taken for it.
#[derive(Clone, Debug)]
pub struct Postmaster {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, clock ticks since boot.
    pub start_ticks: u64,
}

impl Postmaster {
    pub fn is_alive(&self) -> bool {
        false
    }
    pub async fn exited(&self) {}
    pub fn signal(&self, _signal: rustix::process::Signal) -> Result<()> {
        later()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    Fast,
    Immediate,
    Smart,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    NotRunning,
    Exited {
        took: Duration,
    },
    /// Still running; nothing more was done.
    TimedOut,
}

#[derive(Clone, Debug)]
pub struct Started {
    pub postmaster: Postmaster,
    pub took: Duration,
    /// Settings a standby was started with above the configured ones, because its primary ran with more.
    pub raised: BTreeMap<String, PendingRestart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowOutcome {
    Unchanged,
    Reloaded,
    /// The files are written; only a restart brings them into force.
    RestartNeeded,
}

/// Where this server ended (`spec/postgres.md §8.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPosition {
    pub timeline: Timeline,
    pub checkpoint: Lsn,
    /// The position to publish: before the WAL switch that a shutdown with archiving writes.
    pub publish: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Can follow as it is.
    None,
    /// On a timeline the upstream does not have.
    Ahead { local: Timeline, upstream: Timeline },
    /// Has WAL behind the point where the upstream's timeline left ours.
    Forked { timeline: Timeline, switchpoint: Lsn, local: Lsn },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub unit: Option<String>,
    pub vartype: String,
    pub context: String,
    pub source_file: Option<String>,
    pub pending_restart: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    pub created: Vec<String>,
    pub dropped: Vec<String>,
    pub advanced: Vec<String>,
    /// Unwanted, but in use.
    pub still_active: Vec<String>,
}

/// A handle on one instance; clones share everything.
#[derive(Clone)]
pub struct Instance {
    config: Arc<RwLock<Arc<InstanceConfig>>>,
}

impl Instance {
    pub fn new(config: InstanceConfig) -> Instance {
        Instance { config: Arc::new(RwLock::new(Arc::new(config))) }
    }
    pub fn config(&self) -> Arc<InstanceConfig> {
        self.config.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
    pub fn set_config(&self, config: InstanceConfig) {
        *self.config.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(config);
    }

    pub async fn data_dir(&self) -> DataDir {
        DataDir::Empty
    }
    /// `server_version_num` style of the installed programs.
    pub async fn binaries_version(&self) -> Result<u32> {
        later()
    }
    pub async fn process(&self) -> Option<Postmaster> {
        None
    }
    pub async fn orphans(&self) -> Result<Vec<i32>> {
        later()
    }
    /// Returns how many were ended.
    pub async fn kill_orphans(&self) -> Result<usize> {
        later()
    }
    pub async fn accepting(&self, _timeout: Duration) -> ProcessState {
        ProcessState::NotRunning
    }
    pub async fn observe(&self, _timeout: Duration) -> Result<Observed> {
        later()
    }
    pub async fn initdb(&self, _cancel: &CancellationToken) -> Result<()> {
        later()
    }
    pub async fn write_config(&self, _role: &StartAs) -> Result<()> {
        later()
    }
    pub async fn start(&self, _role: &StartAs, _timeout: Duration) -> Result<Started> {
        later()
    }
    pub async fn stop(&self, _mode: StopMode, _timeout: Option<Duration>) -> Result<Stopped> {
        later()
    }
    /// Returns as soon as `pg_control` says `shut down` (the process may still be archiving), or the process is gone.
    pub async fn wait_shut_down(&self, _timeout: Duration) -> Result<()> {
        later()
    }
    pub async fn kill_hard(&self) -> Result<()> {
        later()
    }
    pub async fn shutdown_position(&self) -> Result<Option<ShutdownPosition>> {
        later()
    }
    pub async fn checkpoint(&self, _timeout: Duration) -> Result<()> {
        later()
    }
    pub async fn promote(&self) -> Result<()> {
        later()
    }
    /// The new timeline.
    pub async fn wait_promoted(&self, _timeout: Duration) -> Result<Timeline> {
        later()
    }
    pub async fn reload(&self) -> Result<()> {
        later()
    }
    pub async fn follow(&self, _upstream: Option<&Upstream>, _slot: Option<&str>) -> Result<FollowOutcome> {
        later()
    }
    pub async fn basebackup(
        &self,
        _from: &Upstream,
        _progress: &watch::Sender<Option<Progress>>,
        _cancel: &CancellationToken,
    ) -> Result<()> {
        later()
    }
    pub async fn divergence(&self, _upstream: &Upstream) -> Result<Divergence> {
        later()
    }
    pub async fn rewind(
        &self,
        _from: &Upstream,
        _progress: &watch::Sender<Option<Progress>>,
        _cancel: &CancellationToken,
    ) -> Result<()> {
        later()
    }
    /// Whether this data directory can be rewound (`wal_log_hints` or checksums), with the reason if not.
    pub async fn can_rewind(&self) -> Result<()> {
        later()
    }
    pub async fn crash_recover_single_user(&self, _cancel: &CancellationToken) -> Result<()> {
        later()
    }
    pub async fn move_data_dir_aside(&self) -> Result<PathBuf> {
        later()
    }
    pub async fn remove_data_dir(&self) -> Result<()> {
        later()
    }
    /// Superuser, replication and rewind users (`spec/postgres.md §13.3`).
    pub async fn create_roles(&self) -> Result<()> {
        later()
    }
    pub async fn post_bootstrap(&self, _command: &str, _cancel: &CancellationToken) -> Result<()> {
        later()
    }
    /// `wanted` are created. `advance` names wanted slots whose member streams from elsewhere. With `keep` given, our
    /// physical slots neither wanted nor in `keep` are dropped if inactive; without it nothing is dropped.
    pub async fn sync_member_slots(
        &self,
        _wanted: &BTreeSet<String>,
        _advance: &BTreeMap<String, Lsn>,
        _keep: Option<&BTreeSet<String>>,
    ) -> Result<SlotChanges> {
        later()
    }
    pub async fn timeline_history(&self, _timeline: Timeline) -> Result<Vec<HistoryEntry>> {
        later()
    }
    pub async fn settings(&self) -> Result<BTreeMap<String, Setting>> {
        later()
    }
    /// Runs one statement as the superuser; rows as text.
    pub async fn query(&self, _sql: &str, _timeout: Duration) -> Result<Vec<Vec<Option<String>>>> {
        later()
    }
}

/// Held for the life of an agent: no second agent on the same data directory.
#[derive(Debug)]
pub struct DataDirLock {
    _file: std::fs::File,
}

impl DataDirLock {
    pub fn acquire(_data_dir: &std::path::Path) -> Result<DataDirLock> {
        later()
    }
}
