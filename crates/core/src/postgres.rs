//! What can be seen of one PostgreSQL instance. `surus-postgres` observes it, decisions read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::PendingRestart;
use crate::ids::{Lsn, SystemId, Timeline};
use crate::time::BootTime;

/// Settings that steer recovery (`spec/config.md §8.3`): they have a block of their own in a standby's configuration,
/// never come from the general parameters, and say nothing to a server that is out of recovery.
pub const RECOVERY_SETTINGS: [&str; 18] = [
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "standby_mode",
    "trigger_file",
];

/// The state field of `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControlState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlData {
    pub system_id: SystemId,
    pub state: ControlState,
    /// Timeline and position of the latest checkpoint record (not its REDO location).
    pub checkpoint_timeline: Timeline,
    pub checkpoint_lsn: Lsn,
    pub min_recovery_timeline: Option<Timeline>,
    pub min_recovery_lsn: Lsn,
    pub data_checksums: bool,
    pub wal_log_hints: bool,
    /// What was written so cannot be recovered as a standby.
    #[serde(default)]
    pub wal_level_minimal: bool,
    #[serde(default = "default_wal_segment")]
    pub wal_segment: u64,
    /// `max_connections` and the like as the server last ran with them; a standby may not start with less.
    pub limits: BTreeMap<String, i64>,
}

fn default_wal_segment() -> u64 {
    16 << 20
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataDir {
    /// Missing, or nothing in it but dot files and `lost+found`.
    Empty,
    /// An initialised cluster.
    Present { major_version: u32, standby_signal: bool, control: ControlData },
    /// Not to be touched: something is there that is no usable cluster, and why.
    Foreign(String),
    /// Could not be looked at (I/O error, permissions).
    Unreadable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessState {
    NotRunning,
    /// The postmaster lives and refuses connections: starting, recovering, or stopping.
    NotAccepting,
    Accepting,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalReceiver {
    /// `streaming`, `waiting`, ...
    pub status: String,
    pub received_timeline: Option<Timeline>,
    pub sender_host: Option<String>,
    pub sender_port: Option<u16>,
    pub slot_name: Option<String>,
    pub latest_end_lsn: Option<Lsn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSender {
    pub pid: i32,
    pub user: Option<String>,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
    pub sync_priority: i32,
    pub sent_lsn: Option<Lsn>,
    pub write_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub name: String,
    pub logical: bool,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    pub has_xmin: bool,
    pub wal_status: Option<String>,
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// Since PostgreSQL 17: the servers themselves bring it to standbys that synchronise slots.
    #[serde(default)]
    pub failover: bool,
    /// On a standby: brought there by the server, and neither to be moved nor dropped. Stays set after a promotion.
    #[serde(default)]
    pub synced: bool,
}

/// One consistent answer of the running server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// When the query was sent.
    pub at: BootTime,
    pub server_version: u32,
    /// As `pg_postmaster_start_time()` prints it, `YYYY-MM-DD HH:MM:SS.ffffff+ZZ:ZZ`.
    pub postmaster_start_time: String,
    pub in_recovery: bool,
    /// Primary: of the WAL being written. Standby: of the WAL being received, else last replayed.
    pub timeline: Option<Timeline>,
    /// Standby: of the record at `replay_lsn`, where that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_timeline: Option<Timeline>,
    /// Flushed position of a primary; invalid on a standby.
    pub flush_lsn: Lsn,
    /// Processes that wait for WAL beyond that to be written or forced to disk.
    #[serde(default)]
    pub flush_waiters: u32,
    /// Highest position received (written by the WAL receiver counts); invalid on a primary.
    pub receive_lsn: Lsn,
    pub replay_lsn: Lsn,
    /// Text of `pg_last_xact_replay_timestamp()`.
    pub replay_timestamp: Option<String>,
    pub replay_paused: bool,
    pub receiver: Option<WalReceiver>,
    pub senders: Vec<WalSender>,
    pub slots: Vec<Slot>,
    pub primary_conninfo: Option<String>,
    pub primary_slot_name: Option<String>,
    pub restore_command: Option<String>,
    pub synchronous_standby_names: String,
    #[serde(default)]
    pub synchronous_commit: String,
    pub pending_restart: BTreeMap<String, PendingRestart>,
}

impl Observed {
    /// The position that counts in a leader race.
    pub fn position(&self) -> Lsn {
        if self.in_recovery { self.receive_lsn.max(self.replay_lsn) } else { self.flush_lsn }
    }

    pub fn is_streaming(&self) -> bool {
        self.receiver.as_ref().is_some_and(|r| r.status == "streaming")
    }

    /// The word published in the member key.
    pub fn replication_state(&self) -> Option<&'static str> {
        if !self.in_recovery {
            None
        } else if self.is_streaming() {
            Some("streaming")
        } else if self.restore_command.as_deref().is_some_and(|c| !c.is_empty()) {
            Some("in archive recovery")
        } else {
            None
        }
    }
}

/// How far a long operation on the data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// For example `copying from node1`.
    pub what: String,
    pub done_bytes: u64,
    pub total_bytes: Option<u64>,
    pub eta_seconds: Option<u64>,
}

impl Progress {
    pub fn percent(&self) -> Option<u8> {
        let total = self.total_bytes.filter(|t| *t > 0)?;
        u8::try_from((self.done_bytes.min(total)).saturating_mul(100) / total).ok()
    }
}
