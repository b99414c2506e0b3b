//! The status document of one member (`spec/rest-api.md §4`).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use surus_core::cluster::{MemberRole, MemberState, PendingRestart, ScheduledRestart, Tags};
use surus_core::postgres::Progress;
use surus_core::{Lsn, SystemId, Timeline};

/// Fields in the order they are put out. A false flag is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PatroniStatus {
    #[serde(default)]
    pub state: MemberState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    #[serde(default)]
    pub role: MemberRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog: Option<XlogStatus>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub quorum_standby: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync_standby: bool,
    /// `Some(None)` is put out as null: PostgreSQL answered, and the timeline is not known.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub timeline: Option<Option<Timeline>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replication: Vec<ReplicationConnection>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub pause: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cluster_unlocked: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub failsafe_mode_is_active: bool,
    /// Unix seconds of the last successful reading of the store; 0 before the first.
    #[serde(default)]
    pub dcs_last_seen: i64,
    #[serde(default, skip_serializing_if = "no_tags")]
    pub tags: Tags,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_system_identifier: Option<SystemId>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, PendingRestart>,
    #[serde(default)]
    pub patroni: AgentInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<ScheduledRestart>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub watchdog_failed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger_queue_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger_records_lost: Option<u64>,
    /// Not known to Patroni: how far a copy or the like is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Not known to Patroni: the name of the long operation that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// Positions in the log; which of them are there tells a standby from a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum XlogStatus {
    Standby { received_location: Lsn, replayed_location: Lsn, replayed_timestamp: Option<String>, paused: bool },
    Primary { location: Lsn },
}

/// One WAL sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationConnection {
    pub usename: Option<String>,
    pub application_name: String,
    /// Null for a connection over the socket.
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
    pub sync_priority: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub scope: String,
    #[serde(default)]
    pub name: String,
}

/// Tells a null from an absent field.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<Timeline>>, D::Error> {
    Option::<Timeline>::deserialize(d).map(Some)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(b: &bool) -> bool {
    !*b
}

fn no_tags(tags: &Tags) -> bool {
    tags.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_python_json;

    #[test]
    fn a_primary() {
        let text = r#"{"state": "running", "postmaster_start_time": "2026-07-24 10:00:00.123+00:00", "role": "primary", "server_version": 150020, "xlog": {"location": 50331744}, "timeline": 1, "replication": [{"usename": "replicator", "application_name": "node2", "client_addr": null, "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1721815200, "tags": {"x": false}, "database_system_identifier": "7277694203142172922", "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}}, "patroni": {"version": "4.1.4", "scope": "batman", "name": "node1"}}"#;
        let status: PatroniStatus = serde_json::from_str(text).unwrap();
        assert_eq!(to_python_json(&status).unwrap(), text);
    }

    #[test]
    fn a_standby_with_an_unknown_timeline() {
        let text = r#"{"state": "running", "role": "replica", "xlog": {"received_location": 7, "replayed_location": 6, "replayed_timestamp": null, "paused": false}, "sync_standby": true, "timeline": null, "dcs_last_seen": 0, "patroni": {"version": "", "scope": "", "name": ""}}"#;
        let status: PatroniStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.timeline, Some(None));
        assert_eq!(to_python_json(&status).unwrap(), text);
    }

    #[test]
    fn a_stopped_member() {
        let status = PatroniStatus { state: MemberState::Stopped, role: MemberRole::Demoted, ..Default::default() };
        assert_eq!(
            to_python_json(&status).unwrap(),
            r#"{"state": "stopped", "role": "demoted", "dcs_last_seen": 0, "patroni": {"version": "", "scope": "", "name": ""}}"#
        );
    }
}
