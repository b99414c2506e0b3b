//! `GET /cluster` (`spec/rest-api.md §5.1`); the command line lists members from the same value.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use surus_core::cluster::{ClusterView, Member, MemberState, PendingRestart, ScheduledRestart, Tags};
use surus_core::settings::{ClusterSettings, SynchronousMode};
use surus_core::{Lsn, MemberName, Timeline};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterDocument {
    /// Sorted by name.
    pub members: Vec<ClusterMember>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_switchover: Option<ScheduledSwitchover>,
    pub scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduledSwitchover {
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<MemberName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterRole {
    Leader,
    StandbyLeader,
    QuorumStandby,
    SyncStandby,
    Replica,
}

impl ClusterRole {
    pub fn is_leader(self) -> bool {
        matches!(self, ClusterRole::Leader | ClusterRole::StandbyLeader)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMember {
    pub name: MemberName,
    pub role: ClusterRole,
    pub state: String,
    pub api_url: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub timeline: Option<Timeline>,
    pub pending_restart: bool,
    pub pending_restart_reason: BTreeMap<String, PendingRestart>,
    pub scheduled_restart: Option<ScheduledRestart>,
    pub tags: Tags,
    /// Absent while the fence works, and for members that have none.
    pub fence: Option<String>,
    /// Absent while the disk of its log has enough room.
    pub disk: Option<String>,
    /// Absent unless its log left that of the cluster.
    pub forked: Option<String>,
    /// Absent for the holder of the leader key.
    pub positions: Option<Positions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    pub receive: Option<Position>,
    pub replay: Option<Position>,
    /// The higher of both, also published by members too old for the other two.
    pub total: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub lsn: Lsn,
    /// Bytes behind the last known position of the leader.
    pub lag: u64,
}

impl Serialize for ClusterMember {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("role", &self.role)?;
        map.serialize_entry("state", &self.state)?;
        map.serialize_entry("api_url", &self.api_url)?;
        if let Some(host) = &self.host {
            map.serialize_entry("host", host)?;
        }
        if let Some(port) = &self.port {
            map.serialize_entry("port", port)?;
        }
        if let Some(timeline) = &self.timeline {
            map.serialize_entry("timeline", timeline)?;
        }
        if self.pending_restart {
            map.serialize_entry("pending_restart", &true)?;
        }
        if !self.pending_restart_reason.is_empty() {
            map.serialize_entry("pending_restart_reason", &self.pending_restart_reason)?;
        }
        if let Some(restart) = &self.scheduled_restart {
            map.serialize_entry("scheduled_restart", restart)?;
        }
        if !self.tags.0.is_empty() {
            map.serialize_entry("tags", &self.tags)?;
        }
        if let Some(fence) = &self.fence {
            map.serialize_entry("fence", fence)?;
        }
        if let Some(disk) = &self.disk {
            map.serialize_entry("disk", disk)?;
        }
        if let Some(forked) = &self.forked {
            map.serialize_entry("forked", forked)?;
        }
        if let Some(positions) = &self.positions {
            for (lag_key, lsn_key, position) in [
                ("receive_lag", "receive_lsn", positions.receive),
                ("replay_lag", "replay_lsn", positions.replay),
                ("lag", "lsn", positions.total),
            ] {
                match position {
                    Some(Position { lsn, lag }) => {
                        map.serialize_entry(lag_key, &lag)?;
                        map.serialize_entry(lsn_key, &lsn.to_string())?;
                    }
                    None => {
                        map.serialize_entry(lsn_key, "unknown")?;
                        map.serialize_entry(lag_key, "unknown")?;
                    }
                }
            }
        }
        map.end()
    }
}

pub fn cluster_document(scope: &str, view: &ClusterView, settings: &ClusterSettings) -> ClusterDocument {
    let scheduled_switchover = view.failover.as_ref().and_then(|failover| {
        let request = &failover.value;
        let at = request.scheduled_at.clone()?;
        Some(ScheduledSwitchover { at, from: request.leader.clone(), to: request.candidate.clone() })
    });
    ClusterDocument {
        members: view.members.values().map(|member| cluster_member(view, settings, member)).collect(),
        pause: settings.pause,
        scheduled_switchover,
        scope: scope.to_owned(),
    }
}

fn cluster_member(view: &ClusterView, settings: &ClusterSettings, member: &Member) -> ClusterMember {
    let leads = view.leader_name() == Some(&member.name);
    let role = member_role(view, settings, &member.name);
    let state = match (&member.replication_state, member.state) {
        (Some(state), _) if !state.is_empty() && role != ClusterRole::Leader => state.clone(),
        (_, MemberState::Unknown) => String::new(),
        (_, state) => state.as_str().to_owned(),
    };
    let end = view.status.optime;
    let position =
        |lsn: Option<Lsn>| lsn.filter(|lsn| lsn.is_valid()).map(|lsn| Position { lsn, lag: lsn.behind(end) });
    let upstream = member.upstream();
    ClusterMember {
        name: member.name.clone(),
        role,
        state,
        api_url: member.api_url.clone(),
        port: upstream.as_ref().map(|u| u.port),
        host: upstream.map(|u| u.host),
        timeline: member.timeline,
        pending_restart: member.pending_restart,
        pending_restart_reason: member.pending_restart_reason.clone(),
        scheduled_restart: member.scheduled_restart.clone(),
        tags: member.tags.clone(),
        fence: member.fence.clone(),
        disk: member.disk.clone(),
        forked: member.forked.clone(),
        positions: (!leads).then(|| Positions {
            receive: position(member.receive_lsn),
            replay: position(member.replay_lsn),
            total: position(member.xlog_location),
        }),
    }
}

fn member_role(view: &ClusterView, settings: &ClusterSettings, name: &MemberName) -> ClusterRole {
    if view.leader_name() == Some(name) {
        return if settings.standby_cluster { ClusterRole::StandbyLeader } else { ClusterRole::Leader };
    }
    let listed = view.sync.as_ref().is_some_and(|sync| sync.value.lists(name));
    match settings.synchronous_mode {
        SynchronousMode::Quorum if listed => ClusterRole::QuorumStandby,
        SynchronousMode::On if listed => ClusterRole::SyncStandby,
        _ => ClusterRole::Replica,
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::RawKey;

    use super::*;
    use crate::to_python_json;

    fn view(keys: &[(&str, &str)]) -> ClusterView {
        let raws: Vec<RawKey> = keys
            .iter()
            .map(|(key, value)| RawKey { key: (*key).into(), value: (*value).into(), version: 1, lease: None })
            .collect();
        ClusterView::read(1, &raws)
    }

    const PG0: &str = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.1.4","xlog_location":67108864,"timeline":3,"tags":{"clonefrom":true}}"#;
    const PG1: &str = r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":67108864,"receive_lsn":67108864,"replay_lsn":64116032,"replication_state":"streaming","timeline":3,"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"}},"scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00","postmaster_start_time":"2026-07-24 10:00:00+00:00"}}"#;
    const PG2: &str = r#"{"conn_url":"postgres://127.0.0.1:5434/postgres","api_url":"http://127.0.0.1:8010/patroni","state":"stopped","role":"replica","version":"4.1.4"}"#;

    #[test]
    fn three_members_and_a_scheduled_switchover() {
        let view = view(&[
            ("leader", "pg0"),
            ("members/pg2", PG2),
            ("members/pg0", PG0),
            ("members/pg1", PG1),
            ("status", r#"{"optime":67108864}"#),
            ("failover", r#"{"leader":"pg0","member":"pg1","scheduled_at":"2030-01-01T12:00:00+00:00"}"#),
            ("sync", r#"{"leader":"pg0","sync_standby":"PG1"}"#),
        ]);
        let settings =
            ClusterSettings { pause: true, synchronous_mode: SynchronousMode::On, ..ClusterSettings::default() };
        let expected = r#"{"members": [{"name": "pg0", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:8008/patroni", "host": "127.0.0.1", "port": 5432, "timeline": 3, "tags": {"clonefrom": true}}, {"name": "pg1", "role": "sync_standby", "state": "streaming", "api_url": "http://127.0.0.1:8009/patroni", "host": "127.0.0.1", "port": 5433, "timeline": 3, "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}}, "scheduled_restart": {"schedule": "2030-01-01T00:00:00+00:00", "postmaster_start_time": "2026-07-24 10:00:00+00:00"}, "receive_lag": 0, "receive_lsn": "0/4000000", "replay_lag": 2992832, "replay_lsn": "0/3D25540", "lag": 0, "lsn": "0/4000000"}, {"name": "pg2", "role": "replica", "state": "stopped", "api_url": "http://127.0.0.1:8010/patroni", "host": "127.0.0.1", "port": 5434, "receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown", "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown"}], "pause": true, "scheduled_switchover": {"at": "2030-01-01T12:00:00+00:00", "from": "pg0", "to": "pg1"}, "scope": "batman"}"#;
        assert_eq!(to_python_json(&cluster_document("batman", &view, &settings)).unwrap(), expected);
    }

    #[test]
    fn roles_follow_the_settings() {
        let view = view(&[
            ("leader", "pg0"),
            ("members/pg1", PG1),
            ("sync", r#"{"leader":"pg0","sync_standby":"pg0,pg1","quorum":1}"#),
        ]);
        let roles = |settings: &ClusterSettings| {
            cluster_document("x", &view, settings).members.iter().map(|m| m.role).collect::<Vec<_>>()
        };
        let with = |synchronous_mode, standby_cluster| ClusterSettings {
            synchronous_mode,
            standby_cluster,
            ..ClusterSettings::default()
        };
        use ClusterRole::*;
        assert_eq!(roles(&with(SynchronousMode::Quorum, false)), [Leader, QuorumStandby]);
        assert_eq!(roles(&with(SynchronousMode::On, false)), [Leader, SyncStandby]);
        assert_eq!(roles(&with(SynchronousMode::Off, true)), [StandbyLeader, Replica]);
    }

    #[test]
    fn without_a_leader_every_member_has_positions_and_a_ghost_leader_has_no_address() {
        let leaderless = cluster_document("x", &view(&[("members/pg0", PG0)]), &ClusterSettings::default());
        assert!(leaderless.members[0].positions.is_some());
        let ghost = cluster_document("x", &view(&[("leader", "ghost")]), &ClusterSettings::default());
        assert_eq!(
            to_python_json(&ghost).unwrap(),
            r#"{"members": [{"name": "ghost", "role": "leader", "state": "", "api_url": null}], "scope": "x"}"#
        );
    }
}
