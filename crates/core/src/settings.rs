//! The part of the dynamic configuration that decisions are made on (`spec/ha.md §2`).
//!
//! `surus-config` reads it from the `config` key; the rest of that document (server parameters,
//! `pg_hba` and so on) never reaches a decision.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::Upstream;
use crate::slots::Room;

/// Lease and loop timing. Always satisfies `loop_wait + 2 * retry_timeout <= ttl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub ttl: Duration,
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SynchronousMode {
    Off,
    On,
    Quorum,
}

/// How much of a disk is to stay free: a share of it, but not more nor less than so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    pub percent: u8,
    pub least: u64,
    pub most: u64,
}

impl Reserve {
    pub const OFF: Reserve = Reserve { percent: 0, least: 0, most: 0 };

    pub fn bytes(&self, total: u64) -> u64 {
        (total / 100 * u64::from(self.percent)).min(self.most).max(self.least)
    }
}

/// What is done before the disk of the log is full, which ends a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGuard {
    /// Less than this is told.
    pub warn: Reserve,
    /// Less than this, and a member with more room is to lead.
    pub switchover: Reserve,
    /// Slots of members that are away go when it is told.
    pub drop_absent_slots: bool,
}

impl DiskGuard {
    /// What operators should see of a disk: the limit that it is below. Not how much is free, which changes all the time.
    pub fn remark(&self, room: Room) -> Option<String> {
        let below = |reserve: Reserve| room.free < reserve.bytes(room.total);
        let told = |what: &str, key: &str, reserve: Reserve| {
            let (limit, total) = (reserve.bytes(room.total) >> 20, room.total >> 20);
            format!("{what}: less than {limit} of {total} MB free (disk_guard.{key})")
        };
        if below(self.switchover) {
            return Some(told("nearly full", "switchover", self.switchover));
        }
        below(self.warn).then(|| told("low", "warn", self.warn))
    }
}

impl Default for DiskGuard {
    /// The least is a few segments: a handover writes some log itself.
    fn default() -> Self {
        DiskGuard {
            warn: Reserve { percent: 10, least: 128 << 20, most: 20 << 30 },
            switchover: Reserve { percent: 3, least: 64 << 20, most: 5 << 30 },
            drop_absent_slots: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    pub timing: Timing,
    pub maximum_lag_on_failover: u64,
    pub check_timeline: bool,
    pub primary_start_timeout: Duration,
    /// Only in force in synchronous mode; zero means no limit.
    pub primary_stop_timeout: Duration,
    /// How long a standby whose primary still sends leaves a free lead alone; zero: not at all.
    #[serde(default)]
    pub primary_race_backoff: Duration,
    #[serde(default)]
    pub disk_guard: DiskGuard,
    pub synchronous_mode: SynchronousMode,
    pub synchronous_mode_strict: bool,
    pub synchronous_node_count: u32,
    #[serde(default)]
    pub maximum_lag_on_syncnode: Option<u64>,
    pub failsafe_mode: bool,
    pub pause: bool,
    pub max_timelines_history: u32,
    pub member_slots_ttl: Duration,
    pub use_slots: bool,
    pub use_pg_rewind: bool,
    pub remove_data_directory_on_rewind_failure: bool,
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Some replica creation method needs no running member.
    #[serde(default)]
    pub no_leader_methods: bool,
    /// `standby_cluster` names an upstream: this cluster is not to have a primary of its own.
    pub standby_cluster: bool,
    /// What the leader of a standby cluster streams from. Absent: it has an archive only.
    #[serde(default)]
    pub remote: Option<Upstream>,
    /// The slot that it uses there.
    #[serde(default)]
    pub remote_slot: Option<String>,
}

impl Default for ClusterSettings {
    /// What a stored document that leaves everything out means, which is what Patroni members in
    /// the same cluster read into it. A *new* cluster gets the faster timing of `NEW_CLUSTER`.
    fn default() -> Self {
        Self {
            timing: Timing::PATRONI,
            maximum_lag_on_failover: 1_048_576,
            check_timeline: false,
            primary_start_timeout: Duration::from_secs(300),
            primary_stop_timeout: Duration::ZERO,
            primary_race_backoff: Duration::ZERO,
            disk_guard: DiskGuard::default(),
            synchronous_mode: SynchronousMode::Off,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            maximum_lag_on_syncnode: None,
            failsafe_mode: false,
            pause: false,
            max_timelines_history: 0,
            member_slots_ttl: Duration::from_secs(1800),
            use_slots: true,
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            no_leader_methods: false,
            standby_cluster: false,
            remote: None,
            remote_slot: None,
        }
    }
}

impl Timing {
    pub const PATRONI: Timing = Timing {
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(10),
        retry_timeout: Duration::from_secs(10),
    };

    /// Written by a member that initialises a cluster whose `bootstrap.dcs` leaves timing out.
    pub const NEW_CLUSTER: Timing = Timing {
        ttl: Duration::from_secs(8),
        loop_wait: Duration::from_secs(2),
        retry_timeout: Duration::from_secs(3),
    };

    pub const MIN_TTL: Duration = Duration::from_secs(5);
    pub const MIN_LOOP_WAIT: Duration = Duration::from_secs(1);
    pub const MIN_RETRY_TIMEOUT: Duration = Duration::from_secs(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_disk() {
        let guard = DiskGuard::default();
        let told = |free: u64| guard.remark(Room { free: free << 20, total: 4000 << 20 });
        assert_eq!(told(500), None);
        assert_eq!(told(399).as_deref(), Some("low: less than 400 of 4000 MB free (disk_guard.warn)"));
        assert_eq!(told(120).as_deref(), Some("low: less than 400 of 4000 MB free (disk_guard.warn)"));
        assert_eq!(told(119).as_deref(), Some("nearly full: less than 120 of 4000 MB free (disk_guard.switchover)"));
        let off = DiskGuard { warn: Reserve::OFF, switchover: Reserve::OFF, drop_absent_slots: false };
        assert_eq!(off.remark(Room { free: 0, total: 4000 << 20 }), None);
    }
}
