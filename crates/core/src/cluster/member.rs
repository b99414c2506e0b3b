use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{Lsn, MemberName, Timeline};

/// What a member says its PostgreSQL is doing; the order is the number in `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum MemberState {
    #[serde(rename = "initializing new cluster")]
    InitializingNewCluster,
    #[serde(rename = "initdb failed")]
    InitdbFailed,
    #[serde(rename = "running custom bootstrap script")]
    RunningCustomBootstrap,
    #[serde(rename = "custom bootstrap failed")]
    CustomBootstrapFailed,
    #[serde(rename = "creating replica")]
    CreatingReplica,
    #[serde(rename = "running")]
    Running,
    #[serde(rename = "starting")]
    Starting,
    #[serde(rename = "starting after custom bootstrap")]
    StartingAfterCustomBootstrap,
    #[serde(rename = "start failed")]
    StartFailed,
    #[serde(rename = "restarting")]
    Restarting,
    #[serde(rename = "restart failed")]
    RestartFailed,
    #[serde(rename = "stopping")]
    Stopping,
    #[serde(rename = "stopped")]
    Stopped,
    #[serde(rename = "stop failed")]
    StopFailed,
    #[serde(rename = "crashed")]
    Crashed,
    #[default]
    #[serde(other, rename = "unknown")]
    Unknown,
}

impl MemberState {
    pub const ALL: [MemberState; 15] = [
        MemberState::InitializingNewCluster,
        MemberState::InitdbFailed,
        MemberState::RunningCustomBootstrap,
        MemberState::CustomBootstrapFailed,
        MemberState::CreatingReplica,
        MemberState::Running,
        MemberState::Starting,
        MemberState::StartingAfterCustomBootstrap,
        MemberState::StartFailed,
        MemberState::Restarting,
        MemberState::RestartFailed,
        MemberState::Stopping,
        MemberState::Stopped,
        MemberState::StopFailed,
        MemberState::Crashed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::InitializingNewCluster => "initializing new cluster",
            MemberState::InitdbFailed => "initdb failed",
            MemberState::RunningCustomBootstrap => "running custom bootstrap script",
            MemberState::CustomBootstrapFailed => "custom bootstrap failed",
            MemberState::CreatingReplica => "creating replica",
            MemberState::Running => "running",
            MemberState::Starting => "starting",
            MemberState::StartingAfterCustomBootstrap => "starting after custom bootstrap",
            MemberState::StartFailed => "start failed",
            MemberState::Restarting => "restarting",
            MemberState::RestartFailed => "restart failed",
            MemberState::Stopping => "stopping",
            MemberState::Stopped => "stopped",
            MemberState::StopFailed => "stop failed",
            MemberState::Crashed => "crashed",
            MemberState::Unknown => "unknown",
        }
    }

    /// The number under which `/metrics` shows it.
    pub fn metric(self) -> i64 {
        Self::ALL.iter().position(|s| *s == self).map_or(-1, |i| i64::try_from(i).unwrap_or(-1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    #[serde(alias = "master")]
    Primary,
    Replica,
    StandbyLeader,
    /// Promotion was ordered and is not finished.
    Promoted,
    Demoted,
    Uninitialized,
    #[default]
    #[serde(other)]
    Unknown,
}

impl MemberRole {
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Primary => "primary",
            MemberRole::Replica => "replica",
            MemberRole::StandbyLeader => "standby_leader",
            MemberRole::Promoted => "promoted",
            MemberRole::Demoted => "demoted",
            MemberRole::Uninitialized => "uninitialized",
            MemberRole::Unknown => "unknown",
        }
    }
}

/// Tags as published. The typed getters give each its meaning (`spec/dcs.md §2.4`).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub Map<String, Value>);

impl Tags {
    fn truthy(&self, key: &str) -> Option<bool> {
        self.0.get(key).map(|v| match v {
            Value::Null => false,
            Value::Bool(b) => *b,
            Value::Number(n) => n.as_f64() != Some(0.0),
            // A quoted "false" counts as set for peers; see docs on tags.
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
        })
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.0.get(key).and_then(|v| v.as_i64().or_else(|| v.as_str()?.trim().parse().ok()))
    }

    pub fn nofailover(&self) -> bool {
        self.truthy("nofailover").unwrap_or_else(|| self.int("failover_priority").unwrap_or(1) <= 0)
    }

    pub fn failover_priority(&self) -> i64 {
        match self.truthy("nofailover") {
            Some(true) => 0,
            _ => self.int("failover_priority").unwrap_or(1),
        }
    }

    pub fn nosync(&self) -> bool {
        self.truthy("nosync").unwrap_or_else(|| self.int("sync_priority").unwrap_or(1) <= 0)
    }

    pub fn sync_priority(&self) -> i64 {
        if self.nosync() { 0 } else { self.int("sync_priority").unwrap_or(1) }
    }

    pub fn noloadbalance(&self) -> bool {
        self.truthy("noloadbalance").unwrap_or(false)
    }

    pub fn clonefrom(&self) -> bool {
        self.truthy("clonefrom").unwrap_or(false)
    }

    pub fn nostream(&self) -> bool {
        match self.0.get("nostream") {
            Some(Value::String(s)) => matches!(s.to_lowercase().as_str(), "on" | "true" | "yes" | "1"),
            _ => self.truthy("nostream").unwrap_or(false),
        }
    }

    pub fn replicatefrom(&self) -> Option<MemberName> {
        self.0.get("replicatefrom").and_then(Value::as_str).filter(|s| !s.is_empty()).map(MemberName::from)
    }

    /// Of a member that is about to stop and asks the leader to wait for another.
    pub fn off_duty(&self) -> Tags {
        let mut tags = self.0.clone();
        tags.insert("nosync".into(), Value::Bool(true));
        tags.insert("sync_priority".into(), Value::from(0));
        Tags(tags)
    }

    /// What is published of configured tags: the well-known switches only when they are on.
    pub fn published(&self) -> Tags {
        let mut tags = self.0.clone();
        for (key, keep_with) in [
            ("clonefrom", None),
            ("nofailover", Some("failover_priority")),
            ("noloadbalance", None),
            ("nosync", Some("sync_priority")),
            ("nostream", None),
        ] {
            let kept = keep_with.is_some_and(|other| self.0.contains_key(other));
            if !kept && self.truthy(key) == Some(false) {
                tags.retain(|k, _| k != key);
            }
        }
        Tags(tags)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRestart {
    pub old_value: String,
    pub new_value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScheduledRestart {
    pub schedule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    #[serde(flatten)]
    pub filters: Map<String, Value>,
}

/// Where a server can be reached for replication: a member, from its `conn_url`, or the remote node of a standby cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Upstream {
    pub name: MemberName,
    /// Of a remote node it may be several, separated by commas.
    pub host: String,
    pub port: u16,
    /// It belongs to another cluster, which this one follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remote: bool,
}

impl Upstream {
    pub fn remote(host: &str, port: u16) -> Upstream {
        Upstream { name: MemberName(format!("{host}:{port}")), host: host.to_owned(), port, remote: true }
    }

    /// One for each host.
    pub fn each(&self) -> impl Iterator<Item = Upstream> {
        self.host.split(',').map(|host| Upstream { host: host.trim().to_owned(), ..self.clone() })
    }
}

/// A `members/<name>` key. Field order is the order it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    #[serde(skip)]
    pub name: MemberName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    #[serde(default)]
    pub state: MemberState,
    #[serde(default)]
    pub role: MemberRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    #[serde(default, skip_serializing_if = "no_tags")]
    pub tags: Tags,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// `Some(false)` while the checkpoint after a promotion is outstanding: peers postpone `pg_rewind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, PendingRestart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<ScheduledRestart>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub pause: bool,
    /// Not known to Patroni: what operators should know of the fence. Absent while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<String>,
    /// Not known to Patroni: loss receipts that nobody has acknowledged. Absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Not known to Patroni: the disk of its log has less free than `disk_guard` asks for. Absent while it has enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Not known to Patroni: how its log left that of the cluster, so that it does not run for the lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked: Option<String>,
    /// Not known to Patroni: our version. Absent in the key of a member that Patroni drives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surus: Option<String>,
}

fn no_tags(tags: &Tags) -> bool {
    tags.0.is_empty()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(b: &bool) -> bool {
    !*b
}

impl Member {
    /// Its key was written by another program that lives in the same cluster.
    pub fn is_foreign(&self) -> bool {
        self.api_url.is_some() && self.surus.is_none()
    }

    /// A member of which only the name is known.
    pub fn unknown(name: MemberName) -> Member {
        Member { name, ..Member::default() }
    }

    pub fn parse(name: MemberName, text: &str) -> Result<Member, String> {
        // Before JSON the value was the connection URL, with the API's URL in a query parameter.
        if text.starts_with("postgres") {
            let (conn, query) = text.split_once('?').unwrap_or((text, ""));
            let api_url = query.split('&').find_map(|kv| kv.strip_prefix("application_name=")).map(str::to_owned);
            return Ok(Member { conn_url: Some(conn.to_owned()), api_url, ..Member::unknown(name) });
        }
        if text.starts_with('{')
            && let Ok(member) = serde_json::from_str::<Member>(text)
        {
            return Ok(Member { name, timeline: member.timeline.filter(|t| t.0 != 0), ..member });
        }
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON ({e})"))?;
        let Value::Object(map) = value else { return Err("is JSON but not an object".into()) };
        // Field by field, so that one field of the wrong type does not hide the others.
        let mut member = Member::unknown(name.clone());
        let mut kept = Map::new();
        for (key, value) in map {
            let mut probe = kept.clone();
            probe.insert(key.clone(), value.clone());
            if let Ok(m) = serde_json::from_value::<Member>(Value::Object(probe.clone())) {
                kept = probe;
                member = Member { name: name.clone(), ..m };
            } else if key == "timeline" || key == "pending_restart" {
                continue;
            } else {
                return Err(format!("has a field \"{key}\" of the wrong type: {}", super::clip(&value.to_string())));
            }
        }
        member.timeline = member.timeline.filter(|t| t.0 != 0);
        Ok(member)
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Host and port for replication and SQL, if it published them.
    pub fn upstream(&self) -> Option<Upstream> {
        let rest = self.conn_url.as_deref()?.split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?.rsplit('@').next()?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, tail) = v6.split_once(']')?;
                (host, tail.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Some(5432), |p| p.parse().ok())?;
        (!host.is_empty()).then(|| Upstream { name: self.name.clone(), host: host.to_owned(), port, remote: false })
    }

    pub fn is_running(&self) -> bool {
        self.state == MemberState::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_peers_read() {
        let text = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"replica","version":"4.1.4","tags":{"nosync":true},"xlog_location":50331744,"receive_lsn":50331744,"replay_lsn":50331744,"replication_state":"streaming","timeline":2}"#;
        let member = Member::parse("a".into(), text).unwrap();
        assert_eq!(member.to_text(), text);
        assert_eq!(
            member.upstream(),
            Some(Upstream { name: "a".into(), host: "10.0.0.1".into(), port: 5432, remote: false })
        );
        assert!(member.tags.nosync());
    }

    #[test]
    fn tolerates_legacy_and_strange_values() {
        let old = Member::parse("a".into(), "postgres://h:5433/x?application_name=http://h:8008/patroni").unwrap();
        assert_eq!(old.api_url.as_deref(), Some("http://h:8008/patroni"));
        assert_eq!(old.upstream().map(|u| u.port), Some(5433));
        let odd =
            Member::parse("a".into(), r#"{"state":"levitating","role":"emperor","timeline":"x","new_field":[1]}"#)
                .unwrap();
        assert_eq!((odd.state, odd.role, odd.timeline), (MemberState::Unknown, MemberRole::Unknown, None));
        assert!(Member::parse("a".into(), r#"{"conn_url":7}"#).is_err());
        let v6 = Member { conn_url: Some("postgres://[fe80::1]:5400/postgres".into()), ..Member::default() };
        assert_eq!(v6.upstream().map(|u| (u.host, u.port)), Some(("fe80::1".into(), 5400)));
    }

    #[test]
    fn tag_pairs() {
        let tags = |json: &str| serde_json::from_str::<Tags>(json).unwrap();
        for (json, nofailover, priority) in [
            ("{}", false, 1),
            (r#"{"nofailover":true}"#, true, 0),
            (r#"{"failover_priority":0}"#, true, 0),
            (r#"{"failover_priority":"2"}"#, false, 2),
            (r#"{"nofailover":false,"failover_priority":0}"#, false, 0),
            (r#"{"nofailover":true,"failover_priority":5}"#, true, 0),
        ] {
            assert_eq!((tags(json).nofailover(), tags(json).failover_priority()), (nofailover, priority), "{json}");
        }
        let published =
            tags(r#"{"clonefrom":false,"nosync":false,"sync_priority":1,"nofailover":false,"x":false}"#).published();
        assert_eq!(serde_json::to_string(&published).unwrap(), r#"{"nosync":false,"sync_priority":1,"x":false}"#);
    }

    #[test]
    fn states_have_the_numbers_of_the_contract() {
        for (i, state) in MemberState::ALL.iter().enumerate() {
            assert_eq!(state.metric(), i64::try_from(i).unwrap());
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{}\"", state.as_str()));
        }
        assert_eq!(MemberState::Unknown.metric(), -1);
    }
}
